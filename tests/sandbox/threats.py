"""Programs that try to break, stall or cheat a grader, and honest ones that graders get wrong, with their verdicts.

Every stdin program should read `5` and write `25`. Call and assert tests ask for `f(5) == 25`.
"""

from __future__ import annotations

from dataclasses import dataclass

from rltf.sandbox.verdict import Outcome

PASSED, FAILED, ERROR = Outcome.PASSED, Outcome.FAILED, Outcome.RUNTIME_ERROR
TIMEOUT, MEMORY, OUTPUT = Outcome.TIMEOUT, Outcome.MEMORY_LIMIT, Outcome.OUTPUT_LIMIT


@dataclass(frozen=True, slots=True)
class Threat:
    """A program with its acceptable outcomes, and its error's type and line if those are fixed."""

    name: str
    source: str
    outcomes: tuple[Outcome, ...]
    error_type: str | None = None
    error_line: int | None = None
    needs_scratch: bool = False


RESOURCES = (
    Threat("busy loop", "while True: pass", (TIMEOUT,)),
    Threat("sleep", "import time; time.sleep(1000)", (TIMEOUT,)),
    Threat("memory bit by bit", "x = []\nwhile True: x.append(bytearray(1 << 20))", (MEMORY,)),
    Threat("memory at once", "b = bytearray(10**11)", (MEMORY,), "MemoryError", 1),
    Threat("memory behind the limits of address space", "x = [bytearray(1 << 20) for _ in range(900)]", (MEMORY,)),
    Threat(
        "memory caught and denied",
        "x = []\ntry:\n  while True: x.append(bytearray(1 << 16))\nexcept MemoryError: print(25)",
        (MEMORY,),
    ),
    Threat("giant power", "print(9**9**9)", (TIMEOUT, MEMORY)),
    Threat("output by print", "while True: print('x' * 1000)", (OUTPUT,)),
    Threat("output by descriptor", "import os\nwhile True: os.write(1, b'x' * 65536)", (OUTPUT,)),
    Threat("standard error", "import sys\nwhile True: sys.stderr.write('x' * 1000)", (OUTPUT,)),
    Threat("sparse output", "import os\nos.lseek(1, 1 << 40, 0)\nos.write(1, b'x')", (OUTPUT, ERROR)),
    Threat("output grown by truncation", "import os\nos.ftruncate(1, 1 << 40)", (OUTPUT, ERROR)),
    Threat("fork bomb", "import os\nwhile True: os.fork()", (ERROR,), "PermissionError", 2),
    Threat("one fork", "import os\nos.fork()\nprint(25)", (ERROR,), "PermissionError", 2),
    Threat("subprocess", "import subprocess\nprint(subprocess.run(['/bin/echo', '25']))", (ERROR,)),
    Threat("multiprocessing", "import multiprocessing as m\nm.Pool(2)", (ERROR,)),
    Threat(
        "threads",
        "import threading, time\nfor i in range(10**5): threading.Thread(target=time.sleep, args=(100,)).start()",
        (ERROR, TIMEOUT),
    ),
    Threat(
        "descriptors",
        "import os\nf = [os.open('/tmp', 0) for _ in range(10**5)]",
        (ERROR,),
        "OSError",
        2,
        needs_scratch=True,
    ),
    Threat(
        "one large file",
        "f = open('/tmp/a', 'wb')\nwhile True: f.write(b'x' * (1 << 20))",
        (ERROR,),
        "OSError",
        2,
        needs_scratch=True,
    ),
    Threat(
        "many files",
        "for i in range(10**6): open('/tmp/%d' % i, 'wb').write(b'x' * 900000)",
        (ERROR,),
        "OSError",
        1,
        needs_scratch=True,
    ),
    Threat("many empty files", "for i in range(10**9): open('/tmp/%d' % i, 'wb').close()", (TIMEOUT, MEMORY, ERROR)),
    Threat("deep folders", "import os\nwhile True:\n  os.mkdir('d')\n  os.chdir('d')", (TIMEOUT, MEMORY, ERROR)),
    Threat(
        "folder without permissions",
        "import os\nos.mkdir('/tmp/d', 0)\nopen('/tmp/x', 'w')\nprint(0)",
        (FAILED,),
        needs_scratch=True,
    ),
    Threat("scratch made unusable", "import os\nos.chmod('/tmp', 0)\nprint(0)", (ERROR,), "PermissionError", 2),
    Threat("scratch removed", "import os\nos.rmdir('/tmp')\nprint(0)", (ERROR,)),
    Threat("recursion", "f = lambda n: f(n + 1)\nf(0)", (ERROR,), "RecursionError", 1),
    Threat(
        "recursion in C",
        "import sys\nsys.setrecursionlimit(10**9)\nf = lambda: sorted([1], key=lambda _: f())\nf()",
        (ERROR, MEMORY),
    ),
    Threat("regular expression", "import re\nre.match(r'(a+)+$', 'a' * 60 + 'b')", (TIMEOUT,)),
    Threat("one long call", "print(sum(range(10**13)))", (TIMEOUT,)),
    Threat("constant folding", "x = (1 << 100000000) * 0\nprint(25)", (PASSED,)),
    Threat("long integer to text", "print(10**5_000_000)", (TIMEOUT, OUTPUT)),
    Threat("nested source", "(" * 10000 + ")" * 10000, (Outcome.SYNTAX_ERROR,)),
    Threat("nested lists", "x = " + "[" * 90 + "]" * 90 + "\nprint(25)", (PASSED,)),
    Threat(
        "long chain of operators", "x = " + "-" * 200000 + "1\nprint(25)", (Outcome.SYNTAX_ERROR, ERROR, PASSED, MEMORY)
    ),
    Threat(
        "long sum in the source", "x = " + "1+" * 200000 + "1\nprint(25)", (Outcome.SYNTAX_ERROR, ERROR, PASSED, MEMORY)
    ),
    Threat("zero byte in the source", "print(25)\0", (Outcome.SYNTAX_ERROR,)),
    Threat("lone surrogate in the source", "print('\ud800')", (Outcome.SYNTAX_ERROR,)),
)

PROCESSES = (
    Threat(
        "ignored signals",
        "import signal\n[signal.signal(s, signal.SIG_IGN) for s in (14, 15, 24)]\nwhile True: pass",
        (TIMEOUT,),
    ),
    Threat(
        "swallowed exceptions",
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        (TIMEOUT,),
    ),
    Threat("kill the parent", "import os; os.kill(os.getppid(), 9)", (ERROR,), "PermissionError"),
    Threat("kill all", "import os; os.kill(-1, 9)", (ERROR,), "PermissionError"),
    Threat("kill the group", "import os; os.kill(0, 9)", (ERROR,), "PermissionError"),
    Threat(
        "refused kills are no crime",
        "import os\nfor p in range(1, 300):\n  if p != os.getpid():\n    try: os.kill(p, 9)\n    except OSError: pass\n"
        "print(int(input())**2)",
        (PASSED,),
    ),
    Threat(
        "daemon",
        "import os\nif os.fork() == 0:\n  os.setsid()\n  exec('while 1: pass')",
        (ERROR,),
        "PermissionError",
        2,
    ),
    Threat("trace the parent", "import ctypes, os; print(ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0))", (FAILED,)),
    Threat("kill oneself", "import os; os.kill(os.getpid(), 9)", (ERROR,)),
    Threat("stop oneself", "import os; os.kill(os.getpid(), 19)", (TIMEOUT,)),
    Threat("crash", "import ctypes; ctypes.string_at(0)", (ERROR,), "SIGSEGV"),
    Threat("abort", "import os; os.abort()", (ERROR,), "SIGABRT"),
    Threat("terminate oneself", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)", (ERROR,), "SIGTERM"),
    Threat("CPU signal to oneself", "import os; os.kill(os.getpid(), 24)", (ERROR,), "SIGXCPU"),
    Threat(
        "a thread that stays",
        "import threading, time; threading.Thread(target=time.sleep, args=(1000,)).start(); print(25)",
        (TIMEOUT,),
    ),
    Threat("raise limits", "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))", (ERROR,)),
    Threat("execute", "import os; os.execv('/usr/bin/env', ['env'])", (ERROR,), "PermissionError"),
    Threat("namespaces by libc", "import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))", (FAILED,)),
    Threat("priority", "import os; os.setpriority(0, 0, -20); print(0)", (ERROR, FAILED)),
    Threat("mount", "import ctypes; print(ctypes.CDLL(None).mount(b'a', b'/tmp', b'tmpfs', 0, None))", (FAILED,)),
    Threat(
        "no parent, no death",
        "import ctypes; print(ctypes.CDLL(None).prctl(1, 0, 0, 0, 0))",
        (FAILED,),
    ),
    Threat(
        "memory of the parent",
        "import ctypes, os\nprint(ctypes.CDLL(None).process_vm_readv(os.getppid(), 0, 0, 0, 0, 0))",
        (FAILED,),
    ),
    Threat("32-bit system calls", "import ctypes\nprint(ctypes.CDLL(None).syscall(0x40000000 | 39))", (ERROR, FAILED)),
)

FILES = (
    Threat("read the users", "print(open('/etc/passwd').read())", (ERROR,)),
    Threat("write the system", "open('/usr/x', 'w')", (ERROR,)),
    Threat("list the root", "import os; print(os.listdir('/'))", (FAILED, ERROR)),
    Threat("list processes", "import os; print(os.listdir('/proc'))", (ERROR,)),
    Threat("own memory", "open('/proc/self/mem', 'rb')", (ERROR,)),
    Threat("zero device", "open('/dev/zero', 'rb').read()", (ERROR,)),
    Threat("leave a file", "open('/tmp/leak', 'w').write('25'); print(0)", (FAILED,), needs_scratch=True),
    Threat("find the file", "print(open('/tmp/leak').read())", (ERROR,), "FileNotFoundError"),
    Threat("change the library", "import collections; open(collections.__file__, 'a').write('#')", (ERROR,)),
    Threat("leave memory", "import ctypes; print(ctypes.CDLL(None).shmget(25, 4096, 0o1600))", (FAILED,)),
    Threat("leave a semaphore", "import ctypes; print(ctypes.CDLL(None).semget(25, 1, 0o1600))", (FAILED,)),
    Threat("leave a queue", "import ctypes; print(ctypes.CDLL(None).msgget(25, 0o1600))", (FAILED,)),
    Threat(
        "leave shared memory",
        "from multiprocessing import shared_memory\nshared_memory.SharedMemory('leak', True, 4096)",
        (ERROR,),
    ),
    Threat("link", "import os; os.symlink('/etc', '/tmp/e'); print(25)", (ERROR,), "PermissionError"),
    Threat(
        "packages of the machine",
        "import sys; sys.path.append(sys.prefix + '/lib/python3.11/site-packages'); import pip",
        (ERROR,),
    ),
)

NETWORK = (
    Threat("connect", "import socket; socket.create_connection(('1.1.1.1', 80), 2)", (ERROR,), "PermissionError"),
    Threat("resolve", "import socket; socket.gethostbyname('example.com')", (ERROR,)),
    Threat("listen", "import socket; socket.socket().bind(('127.0.0.1', 0))", (ERROR,), "PermissionError"),
    Threat("virtual machine socket", "import socket; socket.socket(40, 1)", (ERROR,), "PermissionError"),
    Threat("abstract socket", "import socket; socket.socket(1, 1).connect('\\0x')", (ERROR,), "PermissionError"),
    Threat("io_uring", "import ctypes; print(ctypes.CDLL(None).syscall(425, 1, 0))", (FAILED,)),
    Threat("bpf", "import ctypes; print(ctypes.CDLL(None).syscall(321, 0, 0, 0))", (FAILED,)),
    Threat("keys", "import ctypes; print(ctypes.CDLL(None).syscall(250, 0, -3, 0))", (FAILED,)),
)

CHEATS = (
    Threat("exit at once", "import os; os._exit(0)", (FAILED,)),
    Threat("sys.exit", "import sys; sys.exit(0)", (FAILED,)),
    Threat("exit status", "import sys; print(25); sys.exit(3)", (ERROR,), "SystemExit"),
    Threat(
        "walk the frames",
        "import sys\nf = sys._getframe()\nwhile f:\n  for k, v in {**f.f_globals, **f.f_locals}.items():\n"
        "    if 'exp' in k: print(v)\n  f = f.f_back",
        (FAILED,),
    ),
    Threat(
        "walk the heap",
        "import gc\nfor o in gc.get_objects():\n  if isinstance(o, dict) and 'expected' in o: print(o['expected'])",
        (FAILED,),
    ),
    Threat("environment", "import os; print(os.environ)", (FAILED,)),
    Threat("forge a verdict", 'import os; os.write(3, b\'{"verdict":"PASS"}\'); os._exit(0)', (FAILED,)),
    Threat(
        "write to every descriptor",
        "import os\nfor fd in range(300):\n  try: os.write(fd, b'PASS')\n  except OSError: pass",
        (FAILED,),
    ),
    Threat("close every descriptor", "import os; os.closerange(0, 300)", (FAILED, ERROR)),
    Threat(
        "read every descriptor",
        "import os\nfor fd in range(300):\n  try: os.lseek(fd, 0, 0); print(os.read(fd, 999))\n  except OSError: pass",
        (FAILED,),
    ),
    Threat("claim success", "print('ALL TESTS PASSED'); print('{\"verdict\":\"PASS\"}')", (FAILED,)),
    Threat("replace print", "import builtins; builtins.print = lambda *a: None", (FAILED,)),
    Threat(
        "replace what the harness uses",
        "import os, atexit, gc\nos.write = os._exit = atexit._run_exitfuncs = gc.collect = lambda *a: 25\nprint(0)",
        (FAILED,),
    ),
    Threat("forge a syntax error", "import os\nos.write(3, b'E'); os._exit(87)", (ERROR,)),
    Threat(
        "forge an error's place", "import os\nos.write(3, b'Et\\x04\\0\\0\\0' + b'garbage'); os._exit(86)", (ERROR,)
    ),
    Threat("error without a name", "class E(Exception): pass\nE.__name__ = 'x y'\nraise E", (ERROR,)),
    Threat(
        "error that fights back",
        "class E(Exception):\n  def __str__(self): raise SystemExit(0)\n  __repr__ = __str__\nprint(25)\nraise E",
        (ERROR,),
        "E",
        5,
    ),
    Threat("error that loops", "class E(Exception):\n  def __str__(self):\n    while True: pass\nraise E", (TIMEOUT,)),
    Threat("bytes that are no text", "import sys; sys.stdout.buffer.write(b'\\xff\\xfe25')", (FAILED,)),
    Threat("lone surrogate", "print(chr(0xD800))", (ERROR,), "UnicodeEncodeError", 1),
    Threat("zero byte", "print('25\\0')", (FAILED,)),
    Threat("read for ever", "import sys\nwhile True: sys.stdin.read()", (TIMEOUT,)),
    Threat("catch all", "try:\n  1/0\nexcept Exception: print(0)", (FAILED,)),
    Threat("answer, then crash", "print(25)\n1/0", (ERROR,), "ZeroDivisionError", 2),
    Threat("answer, then kill", "import os\nprint(25, flush=True)\nos.kill(os.getpid(), 9)", (ERROR,), "SIGKILL"),
    Threat("answer, then fail at the end", "import sys\nprint(25)\nsys.stdout = 1", (ERROR, PASSED)),
    Threat("answer, then sleep", "import time\nprint(25, flush=True)\ntime.sleep(1000)", (TIMEOUT,)),
    Threat("close the streams", "import sys\nsys.stdout.close()\nsys.stdin.close()", (FAILED,)),
)

HONEST = (
    Threat("plain", "print(int(input()) ** 2)", (PASSED,)),
    Threat(
        "binary streams",
        "import sys\nsys.stdout.buffer.write(b'%d' % (int(sys.stdin.buffer.readline()) ** 2))",
        (PASSED,),
    ),
    Threat("open(0)", "print(int(open(0).read()) ** 2)", (PASSED,)),
    Threat("iterate over stdin", "import sys\nfor line in sys.stdin: print(int(line) ** 2)", (PASSED,)),
    Threat("import stdin", "from sys import stdin, stdout\nstdout.write(str(int(stdin.readline()) ** 2))", (PASSED,)),
    Threat("raw descriptors", "import os\nos.write(1, str(int(os.read(0, 99)) ** 2).encode())", (PASSED,)),
    Threat(
        "deep recursion in a thread",
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\n"
        "def f(n): return n and f(n - 1) + 1\n"
        "def main(): print(f(50000) - 49975)\nt = threading.Thread(target=main)\nt.start()\nt.join()",
        (PASSED,),
    ),
    Threat(
        "deep recursion through a cache",
        "import sys\nfrom functools import lru_cache\nsys.setrecursionlimit(10**6)\n"
        "@lru_cache(None)\ndef f(n): return n and f(n - 1) + 1\nprint(f(30000) - 29975)",
        (PASSED,),
    ),
    Threat("a thread that answers", "import threading\nthreading.Thread(target=lambda: print(25)).start()", (PASSED,)),
    Threat("long integers", "x = 7 ** 9000\nassert int(str(x)) == x\nprint(25)", (PASSED,)),
    Threat("main guard", "def main(): print(int(input()) ** 2)\nif __name__ == '__main__': main()", (PASSED,)),
    Threat("exit after the answer", "import sys\nprint(25)\nsys.exit()", (PASSED,)),
    Threat("exit()", "print(25)\nexit()", (PASSED,)),
    Threat("quit(0)", "print(25)\nquit(0)", (PASSED,)),
    Threat("os._exit after a flush", "import os\nprint(25, flush=True)\nos._exit(0)", (PASSED,)),
    Threat(
        "fast output template",
        "import sys, io, atexit\nout = io.StringIO()\nsys.stdout = out\n"
        "atexit.register(lambda: sys.__stdout__.write(out.getvalue()))\nprint(int(input()) ** 2)",
        (PASSED,),
    ),
    Threat("unflushed file on descriptor 1", "f = open(1, 'w')\nf.write('25')", (PASSED,)),
    Threat("destructor at the end", "class A:\n  def __del__(self): print(25)\na = A()", (PASSED,)),
    Threat("globals and classes", "x = 5\ndef f():\n  global x\n  x *= x\nclass A: f(); y = x\nprint(A.y)", (PASSED,)),
    Threat("multi-line string", 'x = """\n\ta\n"""\nassert x == "\\n\\ta\\n"\nprint(25)', (PASSED,)),
    Threat(
        "standard modules",
        "import asyncio, bisect, collections, dataclasses, datetime, decimal, enum, fractions, functools, hashlib, "
        "heapq, itertools, json, math, queue, random, re, statistics, string, time, typing\n"
        "@dataclasses.dataclass\nclass P:\n  x: int\nprint(P(5).x ** 2)",
        (PASSED,),
    ),
    Threat(
        "asyncio", "import asyncio\nasync def f():\n  await asyncio.sleep(0)\n  print(25)\nasyncio.run(f())", (PASSED,)
    ),
    Threat("scratch file", "open('/tmp/a', 'w').write('25')\nprint(open('a').read())", (PASSED,), needs_scratch=True),
    Threat(
        "temporary file",
        "import tempfile\nwith tempfile.TemporaryDirectory() as d: print(25)",
        (PASSED,),
        needs_scratch=True,
    ),
    Threat("null device", "import sys, os\nsys.stderr = open(os.devnull, 'w')\nprint(25)", (PASSED,)),
    Threat("words on standard error", "import sys\nprint('debug', file=sys.stderr)\nprint(25)", (PASSED,)),
    Threat("same random numbers", "import random\nprint(25 if random.random() < 2 else 0)", (PASSED,)),
    Threat(
        "pickle of own class", "import pickle\nclass A: x = 25\nprint(pickle.loads(pickle.dumps(A())).x)", (PASSED,)
    ),
    Threat(
        "type hints",
        "from typing import List, get_type_hints\ndef f(x: 'List[int]'): pass\nget_type_hints(f)\nprint(25)",
        (PASSED,),
    ),
    Threat("windows line ends", "x = 5\r\nif x:\r\n  print(x * x)\r\n", (PASSED,)),
    Threat("byte order mark", "\ufeffprint(25)", (PASSED,)),
    Threat("coding line", "# -*- coding: utf-8 -*-\ns = 'é'\nassert len(s) == 1\nprint(25)", (PASSED,)),
    Threat("much memory", "x = bytearray(100 << 20)\nprint(25)", (PASSED,)),
)

STDIN = RESOURCES + PROCESSES + FILES + NETWORK + CHEATS + HONEST

_EQUAL = "class E:\n  __eq__ = lambda s, o: True\n  __hash__ = lambda s: 1\n  __class__ = int\n"
CALLS = (
    Threat("right", "def f(n): return n * n", (PASSED,)),
    Threat("method of Solution", "class Solution:\n  def f(self, n): return n * n", (PASSED,)),
    Threat("subclass of int", "class I(int): pass\ndef f(n): return I(n * n)", (PASSED,)),
    Threat("mutates a global", "c = []\ndef f(n):\n  c.append(n)\n  return n * n * len(c)", (PASSED,)),
    Threat("prints meanwhile", "print('x')\ndef f(n):\n  print(n)\n  return n * n", (PASSED,)),
    Threat("main guard is not for tests", "def f(n): return n * n\nif __name__ == '__main__': input()", (PASSED,)),
    Threat("wrong", "def f(n): return n", (FAILED,)),
    Threat("missing", "def g(n): return n", (ERROR,), "NameError"),
    Threat("equal to everything", _EQUAL + "def f(n): return E()", (FAILED, ERROR)),
    Threat(
        "int that is equal to everything",
        "class I(int):\n  __eq__ = lambda s, o: True\ndef f(n): return I(0)",
        (FAILED,),
    ),
    Threat(
        "int that converts as it likes",
        "class I(int):\n  to_bytes = lambda *a, **k: (25).to_bytes(1)\n  __int__ = __index__ = lambda s: 25\n"
        "def f(n): return I(0)",
        (FAILED,),
    ),
    Threat(
        "pickled answer",
        "import pickle\nclass R:\n  def __reduce__(s): return (eval, ('25',))\ndef f(n): return R()",
        (FAILED,),
    ),
    Threat("exits inside", "import os\ndef f(n): os._exit(0)", (FAILED,)),
    Threat("exits on import", "import os\nos._exit(0)", (FAILED,)),
    Threat("SystemExit inside", "def f(n): raise SystemExit", (FAILED, ERROR)),
    Threat("SystemExit on import", "raise SystemExit(0)", (FAILED, ERROR)),
    Threat("KeyboardInterrupt", "def f(n): raise KeyboardInterrupt", (ERROR,), "KeyboardInterrupt", 1),
    Threat("raises", "def f(n):\n  x = 1\n  return x / 0", (ERROR,), "ZeroDivisionError", 3),
    Threat(
        "asserts away",
        "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\nopen('conftest.py', 'w')\n"
        "def f(n): return 0",
        (FAILED,),
        needs_scratch=True,
    ),
    Threat(
        "forges the record", "import os\ndef f(n):\n  os.write(3, b'Vi\\x01\\0\\0\\0\\x18')\n  os._exit(0)", (FAILED,)
    ),
    Threat("forges half a record", "import os\ndef f(n):\n  os.write(3, b'Vi\\x01\\0')\n  os._exit(0)", (FAILED,)),
    Threat("forges before the record", "import os\nos.write(3, b'VT')\ndef f(n): return 0", (FAILED,)),
    Threat("opaque", "def f(n): return f", (FAILED,)),
    Threat("cyclic", "def f(n):\n  x = []\n  x.append(x)\n  return x", (FAILED,)),
    Threat("too large", "def f(n): return 'x' * (1 << 25)", (FAILED,)),
    Threat("deep", "def f(n):\n  x = []\n  for _ in range(10**5): x = [x]\n  return x", (FAILED,)),
    Threat("generator", "def f(n): yield 25", (FAILED,)),
    Threat("string", "def f(n): return '25'", (FAILED,)),
    Threat("loops", "def f(n):\n  while True: pass", (TIMEOUT,)),
    Threat("never ends", "def f(n):\n  yield from f(n)\nf = lambda n: list(iter(int, 1))", (TIMEOUT, MEMORY)),
    Threat("floods", "def f(n):\n  while True: print('x' * 100000)", (OUTPUT,)),
    Threat("hangs on import", "while True: pass\ndef f(n): return n * n", (TIMEOUT,)),
    Threat("syntax", "def f(n) return n", (Outcome.SYNTAX_ERROR,), "SyntaxError", 1),
)

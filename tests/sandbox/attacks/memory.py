"""A1: a program reads what other programs and tests left in memory.

`earlier` gives honest programs with a marker wherever a grader puts text. Each thief looks for the markers in its own
way.
"""

from __future__ import annotations

from collections.abc import Callable

from rltf.problems.types import AssertTest, CallTest, CheckTest, StdinTest
from tests.sandbox.attacks.search import FINDS_NOTHING, WHOLE_MEMORY, marker, thief
from tests.sandbox.attacks.shape import ERROR, FAILED, PASSED, SQUARE, SYNTAX, Attack, Step, problem

# A marker alone, in a text of a few kilobytes, and in one that is large for an allocator: each is freed differently.
_COPIES = (1, 60, 3000)
_ECHO = "def f(x): return x\nif __name__ == '__main__': print(input())"
_WITHOUT_LITERALS = "def f(x): return {x, x[::-1]}"


def earlier(mark: Callable[[str], str] = marker) -> tuple[Step, ...]:
    """Honest programs that put a marker into every place where a grader holds text of theirs or of their tests."""
    steps: list[Step] = []
    for copies in _COPIES:

        def text(place: str, copies: int = copies) -> str:
            return " ".join([mark(f"{place} x{copies}")] * copies)

        steps += [
            Step(SQUARE, f"# {text('source')}\nprint(int(input()) ** 2)", (PASSED,)),
            Step(SQUARE, f"x = '{text('constant')}'\nprint(int(input()) ** 2)", (PASSED,)),
            Step(SQUARE, f"x = = '{text('syntax error')}'", (SYNTAX,)),
            Step(SQUARE, f"x = '{text('message')}'\nraise ValueError(x)", (ERROR,)),
            Step(SQUARE, f"open('/tmp/a', 'w').write('{text('file')}')\nprint(25)", (PASSED, ERROR)),
            Step(SQUARE, f"import sys\nsys.stderr.write('{text('standard error')}')\nprint(25)", (PASSED,)),
            Step(problem(StdinTest(text("stdin") + "\n", text("stdout"))), _ECHO, (FAILED,)),
            Step(problem(CallTest("f", (text("argument"),), text("expected value"))), _ECHO, (FAILED,)),
            Step(problem(*[StdinTest(text(f"stdin {n}"), text(f"stdin {n}")) for n in range(3)]), _ECHO, (PASSED,)),
            Step(
                problem(*[CallTest("f", (text(f"value {n}"),), text(f"value {n}")) for n in range(3)]), _ECHO, (PASSED,)
            ),
            Step(problem(AssertTest(f"assert f('{text('literal')}') == '{text('literal')}'")), _ECHO, (PASSED,)),
            Step(
                problem(AssertTest(f"assert f('{text('assert argument')}') == set(['{text('closed')}'])")),
                _WITHOUT_LITERALS,
                (FAILED,),
            ),
            Step(
                problem(
                    AssertTest(f"assert f('ab') != ('{text('closed tuple')}' + 'x',)"), AssertTest("assert f('a')")
                ),
                _WITHOUT_LITERALS,
                (PASSED,),
            ),
            Step(
                problem(
                    CheckTest(
                        f"WANTED = '{text('check module')}'\n"
                        f"def check(candidate):\n    assert candidate('{text('check argument')}') != WANTED\n",
                        "f",
                    )
                ),
                _ECHO,
                (PASSED,),
            ),
        ]
    return tuple(steps)


# Each is the source of `search()`. It passes bytes to `look`, which searches them for markers.
SEARCHES = {
    "all memory, found by mapping over it": WHOLE_MEMORY,
    "memory around an object, by mincore": """
import ctypes, os
libc = ctypes.CDLL(None)
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
def search():
    reading, writing = os.pipe()
    state = ctypes.create_string_buffer(1)
    for anchor in {id(look) >> 22, id(search.__code__) >> 22, id(object()) >> 22, ctypes.addressof(state) >> 22}:
        for page in range((anchor - 2) << 22, (anchor + 3) << 22, 4096):
            if libc.mincore(page, 4096, state) == 0 and libc.write(writing, page, 4096) == 4096:
                look(os.read(reading, 4096))
""",
    "the allocator's heap, down from its end": """
import ctypes, os
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
def search():
    reading, writing = os.pipe()
    page, tail = libc.sbrk(0) & ~4095, b''
    for _ in range(16384):
        page -= 4096
        if libc.write(writing, page, 4096) == 4096:
            data = os.read(reading, 4096)
            look(data + tail)
            tail = data[:64]
""",
    "memory into a file": """
import ctypes, os
libc = ctypes.CDLL(None)
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
def search():
    try:
        file = os.open('/tmp/dump', os.O_RDWR | os.O_CREAT)
    except OSError:
        return
    for anchor in (id(look), id(search), id(found)):
        start = anchor & ~((1 << 20) - 1)
        for page in range(start - (1 << 20), start + (2 << 20), 4096):
            libc.write(file, page, 4096)
    size = os.lseek(file, 0, 1)
    look(os.pread(file, size, 0))
""",
    "the stack": """
import ctypes, os
libc = ctypes.CDLL(None)
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
def search():
    reading, writing = os.pipe()
    top = ctypes.c_void_p.in_dll(libc, 'environ').value & ~4095
    for page in range(top - (4 << 20), top + (1 << 18), 4096):
        if libc.write(writing, page, 4096) == 4096:
            look(os.read(reading, 4096))
""",
    "fresh memory of malloc": """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def search():
    for size in [*range(16, 4096, 16)] * 4 + [1 << n for n in range(12, 20)] * 6:
        address = libc.malloc(size)
        if address:
            look(ctypes.string_at(address, size))
""",
    "fresh bytes objects, never filled": """
import ctypes
make = ctypes.pythonapi.PyBytes_FromStringAndSize
make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_ssize_t]
def search():
    kept = []
    for size in [*range(8, 513, 8)] * 200 + [1 << n for n in range(10, 20)] * 20:
        kept.append(make(None, size))
        look(kept[-1])
""",
    "fresh bytearrays that shrink and grow": """
def search():
    kept = []
    for size in [1 << n for n in range(5, 18)] * 50:
        data = bytearray()
        for _ in range(3):
            data.extend(bytes(1))
            data += bytearray(size)[:1]
        kept.append(data)
        import ctypes
        look(ctypes.string_at(ctypes.addressof(ctypes.c_char.from_buffer(data)), data.__alloc__()))
""",
    "all objects and what they refer to": """
import gc, sys
def search():
    gc.unfreeze()
    seen, todo = set(), [*gc.get_objects(), sys.modules]
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if type(thing) is str:
            look(thing.encode('utf-8', 'replace'))
        elif type(thing) in (bytes, bytearray):
            look(bytes(thing))
        else:
            todo += gc.get_referents(thing)
""",
    "frames of the grader": """
import gc, sys
def search():
    frames, seen = list(sys._current_frames().values()) + [sys._getframe()], set()
    frames += [thing.gi_frame for thing in gc.get_objects() if hasattr(thing, 'gi_frame')]
    while frames:
        frame = frames.pop()
        if frame is None or id(frame) in seen:
            continue
        seen.add(id(frame))
        frames.append(frame.f_back)
        for value in [*frame.f_locals.values(), *frame.f_globals.values(), *gc.get_referents(frame)]:
            try:
                look(value if isinstance(value, (bytes, bytearray)) else repr(value).encode('utf-8', 'replace'))
                for part in value if isinstance(value, (tuple, list, set)) else ():
                    look(part if isinstance(part, (bytes, bytearray)) else repr(part).encode('utf-8', 'replace'))
            except Exception:
                pass
""",
    "every descriptor": """
import mmap, os, select, stat
def search():
    for fd in range(1024):
        try:
            kind = os.fstat(fd).st_mode
        except OSError:
            continue
        for how in (lambda: os.pread(fd, 1 << 24, 0), lambda: mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)[:],
                    lambda: (os.lseek(fd, 0, 0), os.read(fd, 1 << 24))[1] if stat.S_ISREG(kind) else b'',
                    lambda: os.read(fd, 1 << 16) if fd > 2 and select.select([fd], [], [], 0)[0] else b'',
                    lambda: os.readlink('/dev/fd/%d' % fd).encode()):
            try:
                look(how())
            except (OSError, ValueError):
                pass
""",
    "proc and devices": """
import os
def search():
    names = ['mem', 'maps', 'environ', 'cmdline', 'task/1/mem', 'root/tmp/a', 'stack', 'comm']
    owners = ['self', 'thread-self', str(os.getpid()), str(os.getppid()), *map(str, range(1, 64))]
    paths = ['/proc/%s/%s' % (owner, name) for owner in owners for name in names]
    paths += ['/dev/mem', '/dev/kmem', '/dev/shm', '/dev/fd/3', '/proc/kcore', '/proc/kallsyms', '/dev/kmsg']
    for path in paths:
        try:
            with open(path, 'rb', 0) as file:
                look(file.read(1 << 20))
        except (OSError, ValueError):
            pass
""",
    "files that were left": """
import os
def search():
    for root in ('/tmp', '.', '/dev', '/run', '/var', '/etc', '/home', '/root', '/work'):
        for folder, _, files in os.walk(root):
            for name in files:
                look(name.encode('utf-8', 'surrogateescape'))
                try:
                    path = os.path.join(folder, name)
                    if os.stat(path).st_size < 1 << 22 and not path.startswith('/dev'):
                        look(open(path, 'rb').read())
                except OSError:
                    pass
""",
    "caches of the library": """
import ast, atexit, codecs, linecache, re, sys, tokenize, traceback, warnings
def search():
    seen, todo = set(), [linecache.cache, vars(re), vars(warnings), vars(sys), vars(tokenize),
                         vars(traceback), vars(ast), vars(codecs), sys.path_importer_cache]
    todo += [vars(module) for module in list(sys.modules.values())]
    todo.append(getattr(sys.modules.get('__main__'), '__warningregistry__', None))
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, str):
            look(thing.encode('utf-8', 'replace'))
        elif isinstance(thing, (bytes, bytearray)):
            look(bytes(thing))
        elif isinstance(thing, dict):
            todo += [*thing.keys(), *thing.values()]
        elif isinstance(thing, (list, tuple, set, frozenset)):
            todo += list(thing)
        elif hasattr(thing, '__dict__'):
            todo.append(dict(vars(thing)))
    for line in range(1, 200):
        for name in ('<solution>', '<check>', '<expression>', '<setup>', '<string>', '<solution>.py'):
            look(linecache.getline(name, line).encode('utf-8', 'replace'))
""",
    "memory of other processes": """
import ctypes, os
libc = ctypes.CDLL(None)
class Part(ctypes.Structure):
    _fields_ = [('start', ctypes.c_void_p), ('size', ctypes.c_size_t)]
def search():
    buffer = ctypes.create_string_buffer(1 << 16)
    for pid in {os.getppid(), *range(1, 200)}:
        for start in (id(look) & ~65535, ctypes.c_void_p.in_dll(libc, 'environ').value & ~65535):
            own, theirs = Part(ctypes.addressof(buffer), 1 << 16), Part(start, 1 << 16)
            if pid != os.getpid() and libc.process_vm_readv(pid, ctypes.byref(own), 1, ctypes.byref(theirs), 1, 0) > 0:
                look(buffer.raw)
        libc.ptrace(16, pid, 0, 0)
""",
    "allocator arenas, whole, from free blocks": """
import ctypes
def search():
    kept = [bytearray(n) for n in (1, 9, 17, 33, 65, 129, 257, 400) for _ in range(2000)]
    pools = {id(thing) & ~0x3FFF for thing in kept}
    pools |= {ctypes.addressof(ctypes.c_char.from_buffer(thing)) & ~0x3FFF for thing in kept}
    for pool in pools:
        look(ctypes.string_at(pool, 0x4000))
""",
}

_EARLIER = earlier()


def _theft(name: str, kind: str, search: str) -> Attack:
    # A thief that passes has found nothing.
    return Attack(f"{name} ({kind})", (*_EARLIER, Step(FINDS_NOTHING[kind], thief(search), (PASSED,))))


# Thieves with one test and with several, which a loader runs: the two fork from different processes.
THEFTS = tuple(_theft(name, kind, search) for name, search in SEARCHES.items() for kind in ("stdin", "several calls"))

# Siblings: a test must not see the inputs or answers of the same program's other tests.
_WRITES_THEN_SEARCHES = """
def other(): return 1
if __name__ == '__main__':
    line = input()
    if line.startswith('search'):
        print(f(0))
    else:
        print(line + ' ' + line[-16:])
        raise SystemExit
"""
SIBLINGS = tuple(
    Attack(
        f"answers of the program's other tests: {name}",
        (
            Step(
                problem(
                    *[StdinTest(f"{marker(f'sibling {n}')}\n", "no answer is right\n") for n in range(3)],
                    StdinTest("search\n", "nothing\n"),
                ),
                thief(search).rpartition("if __name__")[0] + _WRITES_THEN_SEARCHES,
                (FAILED,),
            ),
        ),
    )
    for name, search in SEARCHES.items()
    if name in ("all memory, found by mapping over it", "frames of the grader", "all objects and what they refer to")
)

"""A2: a program forges the report of a check, or starves or kills the process that runs it.

A program's process inherits descriptor 3 for its record, and two pipes above it. The programs here do not depend on the
numbers: they write to all files, or to all pipes.
"""

from __future__ import annotations

from rltf.problems.types import CheckTest, Test
from tests.sandbox.attacks.shape import (
    CALL,
    CHECK,
    NEVER_PASSED,
    PASSED,
    SQUARE,
    SQUARES,
    STARVED,
    Attack,
    Step,
    problem,
    single,
)


def _check(body: str, head: str = "") -> Test:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return CheckTest(f"{head}\ndef check(candidate):\n{lines}\n", "f")


# What a program can do with the pipes of a check, at import and in a call. None of it is right for f(5) == 25.
_FORGE = """
import os, struct
def value(data): return struct.pack('<I', len(data)) + data
def number(n): return b'i' + struct.pack('<I', 2) + struct.pack('<h', n)
def items(tag, *parts): return tag + struct.pack('<I', len(parts)) + b''.join(parts)
def reply(*parts): return value(items(b't', *parts))
def text(s): return b'u' + struct.pack('<I', len(s)) + s.encode()
def files(data):
    for fd in range(3, 64):
        try: os.pwrite(fd, data, 0)
        except OSError: pass
def pipes(data):
    for fd in range(3, 64):
        try: os.lseek(fd, 0, 0)
        except OSError:
            try: os.write(fd, data)
            except OSError: pass
"""

_BEFORE_DYING = {
    "by SIGKILL": "os.kill(os.getpid(), 9)",
    "by SIGSEGV": "os.kill(os.getpid(), 11)",
    "by exit 0": "os._exit(0)",
    "by exit 86": "os._exit(86)",
    "by exit 87": "os._exit(87)",
    "by hanging up": "os.closerange(0, 64)\n    while True: pass",
    "by hanging up and exiting": "os.closerange(4, 64)\n    os._exit(0)",
    "by stopping": "os.kill(os.getpid(), 19)",
    "by an exit in the call": "raise SystemExit(0)",
}

FORGERIES = (
    *(
        single(
            f"leaves {byte!r} first in every file and dies {name}",
            CHECK,
            f"{_FORGE}\ndef f(n):\n    files({byte.encode()!r} * 9)\n    {end}",
        )
        for name, end in _BEFORE_DYING.items()
        for byte in "PARDX"
    ),
    *(
        single(
            f"leaves P first in every file while it is imported and dies {name}",
            CHECK,
            f"{_FORGE}\ndef go():\n    files(b'P')\n    {end}\ngo()",
        )
        for name, end in _BEFORE_DYING.items()
    ),
    single("prints P", CHECK, "print('P', flush=True)\ndef f(n):\n    print('P', flush=True)\n    return 0"),
    single("a record of nothing but P", CHECK, f"{_FORGE}\nfiles(b'P' * 100000)\ndef f(n): return 0"),
    single("P in a record made large", CHECK, f"{_FORGE}\nos.ftruncate(3, 1 << 20)\nfiles(b'P')\ndef f(n): return 0"),
    single("P before an error", CHECK, f"{_FORGE}\ndef f(n):\n    files(b'P')\n    raise ValueError('P')"),
    single("P before an assertion error", CHECK, f"{_FORGE}\ndef f(n):\n    files(b'P')\n    raise AssertionError"),
    single("P in place of an answer", CHECK, f"{_FORGE}\ndef f(n):\n    pipes(value(b'P'))\n    os._exit(0)"),
)

# Answers that no honest program sends, each in place of, or on top of, the answer to the first call.
_ANSWERS = {
    "before it is asked": "reply(b'T', number(24), items(b't', number(5)))",
    "a length of 4 GiB": "b'\\xff' * 4",
    "a length of 2 GiB": "struct.pack('<I', 1 << 31) + b'x' * 99",
    "an empty answer": "value(b'')",
    "half a length": "b'\\x05\\x00'",
    "half an answer": "reply(b'T', number(25), b'N')[:-3]",
    "text for a truth": "reply(text('T'), number(24), items(b't', number(5)))",
    "no tuple": "value(number(25))",
    "one part too many": "reply(b'T', number(24), b'N', b'N')",
    "no arguments back": "reply(b'T', number(24), b'N')",
    "a number of arguments back": "reply(b'T', number(24), number(7))",
    "an opaque value": "reply(b'T', b'O' + struct.pack('<I', 3) + b'int', items(b't', number(5)))",
    "StopIteration": "reply(b'F', text('StopIteration'), text(''))",
    "AssertionError": "reply(b'F', text('AssertionError'), text(''))",
    "GeneratorExit": "reply(b'F', text('GeneratorExit'), text(''))",
    "SystemExit": "reply(b'F', text('SystemExit'), text('0'))",
    "ExceptionGroup": "reply(b'F', text('ExceptionGroup'), text('0'))",
    "an error that is no error": "reply(b'F', text('print'), text('P'))",
    "an error named by a number": "reply(b'F', number(5), number(5))",
    "an error named by a list": "reply(b'F', items(b'l', text('a')), items(b'l'))",
    "deep nesting": "value(b'l\\x01\\0\\0\\0' * 100000 + b'N')",
    "a thousand answers": "reply(b'T', number(24), items(b't', number(5))) * 1000",
    "ten megabytes": "b'\\0' * 10_000_000",
    "a list that is too long for its bytes": "value(b'l' + struct.pack('<I', 1 << 30))",
    "a set of equal hashes": "value(items(b's', *[b'i' + struct.pack('<I', 16)"
    " + (n * (2**61 - 1)).to_bytes(16, 'little')"
    " for n in range(10000)]))",
    "a signalling NaN": "reply(b'T', b'D' + struct.pack('<I', 4) + b'sNaN', items(b't', number(5)))",
}
ANSWERS = tuple(
    attack
    for name, answer in _ANSWERS.items()
    for attack in (
        single(f"answers at import: {name}", CHECK, f"{_FORGE}\nanswer = {answer}\npipes(answer)\ndef f(n): return 0"),
        single(f"answers in the call: {name}", CHECK, f"{_FORGE}\ndef f(n):\n    pipes({answer})\n    return 0"),
        single(
            f"answers and dies: {name}",
            CHECK,
            f"{_FORGE}\ndef f(n):\n    pipes({answer})\n    files(b'P')\n    os._exit(0)",
        ),
    )
)

# The value makes the check itself fail: the checker runs out of time or memory while the record already says P.
_HEAVY = problem(_check("assert sorted(candidate(5)) == [25]"))
_HEAVY_SUM = problem(_check("assert len(str(candidate(5))) == 2 and list(candidate(5)) == [25]"))
HEAVY_VALUES = (
    single("a range to sort", _HEAVY, f"{_FORGE}\nfiles(b'P')\ndef f(n): return range(10**8)", STARVED, small=True),
    single(
        "a huge range to sort", _HEAVY, f"{_FORGE}\nfiles(b'P')\ndef f(n): return range(10**12)", STARVED, small=True
    ),
    single(
        "a range to list", _HEAVY_SUM, f"{_FORGE}\nfiles(b'P')\ndef f(n): return range(10, 10**8)", STARVED, small=True
    ),
    single(
        "a range to list, after memory was filled",
        _HEAVY,
        f"{_FORGE}\nfiles(b'P')\nx = bytearray(b'x') * (60 << 20)\ndef f(n): return range(10**7)",
        STARVED,
        small=True,
    ),
    single(
        "a range to list, after memory was filled with folders",
        _HEAVY,
        f"{_FORGE}\nfiles(b'P')\nfor n in range(50000): os.mkdir('/tmp/%d' % n)\ndef f(n): return range(10**7)",
        STARVED,
        small=True,
    ),
    single(
        "a number to write out",
        problem(_check("assert str(int(candidate(5))) == '25'")),
        f"from decimal import Decimal\n{_FORGE}\nfiles(b'P')\ndef f(n): return Decimal('1e999999999')",
        STARVED,
    ),
)

# Kernel memory counts for the jail, but for no process's size, so the kernel rarely kills the program.
_FILLS = {
    "folders": "import os\ni = 0\nwhile True:\n    os.mkdir('/tmp/%d' % i)\n    i += 1",
    "folders with long names": "import os\ni = 0\nwhile True:\n    os.mkdir('/tmp/' + str(i) * 30)\n    i += 1",
    "empty files": "import os\ni = 0\nwhile True:\n    os.close(os.open('/tmp/%d' % i, os.O_CREAT | os.O_WRONLY))\n"
    "    i += 1",
    "deep folders": "import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')",
    "pipes": "import os\nkept = [os.pipe() for _ in range(25)]\nfor _, w in kept:\n    os.set_blocking(w, False)\n"
    "    try:\n        while True: os.write(w, b'x' * 4096)\n    except OSError: pass",
    "page tables": "import mmap\nkept = mmap.mmap(-1, 1 << 30)\nfor at in range(0, 1 << 30, 1 << 21): kept[at]\n"
    "kept = [kept]\nwhile True:\n    kept.append(mmap.mmap(-1, 1 << 21))",
    "mappings": "import mmap\nkept = []\nwhile True:\n"
    "    kept.append(mmap.mmap(-1, 4096, prot=mmap.PROT_READ if len(kept) % 2"
    " else mmap.PROT_WRITE))",
    "threads": "import threading, time\n"
    "while True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
    "a large file": "f = open('/tmp/a', 'wb', 0)\nwhile True: f.write(b'x' * 65536)",
    "its output": "import os\nwhile True: os.write(1, b'x' * 65536)",
    "its record": "import os\nwhile True: os.write(3, b'P' * 65536)",
    "memory that is shared": "import mmap\nkept = []\nwhile True:\n    kept.append(mmap.mmap(-1, 1 << 20))\n"
    "    kept[-1][:] = b'x' * (1 << 20)",
}


def _indented(source: str, spaces: int) -> str:
    return "\n".join(" " * spaces + line for line in source.splitlines())


STARVATION = tuple(
    attack
    for name, fill in _FILLS.items()
    for attack in (
        single(
            f"fills the kernel's memory with {name} in a call",
            CHECK,
            f"{_FORGE}\ndef f(n):\n    files(b'P')\n    try:\n{_indented(fill, 8)}\n"
            "    except BaseException: pass\n    return 0",
            STARVED,
            small=True,
        ),
        single(
            f"fills the kernel's memory with {name} at import",
            CHECK,
            f"{_FORGE}\nfiles(b'P')\ntry:\n{_indented(fill, 4)}\nexcept BaseException: pass\ndef f(n): return 0",
            STARVED,
            small=True,
        ),
    )
)

# A program that takes the zygote or the loader down with it is still scored.
ZYGOTES = tuple(
    single(f"takes the grader with it: {name}, {kind}", on, fill, NEVER_PASSED, small=True)
    for name, fill in _FILLS.items()
    for kind, on in (("one test", SQUARE), ("several tests", SQUARES), ("a call", CALL))
    if name not in ("its output", "its record", "a large file", "pipes")
)

# The first program must leave nothing for the second: the same check works honestly afterwards.
AFTERWARDS = (
    Attack(
        "an honest program after a forger",
        (
            Step(CHECK, f"{_FORGE}\ndef f(n):\n    files(b'P')\n    os._exit(0)"),
            Step(CHECK, "def f(n): return n * n", (PASSED,)),
            Step(CHECK, "def f(n): return n"),
        ),
    ),
    Attack(
        "many threads, then the checker is to start",
        (
            Step(
                CHECK,
                "import threading, time\nfor _ in range(200):\n"
                "    try: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()\n"
                "    except RuntimeError: break\ndef f(n): return 0",
                NEVER_PASSED,
            ),
        ),
    ),
)

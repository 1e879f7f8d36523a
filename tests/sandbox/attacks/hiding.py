"""A6: a program hides the line of its error, or shows a different one."""

from __future__ import annotations

from rltf.problems.types import StdinTest
from tests.sandbox.attacks.shape import ASSERT, CALL, CHECK, ERROR, PASSED, SQUARE, SQUARES, SYNTAX, problem, single

_PREFIXED = problem(StdinTest("5\n", "25\n"), prefix="import math\n\n\n")
_COOKIES = (
    "latin-1",
    "cp037",
    "utf-7",
    "utf-16",
    "rot13",
    "unicode_escape",
    "hex",
    "no-such-codec",
    "undefined",
    "punycode",
)

# Source and line. Lines end where Python ends them, at \n, \r and \r\n, and nowhere else.
_LINES = {
    "line ends of old Macs": ("x = 1\ry = 2\r1 / 0\r", 3),
    "line ends of all kinds": ("x = 1\r\ny = 2\rz = 3\n1 / 0\n", 4),
    "line ends of old Macs, and one of Unix at the end": ("x = 1\r1 / 0\r\n", 2),
    "line ends of old Macs within a text": ("s = '''a\rb\rc'''\n1 / 0\n", 4),
    "line ends of old Macs behind a comment": ("# x = 1\r1 / 0", 2),
    "separators that end no line, in a text": ("s = '\x1c\x1d\x1e\x85\u2028\u2029'\n1 / 0", 2),
    "separators that end no line, in a comment": ("# \x0b\x0c\x1c\x85\u2028\u2029\n1 / 0", 2),
    "form feeds": ("\x0cx = 1\n\x0c\n\x0c1 / 0", 3),
    "a byte order mark": ("\ufeffx = 1\n1 / 0", 2),
    "a continued line": ("x = 1\\\r+ 1\\\n+ 1\r1 / 0", 4),
    **{f"the cookie {name}": (f"# -*- coding: {name} -*-\nassert len('é+-') == 3\n1 / 0\n", 3) for name in _COOKIES},
    "a cookie in the second line": ("x = 'é'\n# vim: set fileencoding=cp037 :\nassert len(x) == 1\n1 / 0\n", 4),
    "a cookie behind a byte order mark": ("\ufeff# coding: latin-1\nassert len('é') == 1\n1 / 0\n", 3),
    "a cookie and line ends of old Macs": ("# coding: latin-1\rassert len('é') == 1\r1 / 0\r", 3),
}
LINES = tuple(
    single(f"{name}, {kind}", on, source, (ERROR,), error_line=line)
    for name, (source, line) in _LINES.items()
    for kind, on in (
        ("stdin", SQUARE),
        ("several", SQUARES),
        ("behind a prefix", _PREFIXED),
        ("call", CALL),
        ("check", CHECK),
    )
)
CALLED = tuple(
    single(f"{name} within the function, {kind}", on, source, (ERROR,), error_line=line)
    for name, source, line in (
        ("line ends of old Macs", "def f(n):\r    x = 1\r    return x / 0\r", 3),
        ("a cookie", "# coding: utf-7\ndef f(n):\n    x = '+-'\n    assert len(x) == 2\n    return n / 0\n", 5),
    )
    for kind, on in (("call", CALL), ("assert", ASSERT), ("check", CHECK))
)
COMPILED = tuple(
    single(f"syntax error behind {name}, {kind}", on, source, (SYNTAX,), error_line=line)
    for name, source, line in (
        ("line ends of old Macs", "x = 1\ry = 2\rx = = 3\r", 3),
        ("line ends of all kinds", "x = 1\r\ny = 2\rx = = 3\n", 3),
        ("separators in a text", "s = '\x1c\x85\u2028'\nx = = 3", 2),
        ("a cookie", "# coding: utf-7\nx = '+-'\nx = = 3", 3),
        ("an unknown cookie", "# coding: no-such-codec\nx = = 3", 2),
    )
    for kind, on in (("stdin", SQUARE), ("several", SQUARES), ("call", CALL), ("check", CHECK))
)
ANSWERING = tuple(
    single(
        f"the cookie {name} of a right program",
        SQUARE,
        f"# coding: {name}\ns = 'é'\nprint(int(input()) ** 2)",
        (PASSED,),
    )
    for name in _COOKIES
)

_FORGED = {
    "no line table": "def g():\n    1 / 0\ng.__code__ = g.__code__.replace(co_linetable=b'')\ng()",
    "a broken line table": "def g():\n    1 / 0\ng.__code__ = g.__code__.replace(co_linetable=b'\\xff' * 99)\ng()",
    "another file's name": "def g():\n    1 / 0\ng.__code__ = g.__code__.replace(co_filename='x')\ng()",
    "a first line far away": "def g():\n    1 / 0\ng.__code__ = g.__code__.replace(co_firstlineno=10**6)\ng()",
    "a first line before the first": "def g():\n    1 / 0\ng.__code__ = g.__code__.replace(co_firstlineno=-5)\ng()",
    "the error within an exec": "exec(compile('\\n' * 9999 + '1 / 0', '<solution>', 'exec'))",
    "the error within an exec of another name": "exec('1 / 0')",
    "exit 1": "import os\nos._exit(1)",
    "a signal": "import os\nos.kill(os.getpid(), 6)",
    "the exit of sys": "import sys\nsys.exit('ValueError: line 1')",
    "a traceback cut off": "try:\n    1 / 0\nexcept Exception as e:\n    raise e.with_traceback(None) from None",
    "no module of its own": "import sys\nsys.modules.clear()\n1 / 0",
}
_RECORDS = {
    "no line": "(('u', b'ValueError'), ('u', b'm'), ('N', None), ('N', None))",
    "a comment's line": "(('u', b'ValueError'), ('u', b'm'), ('i', b'\\x01'), ('i', b'\\0'))",
    "a line behind the end": "(('u', b'ValueError'), ('u', b'm'), ('i', b'\\xff\\x7f'), ('N', None))",
    "line 0": "(('u', b'ValueError'), ('u', b'm'), ('i', b'\\0'), ('i', b'\\xff'))",
    "a line that is a text": "(('u', b'ValueError'), ('u', b'm'), ('u', b'1'), ('u', b'1'))",
    "no type": "(('N', None), ('N', None), ('N', None), ('N', None))",
}
_WRITE = """# a comment
import os, struct
def part(tag, content):
    return tag.encode() + (b'' if content is None else struct.pack('<I', len(content)) + content)
parts = {parts}
record = b'Et' + struct.pack('<I', len(parts)) + b''.join(part(*p) for p in parts)
for fd in range(3, 64):
    try: os.ftruncate(fd, 0), os.pwrite(fd, record, 0)
    except OSError: pass
os._exit({status})
"""
FORGED = tuple(
    single(f"{name}, {kind}", on, source, (ERROR,))
    for name, source in (
        *_FORGED.items(),
        *(
            (f"a record with {name}, exit {status}", _WRITE.format(parts=parts, status=status))
            for name, parts in _RECORDS.items()
            for status in (1, 86, 87)
        ),
    )
    for kind, on in (("stdin", SQUARE), ("several", SQUARES), ("call", CALL), ("check", CHECK))
)
ALL = LINES + CALLED + COMPILED + ANSWERING + FORGED

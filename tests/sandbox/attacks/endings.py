"""A3: one program ends the whole run. Nothing here may raise an exception in `grade`; there is always a verdict."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from rltf.problems.types import AssertTest, CallTest, CheckTest, StdinTest
from rltf.sandbox.compare import Comparison
from rltf.sandbox.verdict import Outcome
from tests.sandbox.attacks.shape import (
    ANY,
    ANY_VERDICT,
    ASSERT,
    CALL,
    CHECK,
    ERROR,
    NEVER_PASSED,
    PASSED,
    SQUARE,
    SQUARES,
    TIMEOUT,
    problem,
    single,
)

# SIGCHLD, SIGCONT, SIGURG and SIGWINCH do nothing, and Python ignores SIGPIPE and SIGXFSZ. Terminal signals stop a
# process only if it has a terminal. All others end it.
_HARMLESS, _TERMINAL, _STOP = (13, 17, 18, 23, 25, 28), (20, 21, 22), 19


def _after_signal(number: int) -> tuple[Outcome, ...]:
    if number in _HARMLESS:
        return (PASSED,)
    if number in _TERMINAL:
        return (PASSED, TIMEOUT)
    return (TIMEOUT,) if number == _STOP else (ERROR,)


SIGNALS = tuple(
    single(
        f"signal {number}, {kind}",
        on,
        f"import os\ndef f(n):\n    os.kill(os.getpid(), {number})\n    return n * n\n"
        "if __name__ == '__main__': print(f(int(input())))",
        _after_signal(number),
    )
    for number in range(1, 65)
    for kind, on in (("stdin", SQUARE), ("several", SQUARES), ("call", CALL), ("check", CHECK))
    if kind == "stdin" or number in (6, 9, 32, 33, 34, 40, 63, 64)
)

_BOTH = (Comparison.STRICT, Comparison.APPS)


def _nested(depth: int, value: Any = 1) -> Any:
    for _ in range(depth):
        value = [value]
    return value


_NUMBERS = {
    "10 ** 400": "10 ** 400",
    "-10 ** 400": "-10 ** 400",
    "10 ** 5000": "10 ** 5000",
    "an int of more than a million digits": "1 << 4_000_000",
    "a list of huge numbers": "[10 ** 400, -10 ** 400]",
    "infinity": "float('inf')",
    "NaN": "float('nan')",
    "a complex NaN": "complex('nan+infj')",
    "a signalling NaN": "__import__('decimal').Decimal('sNaN')",
    "a negative signalling NaN with digits": "__import__('decimal').Decimal('-sNaN123')",
    "a list of signalling NaNs": "[__import__('decimal').Decimal('sNaN')] * 2",
    "a dict of signalling NaNs": "{1: __import__('decimal').Decimal('sNaN')}",
    "a Decimal beyond all limits": "__import__('decimal').Decimal('1e999999999')",
    "a Fraction of huge numbers": "__import__('fractions').Fraction(10 ** 1500, 3)",
    "the longest timedelta": "__import__('datetime').timedelta.max",
    "a date": "__import__('datetime').datetime(9999, 12, 31)",
    "a range beyond all limits": "range(-10 ** 400, 10 ** 400, 7)",
    "a set of equal hashes": "{n * (2 ** 61 - 1) for n in range(2000)}",
    "a dict of equal hashes": "{n * (2 ** 61 - 1): n for n in range(2000)}",
    "a lone surrogate": "'\\ud800'",
    "a set of surrogates": "{'\\ud800', '\\udfff'}",
    "a list 90 deep": "__import__('functools').reduce(lambda x, _: [x], range(90), 1)",
    "a list 150 deep": "__import__('functools').reduce(lambda x, _: [x], range(150), 1)",
    "a tuple 1000 deep": "__import__('functools').reduce(lambda x, _: (x,), range(1000), 1)",
    "a dict 100000 deep": "__import__('functools').reduce(lambda x, _: {1: x}, range(100000), 1)",
}
_EXPECTED: dict[str, Any] = {
    "a float": 0.5,
    "an int": 25,
    "a list of floats": [0.5, 1e300],
    "infinity": float("inf"),
    "NaN": float("nan"),
    "a text": "25",
    "a dict": {"1": 0.5},
    "a Decimal": Decimal("0.5"),
}
VALUES = tuple(
    single(
        f"{name} where {wanted} is expected ({comparison.value})",
        problem(CallTest("f", (5,), expected, unwrap=isinstance(expected, list))),
        f"def f(n): return {value}",
        # Infinity equals infinity, and a call may meet an expected NaN with NaN. Nothing else here is expected.
        ANY if name == wanted and name in ("infinity", "NaN") else NEVER_PASSED,
        comparison,
    )
    for name, value in _NUMBERS.items()
    for wanted, expected in _EXPECTED.items()
    for comparison in _BOTH
)

_ASSERTIONS = (
    "assert abs(f(5) - 2) < 1e-6",
    "assert abs(f(5) - 0.5) <= 1e-6",
    "assert abs(f(5) - 10 ** 2) < 1",
    "import_math_isclose",
    "assert f(5) < 3 - 9",
    "assert f(5) == 25",
    "assert f(5) in (1, 2.5)",
    "assert f(5) in {1, 2.5}",
    "assert f(5) == set([1, 2])",
    "assert f(5) is True",
    "assert round(f(5), 2) == 1.57",
    "assert f(5) == Decimal('25')",
)
ASSERTED = tuple(
    single(
        f"{name} in `{assertion}`",
        problem(AssertTest(assertion.replace("import_math_isclose", "assert math.isclose(f(5), 3, rel_tol=1e-9)"))),
        f"def f(n): return {value}",
        ANY if "<" in assertion and "-10 **" in value else NEVER_PASSED,
    )
    for name, value in _NUMBERS.items()
    for assertion in _ASSERTIONS
)

# The codec may not be able to carry what a test passes or expects. The verdict may be a grader error, but there is one.
TESTS_BEYOND = (
    *(
        single(
            f"argument and answer {depth} deep",
            problem(CallTest("f", (_nested(depth),), _nested(depth))),
            source,
            right,
        )
        for depth in (99, 101, 150, 400)
        for source, right in (
            ("def f(x): return x", (PASSED, *ANY_VERDICT)),
            ("def f(x): return 0", ANY_VERDICT[1:]),
        )
    ),
    single(
        "a long argument",
        problem(CallTest("f", ("x" * (3 << 20),), 3 << 20)),
        "def f(x): return len(x)",
        ANY_VERDICT,
    ),
    single(
        "a long answer",
        problem(CallTest("f", (3 << 20,), "x" * (3 << 20))),
        "def f(n): return 'x' * n",
        ANY_VERDICT,
    ),
    single(
        "an argument that the codec does not know",
        problem(CallTest("f", (object(),), 1)),
        "def f(x): return 1",
        ANY_VERDICT,
    ),
    single(
        "an assert that cannot be taken apart",
        problem(AssertTest("assert f(1) == g(2)")),
        "def f(n): return n",
        ANY_VERDICT,
    ),
    single(
        "a closed answer that fails",
        problem(AssertTest("assert f(1) == int('x')")),
        "def f(n): return n",
        ANY_VERDICT,
    ),
    single(
        "a closed answer that never ends",
        problem(AssertTest("assert f(1) == sum(range(10**12))")),
        "def f(n): return n",
        ANY_VERDICT,
    ),
    single(
        "a check that is no Python",
        problem(CheckTest("def check(c) return", "f")),
        "def f(n): return n",
        ANY_VERDICT,
    ),
    single("a check without a check", problem(CheckTest("x = 1", "f")), "def f(n): return n", (ANY_VERDICT[1:])),
    single(
        "a check that exits",
        problem(CheckTest("raise SystemExit(0)", "f")),
        "def f(n): return n",
        (ANY_VERDICT[1:]),
    ),
    single(
        "an unequal list of one",
        problem(CallTest("f", (5,), [], unwrap=True)),
        "def f(n): return 0",
        ANY_VERDICT[1:],
    ),
)

_OUTPUTS = {
    "a million digits": "print('1' * 10**6)",
    "a number beyond floats": "print('1' * 399)",
    "an exponent beyond floats": "print('1e99999')",
    "NaN": "print('nan')",
    "infinity": "print('inf')",
    "a lone surrogate": "import sys\nsys.stdout.buffer.write(b'\\xed\\xa0\\x80')",
    "bytes that are no text": "import sys\nsys.stdout.buffer.write(bytes(range(256)))",
    "zero bytes": "print('\\0' * 1000)",
    "full-width digits": "print('\\uff12\\uff15')",
    "Arabic digits": "print('\\u0662\\u0665')",
    "underscores": "print('2_5')",
    "a hexadecimal float": "print('0x1.9p4')",
    "many empty lines": "print('\\n' * 10**6)",
    "many words": "print('1 ' * 10**6)",
    "many separators": "print('\\x1c\\x85\\u2028' * 10**5)",
}
OUTPUTS = tuple(
    single(
        f"{name} where {wanted!r} is expected ({comparison.value})",
        problem(StdinTest("5\n", wanted)),
        source,
        right,
        comparison,
    )
    for name, source in _OUTPUTS.items()
    for wanted in ("25\n", "0.5\n", "1 2\n3.5 4\n", "text\n")
    for comparison in _BOTH
    # The published rules are looser: they accept any number that Python's `float` can read.
    for right in [ANY if comparison is Comparison.APPS and ("digits" in name or "_" in source) else NEVER_PASSED]
)

_ERRORS = {
    "a name that is empty": "raise type('', (Exception,), {})('m')",
    "a name of two words": "raise type('x y', (Exception,), {})('m')",
    "a name of line ends": "raise type('x\\n\\r\\x00', (Exception,), {})('m')",
    "a name in Cyrillic": "raise type('\\u041e\\u0448\\u0438\\u0431\\u043a\\u0430', (Exception,), {})('m')",
    "a name of a surrogate": "class E(Exception): pass\nE.__name__ = '\\ud800'\nraise E",
    "a name of a million letters": "raise type('x' * 10**6, (Exception,), {})('m')",
    "a dunder name": "raise type('__class__', (Exception,), {})('m')",
    "the name of a signal": "raise type('SIGKILL', (Exception,), {})('m')",
    "a metaclass that lies": "class M(type):\n  __name__ = property(lambda s: 1 / 0)\n"
    "class E(Exception, metaclass=M): pass\nraise E",
    "a message that raises": "class E(Exception):\n  def __str__(self): raise E\nraise E",
    "a message that is no text": "class E(Exception):\n  def __str__(self): return 5\nraise E",
    "a message of a text that lies": "class S(str):\n  __getitem__ = lambda *a: 1 / 0\n"
    "class E(Exception):\n  def __str__(self): return S('x')\nraise E",
    "a message of surrogates": "raise ValueError('\\ud800' * 1000)",
    "a message of 10 MB": "raise ValueError('x' * 10**7)",
    "a message of control characters": "raise ValueError(''.join(map(chr, range(300))))",
    "a message that exits": "import os\nclass E(Exception):\n  def __str__(self): os._exit(0)\nraise E",
    "a message that recurses": "class E(Exception):\n  def __str__(self): return str(self)\nraise E",
    "no traceback": "try: 1 / 0\nexcept Exception as e: x = e\nraise x.with_traceback(None)",
    "a traceback of its own": "import types\ntry: 1 / 0\nexcept Exception as e: x = e\n"
    "raise x.with_traceback(types.TracebackType(None, x.__traceback__.tb_frame, 10**9, -5))",
    "a syntax error with odd places": "raise SyntaxError('m', ('f', 'x', [], 1))",
    "a syntax error of huge places": "raise SyntaxError('m', ('f', 10**30, 10**30, 't'))",
    "a syntax error whose parts raise": "class E(SyntaxError):\n  lineno = property(lambda s: 1 / 0)\n"
    "  msg = lineno\nraise E",
    "an exception group": "raise BaseExceptionGroup('g', [KeyboardInterrupt(), SystemExit(0)])",
    "a deep chain of causes": "e = ValueError()\nfor _ in range(10**5):\n  n = ValueError()\n  n.__cause__ = e\n"
    "  e = n\nraise e",
    "a generator's exit": "raise GeneratorExit",
    "an interrupt": "raise KeyboardInterrupt",
    "a huge exit status": "raise SystemExit(10**100 + 1)",
    "a negative exit status": "raise SystemExit(-1)",
    "an exit with words": "raise SystemExit('\\ud800' * 10**6)",
    "an exit with an int that fights back": "class I(int):\n  __and__ = __rand__ = lambda s, o: 1 / 0\n"
    "raise SystemExit(I(3))",
    "an exit whose code raises": "class E(SystemExit):\n  code = property(lambda s: 1 / 0)\nraise E",
    "the name of a memory error": "class MemoryError(Exception): pass\nraise MemoryError('x')",
}
_STATUSES = {
    f"exit {status} after {record!r}": f"import os\nos.write(3, {record!r})\nos._exit({status})"
    for status in (1, 86, 87, 111, 120, 255)
    for record in (b"", b"E", b"V", b"S", b"Et\xff\xff\xff\xff", b"Et\x04\0\0\0u\x01\0\0\0xNNN", b"l\x01\0\0\0" * 9999)
}
ERRORS = tuple(
    single(f"{name}, {kind}", on, head + "\n".join(f"  {line}" for line in source.splitlines()) + tail)
    for name, source in (_ERRORS | _STATUSES).items()
    for kind, on, head, tail in (
        ("stdin", SQUARE, "if True:\n", ""),
        ("several", SQUARES, "if True:\n", ""),
        ("call", CALL, "def f(n):\n", ""),
        ("assert", ASSERT, "def f(n):\n", ""),
        ("check", CHECK, "def f(n):\n", ""),
    )
)

_PREFIXED = problem(StdinTest("5\n", "25\n"), prefix="import math\n\n")
_ODD = {
    "a zero byte": "print(25)\0",
    "only zero bytes": "\0" * 100,
    "a lone surrogate": "x = '\udfff'",
    "a lone surrogate in a comment": "# \udfff\nprint(0)",
    "a line of 10 MB": "x = '" + "y" * 10**7 + "'",
    "a million lines": "x = 1\n" * 10**6,
    "parentheses 100,000 deep": "(" * 10**5 + ")" * 10**5,
    "lists 50,000 deep": "x = " + "[" * 50000 + "]" * 50000,
    "blocks 200 deep": "\n".join(" " * n + "if 1:" for n in range(200)) + "\n" + " " * 200 + "x = 1",
    "a chain of 100,000 attributes": "x = a" + ".a" * 10**5,
    "100,000 nots": "x = " + "not " * 10**5 + "1",
    "a name of a million letters": "x" * 10**6 + " = 1",
    "a number of a million digits": "x = " + "1" * 10**6,
    "an unknown escape in every line": "x = '\\q'\n" * 5000,
    "an empty program": "",
    "only blanks": "   \n\t\n",
    "a form feed": "\fx = 1\f\n\fprint(0)",
    "bytes beyond the basic plane": "x = '\U0010ffff'\n\u2028print(0)",
    "a future import in the middle": "x = 1\nfrom __future__ import annotations",
    "an f-string 150 deep": "x = " + "f'{" * 150 + "1" + "}'" * 150,
    "an await outside": "await x",
    "a return outside": "return 25",
    "20,000 functions": "def f(n): return 0\n" * 20000,
}
SOURCES = tuple(
    single(f"{name}, {kind}", on, source)
    for name, source in _ODD.items()
    for kind, on in (
        ("stdin", SQUARE),
        ("several", SQUARES),
        ("behind a prefix", _PREFIXED),
        ("call", CALL),
        ("check", CHECK),
    )
)
ALL = SIGNALS + VALUES + ASSERTED + TESTS_BEYOND + OUTPUTS + ERRORS + SOURCES

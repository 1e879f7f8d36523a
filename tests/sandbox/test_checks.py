"""Assertions in real jails: what a program may answer, and what it cannot bring about by its own objects."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rltf.problems.types import AssertTest, CheckTest, Problem, Test, UnusableRowError
from rltf.sandbox import judge
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation, Outcome
from rltf.settings import SandboxSettings

YES = """
class Yes:
    def __getattr__(self, name): return lambda *a, **k: True
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __contains__ = __lt__
    def __bool__(self): return True
    def __len__(self): return 2
    def __getitem__(self, key): return self
    def __call__(self, *a, **k): return self
    def __sub__(self, other): return self
    __rsub__ = __add__ = __radd__ = __and__ = __sub__
    def __abs__(self): return self
    def __hash__(self): return 1
    def __int__(self): return 4
    def __index__(self): return 4
    def __float__(self): return 4.0
    def __round__(self, *a): return self
def f(*a, **k): return Yes()
"""
SUBCLASSES = """
class Text(str):
    def startswith(self, *a): return True
    def __eq__(self, other): return True
    __hash__ = str.__hash__
class Number(int):
    def __eq__(self, other): return True
    def __sub__(self, other): return 0
    __hash__ = int.__hash__
class Numbers(list):
    def __eq__(self, other): return True
    def __len__(self): return 2
    def __contains__(self, item): return True
    def __getitem__(self, key): return 4
    __hash__ = None
def f(kind=0): return {0: Number(7), 1: Text("wrong"), 2: Numbers([1])}[kind]
"""

OWN_ITERATOR = """
class Counting:
    n = 0
    def __iter__(self): return self
    def __next__(self):
        self.n += 1
        if self.n > 2: raise StopIteration
        return self.n
def f(): return Counting()
"""
DEFAULT_DICT = """
from collections import defaultdict
def f(x):
    found = defaultdict(list)
    found[x].append(1)
    return found
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxSettings(cpu_s=1.0, wall_s=3.0), Isolation.LANDLOCK) as sandbox:
        yield sandbox


def outcome(sandbox: Sandbox, test: str | Test, program: str, setup: str = "") -> Outcome:
    made = AssertTest(f"assert {test}", setup) if isinstance(test, str) else test
    return sandbox.grade(Problem("p", "jsonl", "?", (made,)), program, "0").outcome


@pytest.mark.parametrize(
    "condition",
    [
        'f(5).startswith("x")',
        "f(5).__eq__(25)",
        "f(5)[0] == 25",
        "f(5)[1:] == [4]",
        "f(5) in (25, 26)",
        "25 in f(5)",
        "f(5).__contains__(25)",
        "not f(5).__ne__(25)",
        "all(f(x) for x in (1, 2)) and f(5) == 25",
        "all(f(x) == x * x for x in (1, 2))",
        "set(f(5)) == {1, 2}",
        "sorted(f(5)) == [1, 2]",
        "list(f(5)) == [1, 2]",
        "len(f(5)) == 2",
        "type(f(5)) is int",
        "isinstance(f(5), int)",
        "round(f(5), 2) == 0.33",
        "int(f(5)) == 4",
        "str(f(5)) == '25'",
        "abs(f(5) - 0.5) < 10 ** -6",
        "abs(f(5) - 0.5) < 1e-6",
        "24 < f(5) < 26",
        "f(5) == 25 or f(5) == 26",
        "f(5) - 25 == 0",
        "max(f(5), 26) == 26",
        "f(5) == f(6) == 30",
        "any(f(x) == 25 for x in (5, 6))",
        "{f(5): 1} == {25: 1}",
        "f(f(5)) == 25",
        "math.isclose(f(5), 25)",
        "not (f(5) - 25)",
        "sum(map(f, [5])) == 25",
        "sorted([3, 1], key=f)[0] == 3",
        "''.join(f(5)) == 'ab'",
        "'%s' % f(5) == '25'",
        "f'{f(5)}' == '25'",
        "next(f(5)) == 25",
        "callable(f(5)(1)(2)) and f(5)(1)(2) == 4",
    ],
)
def test_object_that_equals_everything_matches_no_answer(sandbox: Sandbox, condition: str) -> None:
    try:
        assert outcome(sandbox, condition, YES) in (Outcome.FAILED, Outcome.RUNTIME_ERROR)
    except UnusableRowError:
        pytest.fail("the row is refused, which closes the hole but tests nothing here")


@pytest.mark.parametrize(
    "condition",
    [
        "f(0) == 25",
        "f(0) - 25 == 0",
        'f(1).startswith("x")',
        'f(1) == "right"',
        'f(1)[0] == "r"',
        "f(2) == [4, 4]",
        "len(f(2)) == 2",
        "4 in f(2)",
        "f(2)[0] == 4",
        "f(0).__eq__(25)",
        "set(f(2)) == {4}",
    ],
)
def test_methods_of_subclasses_are_ignored(sandbox: Sandbox, condition: str) -> None:
    assert outcome(sandbox, condition, SUBCLASSES) in (Outcome.FAILED, Outcome.RUNTIME_ERROR)


@pytest.mark.parametrize(
    "error", ["StopIteration", "StopAsyncIteration", "GeneratorExit", "type('S', (StopIteration,), {})"]
)
def test_stop_iteration_is_not_a_success(sandbox: Sandbox, error: str) -> None:
    program = f"def f(x): raise {error}\n"
    for condition in ("all(map(f, (1, 2)))", "all(f(x) == x for x in (1, 2))", "list(map(f, [1])) == []"):
        assert outcome(sandbox, condition, program) is Outcome.RUNTIME_ERROR
    check = "def check(candidate):\n    for x in map(candidate, [1, 2]):\n        assert x == 1\n"
    assert outcome(sandbox, CheckTest(check, "f"), program) is Outcome.RUNTIME_ERROR


@pytest.mark.parametrize(
    ("setup", "condition", "program"),
    [
        ("expected = 25", "f(5) == expected", "def f(x): return globals().get('expected', 0)"),
        ("xs = [3, 1]", "f(xs) == sorted(xs)", "def f(xs):\n    xs.clear()\n    return []"),
        ("xs = [3, 1]\nanswer = {'a': [1, 3]}", "f(xs) == answer['a']", "def f(xs): return answer['a']"),
    ],
)
def test_literals_in_the_setup_stay_outside(sandbox: Sandbox, setup: str, condition: str, program: str) -> None:
    assert outcome(sandbox, condition, program, setup) in (Outcome.FAILED, Outcome.RUNTIME_ERROR)
    honest = "def f(x): return 25 if x == 5 else sorted(x)\n"
    assert outcome(sandbox, condition, honest, setup) is Outcome.PASSED


@pytest.mark.parametrize("condition", ["f(xs) == sorted(xs)", "f(xs) == xs", "f(xs) is None and xs == [1]"])
def test_setup_values_that_the_program_could_change_are_refused(condition: str) -> None:
    with pytest.raises(UnusableRowError, match=r"`xs`"):
        judge.plan(AssertTest(f"assert {condition}", "xs = list(range(3))"))


def test_arguments_belong_to_the_test(sandbox: Sandbox) -> None:
    program = "def f(xs, *_):\n    ys = list(xs)\n    xs.clear()\n    return []\n"
    check = "def check(candidate):\n    xs = [3, 1]\n    assert candidate(xs) == sorted(xs)\n"
    assert outcome(sandbox, CheckTest(check, "f"), program) is Outcome.FAILED
    assert outcome(sandbox, "all(f(xs) == sorted(xs) for xs in [[3, 1]])", program) is Outcome.FAILED
    kept = "def check(candidate):\n    xs = [3, 1]\n    got = candidate(xs)\n    assert got == sorted(xs)\n"
    assert outcome(sandbox, CheckTest(kept, "f"), program) is Outcome.FAILED


@pytest.mark.parametrize(
    "body",
    [
        "    candidate(xs)\n    assert xs == [1, 3]\n",
        "    assert candidate(xs) is None\n    assert xs == [1, 3]\n",
        "    assert candidate(xs=xs) is None and xs == [1, 3]\n",
        "    f(xs)\n    assert xs == [1, 3]\n",
    ],
)
def test_calls_in_place_change_their_arguments(sandbox: Sandbox, body: str) -> None:
    test = CheckTest(f"def check(candidate):\n    xs = [3, 1]\n{body}", "f")
    assert outcome(sandbox, test, "def f(xs): xs.sort()\n") is Outcome.PASSED
    assert outcome(sandbox, test, "def f(xs): xs.clear()\n") is Outcome.FAILED
    assert outcome(sandbox, test, "def f(xs): pass\n") is Outcome.FAILED


@pytest.mark.parametrize(
    ("condition", "program"),
    [
        ("set(f(2)) == {2, 4}", "def set(*a): return {2, 4}\ndef f(x): return [1]\n"),
        ("len(f(2)) == 2", "def len(*a): return 2\ndef f(x): return [1]\n"),
        ("isinstance(f(2), list)", "def isinstance(*a): return True\ndef f(x): return 1\n"),
        ("all(f(x) == x for x in (1, 2))", "def all(*a): return True\ndef f(x): return 0\n"),
        ("sorted(f(2)) == [1, 2]", "import builtins\nbuiltins.sorted = lambda *a: [1, 2]\ndef f(x): return [3]\n"),
    ],
)
def test_names_that_the_program_redefines_stay_in_its_process(sandbox: Sandbox, condition: str, program: str) -> None:
    assert outcome(sandbox, condition, program) is Outcome.FAILED


@pytest.mark.parametrize(
    ("condition", "program", "setup"),
    [
        ("f(x=1) + f(x=2) == 5", "def f(x): return x + 1", ""),
        ("f(2)(3) == 5", "def f(a): return lambda b: a + b", ""),
        ("f(2)(3) + 1 == 6", "def f(a): return lambda b: a + b", ""),
        ("callable(f(2)) and f(2)(3) == 5", "def f(a): return lambda b: a + b", ""),
        ("list(f([1])) == [2]", "def f(a): return map(lambda x: x + 1, a)", ""),
        ("next(f()) == 1", "def f():\n    while True: yield 1", ""),
        ("list(itertools.islice(f(), 3)) == [0, 1, 2]", "import itertools\ndef f(): return itertools.count()", ""),
        ("list(f()) == list(range(5000))", "def f(): yield from range(5000)", ""),
        ("tuple(f()) == (1, 2)", OWN_ITERATOR, ""),
        ("type(f()) is dict and f() == {}", "def f(): return {}", ""),
        ("type(f()) == Counter", "from collections import Counter\ndef f(): return Counter()", ""),
        ("f() is int or f() == int", "def f(): return int", ""),
        ("sorted([1, 3], key=check) == [3, 1]", "def check(x): return -x", ""),
        ("candidate(1) + 1 == 2", "def candidate(x): return x", ""),
        ("f(1) == g(1)", "def f(x): return x\ndef g(x): return x", ""),
        ("abs(area(Point(1, 2)) - 2) < 10 ** -6", "class Point:\n    def __init__(s, x, y): s.x, s.y = x, y\n"
         "def area(p): return p.x * p.y", ""),
        ("sorted(Solution().f([3, 1])) == [1, 3]", "class Solution:\n    def f(self, xs): return xs", ""),
        ("Solution().f(1) == Solution().f(1) == 1", "class Solution:\n    def __init__(self): self.n = 0\n"
         "    def f(self, x):\n        self.n += x\n        return self.n", ""),
        ("f(root) + 1 == 4", "def f(node): return node.v", "class N:\n    def __init__(s, v): s.v = v\nroot = N(3)"),
        ("to_list(rev(make([1, 2]))) == [2, 1]", "def rev(a): return a[::-1]",
         "def make(a): return tuple(a)\ndef to_list(a): return list(a)"),
        ("sorted(f(lambda x: -x, [1, 2])) == [-2, -1]", "def f(g, xs): return list(map(g, xs))", ""),
        ("f(1) == 2 if True else False", "def f(x): return x + 1", ""),
        ("f('a') == {'a': [1]} and list(f('a').keys()) == ['a']", DEFAULT_DICT, ""),
        ("abs(f() - 0.5) < 1e-6", "from fractions import Fraction\ndef f(): return Fraction(1, 2)", ""),
        ("f().keys() == {1} and f().keys() == g()", "def f(): return {1: 2}\ndef g(): return {1: 2}.keys()", ""),
        ("f() == OrderedDict(a=1, b=2)", "def f(): return {'b': 2, 'a': 1}", ""),
    ],
)  # fmt: skip
def test_honest_programs_pass(sandbox: Sandbox, condition: str, program: str, setup: str) -> None:
    assert outcome(sandbox, condition, program, setup) is Outcome.PASSED


@pytest.mark.parametrize(
    ("raised", "caught"),
    [
        ("ValueError('bad')", "ValueError"),
        ("type('V', (ValueError,), {})('bad')", "ValueError"),
        ("KeyError('bad')", "LookupError"),
        ("__import__('json').JSONDecodeError('bad', '{', 0)", "json.JSONDecodeError"),
        ("UnicodeDecodeError('utf-8', b'', 0, 1, 'bad')", "UnicodeDecodeError"),
        ("FileNotFoundError(2, 'bad')", "OSError"),
        ("ZeroDivisionError('bad')", "ArithmeticError"),
    ],
)
def test_tests_can_catch_the_exceptions_of_programs(sandbox: Sandbox, raised: str, caught: str) -> None:
    source = (
        "import json\ndef check(candidate):\n    try:\n        candidate()\n"
        f"    except {caught} as error:\n        assert 'bad' in str(error)\n    else:\n        assert False\n"
    )
    assert outcome(sandbox, CheckTest(source, "f"), f"def f(): raise {raised}\n") is Outcome.PASSED
    assert outcome(sandbox, CheckTest(source, "f"), "def f(): raise IndentationError('bad')\n") is Outcome.RUNTIME_ERROR
    assert outcome(sandbox, CheckTest(source, "f"), "def f(): return 1\n") is Outcome.FAILED


@pytest.mark.parametrize(
    "source",
    [
        "import nowhere\ndef check(candidate):\n    assert candidate(1) == 1\n",
        "x = 1 / 0\ndef check(candidate):\n    assert candidate(1) == 1\n",
        "def check(candidate):\n    assert candidate(UNKNOWN) == 1\n",
        "def check(candidate):\n    assert candidate(1) == UNKNOWN\n",
        "def check(candidate):\n    assert candidate(open) == 1\n",
        "def check(candidate):\n    pass\n",
        "def check(candidate:\n",
    ],
)
def test_broken_test_is_a_grader_error(sandbox: Sandbox, source: str) -> None:
    for program in ("def f(x): return 1\n", "def f(x): return 2\n"):
        assert outcome(sandbox, CheckTest(source, "f"), program) is Outcome.INFRASTRUCTURE_ERROR


@pytest.mark.parametrize(
    "body",
    [
        "    for last in candidate(1): pass\n    assert last == 1\n",
        "    assert eval(candidate(1)) == 1\n",
        "    assert candidate(candidate(1)) == 1\n",
        "    assert candidate(1).append(2) is None\n",
        "    assert __import__(str(candidate(1))) == 1\n",
    ],
)
def test_wrong_answer_is_not_a_grader_error(sandbox: Sandbox, body: str) -> None:
    test = CheckTest(f"def check(candidate):\n{body}", "f")
    for program in ("def f(x): return ''\n", "def f(x): return object()\n", "def f(x): return 'unknown'\n"):
        assert outcome(sandbox, test, program) in (Outcome.FAILED, Outcome.RUNTIME_ERROR)


def test_tests_cannot_catch_a_program_that_exits(sandbox: Sandbox) -> None:
    source = "def check(candidate):\n    try:\n        candidate(1)\n    except:\n        pass\n"
    assert outcome(sandbox, CheckTest(source, "f"), "import os\ndef f(x): os._exit(0)\n") is Outcome.FAILED

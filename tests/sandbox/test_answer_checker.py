"""Problems with several right answers, and limits that problems carry themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rltf.problems.types import (
    AnswerRule,
    CallTest,
    Checker,
    CheckerForm,
    Limits,
    Order,
    Problem,
    ReferenceTest,
    StdinTest,
)
from rltf.sandbox.jobs import RunLimits
from rltf.sandbox.sandbox import Sandbox, run_limits
from rltf.sandbox.verdict import GRADER_ERROR, Isolation, Outcome
from rltf.settings import MIB, SandboxSettings

# Two positive numbers with the given sum, in any order and of any size.
ANY_SUM = """
def check(input, expected, actual):
    a, b = map(int, actual.split())
    return a > 0 and b > 0 and a + b == int(input)
"""
# Exit status as in testlib: 0 right, 1 wrong, 2 not in the expected form.
PROGRAM = """
import sys
given, answer, expected = (open(name).read() for name in sys.argv[1:])
try:
    a, b = map(int, answer.split())
except ValueError:
    sys.exit(2)
sys.exit(0 if a + b == int(given) and len(expected.split()) == 2 else 1)
"""
# As in open-r1's Codeforces problems: prints 1 if the answer is right. The answer is the last file.
SCORE = """
import sys
given, expected, answer = (open(name).read().split() for name in sys.argv[1:])
print(int(len(answer) == len(expected) and sum(map(int, answer)) == int(given[0])))
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxSettings(cpu_s=1.0, wall_s=4.0, memory_bytes=160 * MIB), Isolation.NAMESPACES) as sandbox:
        yield sandbox


def sums(checker: Checker | AnswerRule | None) -> Problem:
    tests = (StdinTest("5\n", "1 4\n"), StdinTest("7\n", "1 6\n"))
    return Problem("sum", "any", "", tests, checker=checker)


@pytest.mark.parametrize(
    "checker", [Checker(ANY_SUM), Checker(PROGRAM, CheckerForm.PROGRAM), Checker(SCORE, CheckerForm.SCORE)]
)
@pytest.mark.parametrize(
    ("program", "outcomes"),
    [
        ("n = int(input()); print(1, n - 1)", "passed passed"),
        ("n = int(input()); print(n - 2, 2)", "passed passed"),
        ("n = int(input()); print(2, 3)", "passed failed"),
        ("n = int(input()); print(n)", "failed failed"),
        ("n = int(input()); print('True')", "failed failed"),
        ("n = int(input()); print(1, n - 1) if n == 5 else print(1 / 0)", "passed runtime_error"),
    ],
)
def test_a_checker_decides_about_answers(sandbox: Sandbox, checker: Checker, program: str, outcomes: str) -> None:
    verdict = sandbox.grade(sums(checker), program, "0")
    assert " ".join(verdict.tests) == outcomes


def test_the_first_answer_that_the_checker_rejects_is_shown(sandbox: Sandbox) -> None:
    verdict = sandbox.grade(sums(Checker(ANY_SUM)), "n = int(input()); print(3, 2)", "0")
    assert (verdict.outcome, verdict.actual) == (Outcome.FAILED, "3 2\n")
    assert sandbox.grade(sums(Checker(ANY_SUM)), "print(9)", "1").actual == "9\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "def check(input, expected, actual):\n    return False\n",
            "rejects the expected answer",
        ),
        ("def check(input, expected, actual):\n    return 1 / 0\n", "fails (ZeroDivisionError: "),
        ("def check(input, expected, actual)\n    return True\n", "fails (SyntaxError: "),
        ("def verify(input, expected, actual):\n    return True\n", "fails (NameError: "),
    ],
)
def test_a_broken_checker_says_nothing_about_the_program(sandbox: Sandbox, source: str, reason: str) -> None:
    verdict = sandbox.grade(sums(Checker(source)), "n = int(input()); print(2, n - 2)", "0")
    assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR
    assert verdict.error is not None
    assert verdict.error.type == GRADER_ERROR
    assert verdict.error.message.startswith(f"the checker of test 1 {reason}")


def test_a_checker_gets_the_values_of_calls(sandbox: Sandbox) -> None:
    is_divisor = Checker(
        "def check(input, expected, actual):\n    return 1 < actual < input[0] and input[0] % actual == 0\n"
    )
    tests = (CallTest("divisor", (15,), 3), CallTest("divisor", (35,), 5))
    problem = Problem("divisor", "any", "", tests, checker=is_divisor)
    largest = "def divisor(n): return max(d for d in range(2, n) if n % d == 0)"
    assert sandbox.grade(problem, largest, "0").passed
    agrees = "class Agrees(int):\n    def __eq__(s, o): return True\n    def __lt__(s, o): return True\n"
    assert not sandbox.grade(problem, agrees + "def divisor(n): return Agrees(n)", "1").passed
    assert not sandbox.grade(problem, "def divisor(n): return object()", "2").passed
    reference = "def divisor(n): return next(d for d in range(2, n) if n % d == 0)"
    computed = Problem("r", "any", "", (ReferenceTest("divisor", (35,)),), (reference,), checker=is_divisor)
    assert sandbox.grade(computed, largest, "3").passed
    assert not sandbox.grade(computed, "def divisor(n): return n", "4").passed


@pytest.mark.slow
def test_hostile_answers_do_not_get_past_a_checker(sandbox: Sandbox) -> None:
    # The worst checker there is: it runs the answer.
    careless = Checker("def check(input, expected, actual):\n    return eval(actual) == int(input)\n")
    problem = Problem("any", "any", "", (StdinTest("5\n", "5\n"), StdinTest("6\n", "6\n")), checker=careless)
    assert sandbox.grade(problem, "print(int(input()) + 0, '+ 0')", "0").passed
    leaks = 'print(\'open("/tmp/leak", "w").write("x")\')'
    assert not sandbox.grade(problem, leaks, "1").passed
    assert sandbox.grade(problem, 'print(\'len(__import__("os").listdir("/tmp")) + \' + input())', "2").passed
    verdict = sandbox.grade(problem, "print('sum(iter(int, 1))')", "3")
    assert verdict.tests == (Outcome.FAILED, Outcome.SKIPPED)
    assert sandbox.grade(problem, "print(input())", "4").passed


def test_no_program_sees_what_the_checker_sees(sandbox: Sandbox) -> None:
    looks = "import gc, sys\nprint([o for o in gc.get_objects() if isinstance(o, str) and '1 4' in o and len(o) < 9])\n"
    assert sandbox.grade(sums(Checker(ANY_SUM)), looks, "0").actual == "[]\n"


@pytest.mark.parametrize(
    ("rule", "expected", "right", "wrong"),
    [
        (
            AnswerRule(any_order=Order.LINES),
            "1 2\n3 4\n3 4\n",
            "3 4\n1 2\n3 4\n",
            ["1 2\n1 2\n3 4\n", "2 1\n3 4\n3 4\n"],
        ),
        (AnswerRule(any_order=Order.TOKENS), "1 2\n3\n", "3 2 1\n", ["1 2\n", "1 2 3 3\n", "1 2 4\n"]),
        (AnswerRule(any_order=Order.TOKENS), "0.5 2.0\n", "2.0000001 0.5\n", ["2.1 0.5\n"]),
        (AnswerRule(ignore_case=True), "Yes\n", "YES\n", ["YE S\n", "no\n"]),
        (AnswerRule(absolute=0.01), "100\n", "100.009\n", ["100.02\n", "1e2x\n"]),
        (AnswerRule(relative=0.01), "-2.0\n", "-2.01\n", ["-2.03\n", "2.0\n"]),
    ],
)
def test_rules_of_problems(rule: AnswerRule, expected: str, right: str, wrong: list[str], sandbox: Sandbox) -> None:
    problem = Problem("p", "any", "", (StdinTest("", expected),), checker=rule)
    assert sandbox.grade(problem, f"print({right!r}, end='')", "0").passed
    for answer in wrong:
        assert sandbox.grade(problem, f"print({answer!r}, end='')", "1").outcome is Outcome.FAILED, answer


def test_a_list_may_come_in_any_order(sandbox: Sandbox) -> None:
    problem = Problem("p", "any", "", (CallTest("f", (), [[1, 2], [0.5], "a"]),), checker=AnswerRule(Order.ITEMS))
    assert sandbox.grade(problem, "def f(): return ['a', (1, 2), [0.5 + 1e-9]]", "0").passed
    for wrong in ("['a', [2, 1], [0.5]]", "['a', 'a', [0.5]]", "[[1, 2], [0.5]]", "{'a': 1}"):
        assert not sandbox.grade(problem, f"def f(): return {wrong}", "1").passed, wrong


def test_integers_of_calls_get_no_tolerance(sandbox: Sandbox) -> None:
    rule = AnswerRule(absolute=1e-6, relative=1e-7)
    problem = Problem("p", "any", "", (CallTest("f", (), [10**9, 1e9]),), checker=rule)
    assert sandbox.grade(problem, "def f(): return [10**9, 10**9 + 50]", "0").passed
    assert not sandbox.grade(problem, "def f(): return [10**9 + 1, 10**9]", "1").passed
    assert not sandbox.grade(problem, "def f(): return [10**9, 10**9 + 200]", "2").passed


BUSY = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\nprint(1)\n"


@pytest.mark.slow
@pytest.mark.parametrize(("limit_s", "busy_s", "outcome"), [(0.3, 0.5, "timeout"), (3.0, 1.3, "passed")])
def test_a_problem_sets_its_time_limit(sandbox: Sandbox, limit_s: float, busy_s: float, outcome: str) -> None:
    problem = Problem("p", "any", "", (StdinTest("", "1\n"),), limits=Limits(time_s=limit_s))
    assert sandbox.grade(problem, BUSY.format(busy_s), "0").outcome == outcome


def test_only_limits_of_problems_are_scaled() -> None:
    settings = SandboxSettings(cpu_s=2.0, wall_s=5.0, memory_bytes=100, time_factor=3.0)
    assert run_limits(Limits(), settings) == RunLimits(2.0, 5.0, 100)
    assert run_limits(Limits(time_s=4.0, memory_bytes=60), settings) == RunLimits(12.0, 30.0, 60)
    assert run_limits(Limits(memory_bytes=300), settings) == RunLimits(2.0, 5.0, 100)
    assert run_limits(Limits(time_s=1e308), settings) == RunLimits(settings.program_cpu_s, settings.program_wall_s, 100)


@pytest.mark.parametrize("num_tests", [1, 3])
@pytest.mark.parametrize(
    ("limit", "used", "outcome"),
    [(None, 100, "passed"), (64, 30, "passed"), (64, 100, "memory_limit"), (1024, 200, "memory_limit")],
)
def test_a_problem_lowers_the_memory(
    sandbox: Sandbox, num_tests: int, limit: int | None, used: int, outcome: str
) -> None:
    limits = Limits(memory_bytes=limit and limit * MIB)
    problem = Problem("p", "any", "", (StdinTest("", "1\n"),) * num_tests, limits=limits)
    program = f"x = bytearray({used} << 20)\nx[::4096] = b'1' * len(x[::4096])\nprint(1)\n"
    assert sandbox.grade(problem, program, "0").outcome == outcome
    assert sandbox.grade(problem, "print(1)", "1").passed

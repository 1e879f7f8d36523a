"""What a verdict says about a program."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rltf.problems.types import AssertTest, CallTest, CheckTest, Problem, ReferenceTest, StdinTest
from rltf.sandbox import judge
from rltf.sandbox.jobs import CallJob, CheckJob, End
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.shown import MAX_SHOWN
from rltf.sandbox.verdict import Isolation, Outcome
from tests.sandbox.programs import LIMITS, RIGHT, problem, squares


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(LIMITS, min_isolation=Isolation.LANDLOCK) as sandbox:
        yield sandbox


def test_every_test_has_its_own_outcome(sandbox: Sandbox) -> None:
    program = (
        "n = int(input())\nif n == 1: print(7)\nelif n == 2: 1 / 0\nelif n == 3: bytearray(10**13)\nelse: print(n * n)"
    )
    verdict = sandbox.grade(squares(5), program, "c")
    assert verdict.tests == (
        Outcome.PASSED,
        Outcome.FAILED,
        Outcome.RUNTIME_ERROR,
        Outcome.MEMORY_LIMIT,
        Outcome.PASSED,
    )
    assert verdict.outcome is Outcome.RUNTIME_ERROR
    assert verdict.pass_ratio == 0.4
    assert verdict.error is not None
    assert (verdict.error.type, verdict.error.line) == ("ZeroDivisionError", 3)
    assert verdict.isolation is sandbox.isolation
    assert (verdict.task_id, verdict.completion_id) == ("p", "c")


def test_a_verdict_says_what_came_out_of_the_first_test_that_did_not_pass(sandbox: Sandbox) -> None:
    calls = problem(CallTest("f", (1,), 1), CallTest("f", (2,), 4), CallTest("f", (3,), 9))
    for body, actual in {
        "n ** 2": None,
        "n": "2",
        "[n] * n": "[1]",
        "'é\\n' if n > 1 else 1": "'é\\n'",
        "1 if n == 1 else 1 / 0": None,
        "1 if n == 1 else 1 / 0 if n == 2 else 7": None,
        "object()": "Opaque('object')",
    }.items():
        assert sandbox.grade(calls, f"def f(n): return {body}", "c").actual == actual, body
    assert sandbox.grade(squares(3), "print('é', end='')", "c").actual == "é"
    assert sandbox.grade(squares(3), "pass", "c").actual == ""
    assertion = problem(AssertTest("assert [1, 2] == f(3)"))
    assert sandbox.grade(assertion, "def f(n): return [2, 0]", "c").actual == "[2, 0]"
    # A test function judges on its own, and its calls may be many.
    assertion = problem(AssertTest("assert sorted(f(3)) == [1, 2]"))
    assert sandbox.grade(assertion, "def f(n): return [2, 0]", "c").actual is None


def test_what_came_out_is_cut_off(sandbox: Sandbox) -> None:
    start = sandbox.grade(squares(1), "print('x' * 10 ** 6)", "c").actual
    assert start == "x" * (MAX_SHOWN - 4) + " ..."
    strings = "'ab' * 10 ** 6", "b'ab' * 10 ** 6"
    for value in (*strings, "list(range(10 ** 5))", "{i: [i] for i in range(10 ** 4)}", "[[[]] * 99] * 99"):
        shown = sandbox.grade(problem(CallTest("f", (), 4)), f"def f(): return {value}", "c").actual
        assert shown is not None
        assert 50 < len(shown) <= MAX_SHOWN, value
    large = sandbox.grade(problem(CallTest("f", (), 4)), "def f(): return 10 ** 10 ** 5", "c")
    assert large.actual == "<an integer of 332193 bits>"


def test_after_a_timeout_the_remaining_tests_are_skipped(sandbox: Sandbox) -> None:
    verdict = sandbox.grade(squares(4), "n = int(input())\nwhile n == 1: pass\nprint(n * n)", "c")
    assert verdict.tests == (Outcome.PASSED, Outcome.TIMEOUT, Outcome.SKIPPED, Outcome.SKIPPED)
    assert verdict.outcome is Outcome.TIMEOUT
    assert verdict.cpu_seconds >= LIMITS.cpu_s


@pytest.mark.slow
def test_no_program_gets_more_than_its_total_budget(sandbox: Sandbox) -> None:
    program = "import time\nwhile time.process_time() < 0.3: pass\nprint(int(input()) ** 2)"
    verdict = sandbox.grade(squares(20), program, "c")
    assert verdict.outcome is Outcome.TIMEOUT
    assert verdict.tests[-1] is Outcome.SKIPPED
    # Each test takes 0.3 CPU seconds, the budget is 2.
    assert 1 <= verdict.tests.count(Outcome.PASSED) <= 6


def test_every_test_of_a_broken_program_has_the_syntax_error(sandbox: Sandbox) -> None:
    verdict = sandbox.grade(squares(3), "x = 1\nif x\n  print(x)\n", "c")
    assert set(verdict.tests) == {Outcome.SYNTAX_ERROR}
    assert verdict.error is not None
    assert (verdict.error.type, verdict.error.line, verdict.error.column) == ("SyntaxError", 2, 4)


def test_columns_count_characters(sandbox: Sandbox) -> None:
    for program in ("é = '日本'; 1 / 0", "é = '日本'; x ="):
        verdict = sandbox.grade(squares(1), program, "c")
        assert verdict.error is not None
        assert verdict.error.line == 1
        assert verdict.error.column is not None
        assert program[: verdict.error.column].startswith("é = '日本'; ")


def test_errors_in_an_indented_program_keep_their_position(sandbox: Sandbox) -> None:
    program = "   def f(n):\n       return n / 0\n"
    verdict = sandbox.grade(problem(CallTest("f", (2,), 4)), program, "c")
    assert verdict.error is not None
    assert verdict.error.type == "ZeroDivisionError"
    assert (verdict.error.line, verdict.error.column) == (2, program.split("\n")[1].index("n / 0"))
    prefix = 'def f(n):\n    """Square."""\n'
    verdict = sandbox.grade(problem(CallTest("f", (2,), 4), prefix=prefix), "return n / 0\n", "c")
    assert verdict.error is not None
    assert (verdict.error.line, verdict.error.column) == (1, 7)


def test_errors_after_a_prefix_keep_their_position(sandbox: Sandbox) -> None:
    prefix = 'def f(n):\n    """Square."""\n'
    verdict = sandbox.grade(problem(CallTest("f", (2,), 4), prefix=prefix), "    return n * n\n", "c")
    assert verdict.passed
    verdict = sandbox.grade(problem(CallTest("f", (2,), 4), prefix=prefix), "    x = n\n    return x / 0\n", "c")
    assert verdict.error is not None
    assert (verdict.error.line, verdict.error.column) == (2, 11)
    in_prefix = problem(CallTest("f", (2,), 4), prefix="def f(n):\n    return g() / 0\n")
    verdict = sandbox.grade(in_prefix, "def g(): return 1\n", "c")
    assert verdict.error is not None
    assert verdict.error.line is None


def test_error_line_is_the_innermost_of_the_program(sandbox: Sandbox) -> None:
    program = "import json\ndef g(s):\n  return json.loads(s)\ndef f(n):\n  return g('{')\n"
    (result,) = sandbox.run(program, [CallJob("f", (1,))])
    assert result.error is not None
    assert (result.error.type, result.error.line) == ("JSONDecodeError", 3)


def test_values_keep_their_types(sandbox: Sandbox) -> None:
    values = (None, True, 1, 1.5, 2**20000, "é\0", b"\xff", [1, (2, {3})], {(1, 2): None}, frozenset({1}), 1j, range(3))
    (result,) = sandbox.run("def f(*x): return x", [CallJob("f", values)])
    assert result.value == values
    assert [type(value) for value in result.value] == [type(value) for value in values]


def test_windows_line_ends_in_and_out(sandbox: Sandbox) -> None:
    windows = problem(StdinTest("5\r\n6\r\n", "25\r\n36\r\n"))
    assert sandbox.grade(windows, "for _ in 'ab': print(int(input()) ** 2)", "c").passed


@pytest.mark.slow
def test_check_runs_in_a_process_of_its_own(sandbox: Sandbox) -> None:
    check = "def check(candidate):\n  for n in range(4): assert candidate(n) == n * n\n"
    graded = problem(CheckTest(check, "f"))
    outcomes = {
        "def f(n): return n * n": Outcome.PASSED,
        "class Solution:\n  def f(self, n): return n * n": Outcome.PASSED,
        "def f(n): return n": Outcome.FAILED,
        "def f(n): return 1 / 0": Outcome.RUNTIME_ERROR,
        "def f(n):\n  while True: pass": Outcome.TIMEOUT,
        "import time\ndef f(n): time.sleep(100)": Outcome.TIMEOUT,
        "import os\ndef f(n): os._exit(0)": Outcome.FAILED,
        "import os\ndef f(n): os._exit(1)": Outcome.RUNTIME_ERROR,
        "import os\ndef f(n):\n  for d in (1, 2, 3, 6): os.write(d, b'P' * 9)": Outcome.FAILED,
        "import sys\nsys.modules['check'] = None\ncheck = lambda c: None\ndef f(n): return 0": Outcome.FAILED,
        "import builtins\nbuiltins.AssertionError = ValueError\ndef f(n): return 5": Outcome.FAILED,
        "class E(int):\n  __eq__ = lambda s, o: True\ndef f(n): return E(7)": Outcome.FAILED,
        "def g(n): pass": Outcome.RUNTIME_ERROR,
        "def f(n) pass": Outcome.SYNTAX_ERROR,
    }
    for program, outcome in outcomes.items():
        assert sandbox.grade(graded, program, "c").outcome is outcome, program


def test_check_sees_exceptions_and_changed_arguments(sandbox: Sandbox) -> None:
    raises = (
        "def check(f):\n  try: f(-1)\n  except ValueError as e: assert str(e) == 'negative'\n  else: assert False\n"
    )
    sorts = "def check(f):\n  x = [3, 1, 2]\n  f(x)\n  assert x == [1, 2, 3]\n"
    program = "def f(x):\n  if x == -1: raise ValueError('negative')\n  x.sort()\n"
    # The plan marks which calls show what they did to their arguments.
    results = sandbox.run(program, [judge.plan(CheckTest(source, "f")).job for source in (raises, sorts)])
    assert [result.end for result in results] == [End.OK, End.OK]


def test_broken_check_is_an_infrastructure_error(sandbox: Sandbox) -> None:
    (result,) = sandbox.run("def f(n): return n", [CheckJob("def check(f) pass", "f")])
    assert result.end is End.INFRASTRUCTURE


def test_expected_expressions_are_evaluated_in_a_clean_jail(sandbox: Sandbox) -> None:
    graded = problem(AssertTest("assert f(2) == set([1, 2])"), AssertTest("assert f(3) == set([1, 2, 3])"))
    assert sandbox.grade(graded, "def f(n): return set(range(1, n + 1))", "c").passed
    cheat = "import builtins\nbuiltins.set = list\nset = list\ndef f(n): return [*range(1, n + 1)]"
    assert sandbox.grade(graded, cheat, "c").outcome is Outcome.FAILED


def test_setup_that_always_fails_is_an_infrastructure_error(sandbox: Sandbox) -> None:
    broken = problem(AssertTest("assert f(x) == 1", "x = 1 / 0"))
    verdict = sandbox.grade(broken, "def f(x): return 1", "c")
    assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR
    assert verdict.error is not None
    assert "the setup of test 0 fails (ZeroDivisionError" in verdict.error.message


def test_setup_that_fails_with_the_program_is_a_runtime_error(sandbox: Sandbox) -> None:
    needs_it = problem(AssertTest("assert f(x) == 1", "x = Point(1)"))
    assert sandbox.grade(needs_it, "def f(x): return 1", "c").outcome is Outcome.RUNTIME_ERROR
    sound = problem(AssertTest("assert f(x) == 1", "x = tuple(reversed([3, 1]))"))
    assert sandbox.grade(sound, "def f(x): return x[0]", "c").passed
    spoiled = "import builtins\ndef reversed(x): raise ValueError\nbuiltins.reversed = reversed\ndef f(x): return 1"
    assert sandbox.grade(sound, spoiled, "c").outcome is Outcome.RUNTIME_ERROR


def test_check_that_nothing_can_pass_is_an_infrastructure_error(sandbox: Sandbox) -> None:
    restarts = sandbox.num_restarts
    broken = problem(CheckTest("def check(c):\n  assert c(2) == 2 * undefined\n", "f"))
    verdict = sandbox.grade(broken, "def f(n): return n", "c")
    assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR
    assert verdict.error is not None
    assert (verdict.error.type, verdict.error.message) == (
        "GraderError",
        "the test fails whatever the program answers",
    )
    assert sandbox.num_restarts == restarts


def test_exception_in_the_judge_affects_one_verdict(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Outcome:
        raise OverflowError("too large")

    monkeypatch.setattr(judge, "outcome_of", fails)
    verdict = sandbox.grade(squares(2), RIGHT, "c")
    assert verdict.tests == (Outcome.INFRASTRUCTURE_ERROR,) * 2
    assert verdict.error is not None
    assert (verdict.error.type, verdict.error.message) == ("GraderError", "OverflowError: too large")
    monkeypatch.undo()
    assert sandbox.grade(squares(2), RIGHT, "c").passed


def test_a_reference_test_expects_what_the_reference_returns(sandbox: Sandbox) -> None:
    tests = tuple(ReferenceTest("add", (n, [n])) for n in range(3))
    problem = Problem("1", "any", "", tests, references=("def add(n, ns):\n    return [n + 1, *ns]\n",))
    assert sandbox.grade(problem, "def add(n, ns):\n    return [1 + n] + ns\n", "0").passed
    verdict = sandbox.grade(problem, "def add(n, ns):\n    return [2, 1]\n", "1")
    assert verdict.tests == (Outcome.FAILED, Outcome.PASSED, Outcome.FAILED)


def test_a_reference_that_fails_says_nothing_about_the_program(sandbox: Sandbox) -> None:
    problem = Problem("1", "any", "", (ReferenceTest("f", (0,)),), references=("def f(n):\n    return 1 / n\n",))
    verdict = sandbox.grade(problem, "def f(n):\n    return 0\n", "0")
    assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR
    assert verdict.error is not None
    assert "the expected value of test 0 fails (ZeroDivisionError" in verdict.error.message

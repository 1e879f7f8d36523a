"""What is sent into the jail holds no answer, and what comes back is judged as the statement says."""

from __future__ import annotations

import contextlib
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.problems.types import AssertTest, CallTest, CheckTest, StdinTest
from rltf.sandbox.codec import Opaque
from rltf.sandbox.compare import Comparison
from rltf.sandbox.jobs import CallJob, CheckJob, ClosedJob, End, ExpressionJob, RunResult, StdinJob
from rltf.sandbox.judge import outcome_of, plan
from rltf.sandbox.verdict import Outcome


def judged(assertion: str, value: Any, closed: Any = None) -> Outcome:
    made = plan(AssertTest(assertion))
    assert isinstance(made.job, ExpressionJob)
    closed_result = RunResult(End.OK, value=closed) if made.closed else None
    return outcome_of(made, RunResult(End.OK, value=value), closed_result)


@pytest.mark.parametrize(
    ("assertion", "sent"),
    [
        ("assert f(2) == [417, 'x']", "f(2)"),
        ("assert 417 == f(2)", "f(2)"),
        ("assert f(2) < 417", "f(2)"),
        ("assert f(2) in (417, 418)", "f(2)"),
        ("assert Solution().f(2) == 417", "Solution().f(2)"),
        ("assert Point(2).x == 417", "Point(2).x"),
        ("assert sum(10, 15) == 417", "sum(10, 15)"),
        ("assert abs(f(2) - 417.0) < 1e-6", "f(2)"),
        ("assert abs(417.0 - f(2)) <= 1e-6", "f(2)"),
        ("assert math.isclose(f(2), 417.0, rel_tol=0.001)", "f(2)"),
        ("assert f(2) == float('417')", "f(2)"),
        ("assert f(2) == sys.getsizeof(417)", "f(2)"),
        ("assert f(2)", "not not (f(2))"),
        ("assert not f(2)", "not not (f(2))"),
    ],
)
def test_the_answer_is_not_sent(assertion: str, sent: str) -> None:
    job = plan(AssertTest(assertion, setup="import math")).job
    assert job == ExpressionJob(sent, "import math")


@pytest.mark.parametrize(
    "assertion",
    [
        "assert f(2) - 417 == 0",
        "assert f(1) == 417 and f(2) == 418",
        "assert f(1) == f(2)",
        "assert all(f(x) == x for x in (417, 418))",
        "assert abs(f(2) - 417) < 1e-6 * f(1)",
        "assert max(f(2) - 417, 0) == 0",
        "assert 400 < f(2) < 418",
        "assert isinstance(f(2), int)",
        "assert set(f(2)) == {417}",
        "assert f(2)[0] == 417",
        "assert f(2).startswith('417')",
        "assert f(2) not in (417, 418)",
        "assert sorted([417, 418], key=f)",
        "assert f(2) == g(2) == 417",
        "assert Solution().f(2)[0] == 417",
    ],
)
def test_source_that_computes_with_the_answer_becomes_a_check(assertion: str) -> None:
    job = plan(AssertTest(assertion)).job
    assert isinstance(job, CheckJob)
    names, _, source = job.entry_point.partition("\n")
    # The answer is in the source of the check, which the program's process never sees.
    assert "417" not in job.entry_point
    namespace: dict[str, Any] = {"f": lambda x: x, "g": lambda x: x, "Solution": Namespace}
    exec(source, namespace)
    checking: dict[str, Any] = {name: namespace[name] for name in names.split(",")}
    exec(job.source, checking)
    with contextlib.suppress(AssertionError, TypeError, AttributeError):
        checking["check"](None)


class Namespace:
    def f(self, x: int) -> int:
        return x


@pytest.mark.parametrize(
    ("assertion", "value", "outcome"),
    [
        ("assert f(2) == 4", 4, Outcome.PASSED),
        ("assert f(2) == 4", 4.0, Outcome.PASSED),
        ("assert f(2) == 1", True, Outcome.PASSED),
        ("assert f(2) == 0.3", 0.1 + 0.2, Outcome.FAILED),
        ("assert f(2) == [1, 2]", (1, 2), Outcome.FAILED),
        ("assert f(2) == {1, 2}", {2, 1}, Outcome.PASSED),
        ("assert f(2) == '4'", 4, Outcome.FAILED),
        ("assert f(2) == 4", Opaque("AlwaysEqual"), Outcome.FAILED),
        ("assert f(2) is True", True, Outcome.PASSED),
        ("assert f(2) is True", 1, Outcome.FAILED),
        ("assert f(2) is None", None, Outcome.PASSED),
        ("assert f(2)", True, Outcome.PASSED),
        ("assert f(2)", 1, Outcome.FAILED),
        ("assert not f(2)", False, Outcome.PASSED),
        ("assert f(2) < 4", "3", Outcome.FAILED),
        ("assert f(2) < 4", Decimal("sNaN"), Outcome.FAILED),
        ("assert f(2) == 4", Decimal("sNaN"), Outcome.FAILED),
        ("assert abs(f(2) - 0.5) < 1e-6", Fraction(1, 2), Outcome.PASSED),
        ("assert abs(f(2) - 0.5) < 1e-6", Fraction(10**400, 3), Outcome.FAILED),
        ("assert math.isclose(f(2), 0.5)", 10**400, Outcome.FAILED),
        ("assert 4 > f(2)", 3, Outcome.PASSED),
        ("assert f(2) in [1, 2]", 2, Outcome.PASSED),
        ("assert f(2) in {1, 2}", [2], Outcome.FAILED),
        ("assert abs(f(2) - 0.5) < 1e-6", 0.5000001, Outcome.PASSED),
        ("assert abs(f(2) - 0.5) < 0.25", 0.75, Outcome.FAILED),
        ("assert abs(f(2) - 0.5) <= 0.25", 0.75, Outcome.PASSED),
        ("assert abs(f(2) - 2.0 / 3.0) < 1e-6", 0.6666666, Outcome.PASSED),
        ("assert abs(f(2) - 0.5) < 1e-6", "0.5", Outcome.FAILED),
        ("assert abs(f(2) - 0.5) < 1e-6", float("nan"), Outcome.FAILED),
        ("assert abs(f(2) - 0.5) < 1e-6", 10**400, Outcome.FAILED),
        ("assert math.isclose(f(2), 100, rel_tol=0.01)", 100.9, Outcome.PASSED),
        ("assert math.isclose(f(2), 100, rel_tol=0.001)", 100.9, Outcome.FAILED),
        ("assert math.isclose(f(2), 100)", 100.00001, Outcome.FAILED),
        ("assert math.isclose(f(2), 0, abs_tol=0.1)", 0.05, Outcome.PASSED),
        ("assert math.isclose(f(2), 100, rel_tol=0.1)", float("inf"), Outcome.FAILED),
    ],
)
def test_values_are_judged_by_the_statement(assertion: str, value: Any, outcome: Outcome) -> None:
    assert judged(assertion, value) is outcome


def test_expression_answers_are_evaluated_with_an_empty_program() -> None:
    made = plan(AssertTest("assert f(2) == Counter('aab')"))
    assert made.closed == ClosedJob(ExpressionJob("Counter('aab')", "from collections import Counter"))
    result = RunResult(End.OK, value=Counter("aab"))
    assert outcome_of(made, result, RunResult(End.OK, value=Counter("baa"))) is Outcome.PASSED
    assert outcome_of(made, result, RunResult(End.OK, value=Counter("bb"))) is Outcome.FAILED
    assert outcome_of(made, result, RunResult(End.EXCEPTION)) is Outcome.INFRASTRUCTURE_ERROR
    assert outcome_of(made, result, RunResult(End.OK, value=[Opaque("array")])) is Outcome.INFRASTRUCTURE_ERROR


@given(st.recursive(st.integers() | st.text(max_size=3) | st.none(), lambda inner: st.lists(inner, max_size=3)))
def test_literal_answer_equals_only_its_own_value(value: Any) -> None:
    assert judged(f"assert f() == {value!r}", value) is Outcome.PASSED
    assert judged(f"assert f() == {value!r}", [value]) is Outcome.FAILED


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (End.NO_VALUE, Outcome.FAILED),
        (End.ASSERTION, Outcome.FAILED),
        (End.EXCEPTION, Outcome.RUNTIME_ERROR),
        (End.EXIT_STATUS, Outcome.RUNTIME_ERROR),
        (End.SIGNAL, Outcome.RUNTIME_ERROR),
        (End.CPU_TIMEOUT, Outcome.TIMEOUT),
        (End.WALL_TIMEOUT, Outcome.TIMEOUT),
        (End.MEMORY, Outcome.MEMORY_LIMIT),
        (End.OUTPUT, Outcome.OUTPUT_LIMIT),
        (End.SYNTAX_ERROR, Outcome.SYNTAX_ERROR),
        (End.SKIPPED, Outcome.SKIPPED),
        (End.INFRASTRUCTURE, Outcome.INFRASTRUCTURE_ERROR),
    ],
)
def test_only_runs_that_ended_well_are_compared(end: End, outcome: Outcome) -> None:
    made = plan(StdinTest("1\n", "25\n"))
    assert outcome_of(made, RunResult(end, stdout=b"25\n")) is outcome


def test_stdin_and_call_tests_are_planned_unchanged() -> None:
    assert plan(StdinTest("é\n", "1")).job == StdinJob("é\n".encode())
    assert plan(CallTest("f", (1, [2]), 3)).job == CallJob("f", (1, [2]))
    assert plan(CheckTest("def check(candidate): ...", "f")).job == CheckJob("def check(candidate): ...", "f")


def test_output_that_is_not_text_does_not_match() -> None:
    made = plan(StdinTest("", "25"))
    assert outcome_of(made, RunResult(End.OK, stdout=b"\xff\xfe25")) is Outcome.FAILED


def test_apps_rules_apply_only_on_request() -> None:
    made = plan(StdinTest("", "1 2 3"))
    result = RunResult(End.OK, stdout=b"3 2 1")
    assert outcome_of(made, result) is Outcome.FAILED
    assert outcome_of(made, result, comparison=Comparison.APPS) is Outcome.PASSED
    call = plan(CallTest("f", (), [1, 2]))
    assert outcome_of(call, RunResult(End.OK, value=1)) is Outcome.FAILED
    assert outcome_of(call, RunResult(End.OK, value=1), comparison=Comparison.APPS) is Outcome.PASSED


def test_bare_value_matches_a_wrapped_answer() -> None:
    made = plan(CallTest("f", (), [[1, 2]], unwrap=True))
    assert outcome_of(made, RunResult(End.OK, value=(1, 2))) is Outcome.PASSED
    assert outcome_of(made, RunResult(End.OK, value=[1])) is Outcome.FAILED

"""From a test to the job a jail is asked to do, and from what the job came to, to the test's outcome.

`plan` says what is sent into the jail and keeps what is right outside; `outcome_of` compares afterwards. An answer that
is an expression (`float('inf')`, `set([1, 2])`) is never evaluated here: `Plan.closed` evaluates it with an empty
program in a jail that no program has touched, once, since it depends on nothing else.
"""

from __future__ import annotations

import ast
import builtins
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from problems.assertions import Closeness, Relation, Shape, Truth, split_with_setup
from problems.checks import Check, marked_source
from problems.scope import bound_names, is_literal, used_names
from problems.types import AssertTest, CallTest, CheckTest, StdinTest, Test
from sandbox.codec import CodecError, encode
from sandbox.compare import Comparison, apps_call_matches, apps_stdin_matches, call_matches, stdin_matches
from sandbox.jobs import CallJob, CheckJob, End, ExpressionJob, Job, RunResult, StdinJob
from sandbox.verdict import Outcome

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "is": operator.is_,
    "is not": operator.is_not,
    "in": lambda value, container: value in container,
}

_OUTCOMES = {
    End.NO_VALUE: Outcome.FAILED,
    End.ASSERTION: Outcome.FAILED,
    End.EXCEPTION: Outcome.RUNTIME_ERROR,
    End.EXIT_STATUS: Outcome.RUNTIME_ERROR,
    End.SIGNAL: Outcome.RUNTIME_ERROR,
    End.CPU_TIMEOUT: Outcome.TIMEOUT,
    End.WALL_TIMEOUT: Outcome.TIMEOUT,
    End.MEMORY: Outcome.MEMORY_LIMIT,
    End.OUTPUT: Outcome.OUTPUT_LIMIT,
    End.SYNTAX_ERROR: Outcome.SYNTAX_ERROR,
    End.SKIPPED: Outcome.SKIPPED,
    End.INFRASTRUCTURE: Outcome.INFRASTRUCTURE_ERROR,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How one test is run and judged.

    `accepts(result, expected, comparison)` is asked only about runs that ended well; `expected` is the value of
    `closed`, or None where there is no such job. `setup` runs a set-up without the program, if it uses none of the
    program's names: if it fails there, the test is broken.
    """

    job: Job
    accepts: Callable[[RunResult, Any, Comparison], bool]
    closed: ExpressionJob | None = None
    setup: ExpressionJob | None = None


def plan(test: Test) -> Plan:
    """The plan of a test.

    Raises:
        UnusableRowError: an assertion that cannot be taken apart, which loading a benchmark has refused already.
    """
    match test:
        case StdinTest(stdin, expected):
            return Plan(StdinJob(stdin.encode("utf-8", "surrogatepass")), _stdin_judge(expected))
        case CallTest(function, arguments, expected, unwrap):
            return Plan(CallJob(function, arguments), _call_judge(expected, unwrap=unwrap))
        case CheckTest(source, entry_point):
            return Plan(CheckJob(_marked(source, entry_point), entry_point), _ended_well)
        case AssertTest(assertion, setup, classes):
            return _plan_assertion(assertion, setup, classes)


def outcome_of(
    plan: Plan, result: RunResult, closed: RunResult | None = None, comparison: Comparison = Comparison.STRICT
) -> Outcome:
    """The outcome of a test whose job came to `result`, and whose closed job, if it has one, came to `closed`."""
    if result.end is not End.OK:
        return _OUTCOMES[result.end]
    # What the codec does not bring out of a trusted expression, no program can be compared with.
    if plan.closed is not None and (closed is None or closed.end is not End.OK or not _is_plain(closed.value)):
        return Outcome.INFRASTRUCTURE_ERROR
    accepted = plan.accepts(result, closed.value if closed else None, comparison)
    return Outcome.PASSED if accepted else Outcome.FAILED


def _is_plain(value: Any) -> bool:
    try:
        encode(value, strict=True)
    except CodecError:
        return False
    return True


def _stdin_judge(expected: str) -> Callable[[RunResult, Any, Comparison], bool]:
    def accepts(result: RunResult, _: Any, comparison: Comparison) -> bool:
        stdout = result.stdout.decode("utf-8", "replace")
        if stdin_matches(stdout, expected):
            return True
        return comparison is Comparison.APPS and apps_stdin_matches(stdout, expected)

    return accepts


def _call_judge(expected: Any, *, unwrap: bool) -> Callable[[RunResult, Any, Comparison], bool]:
    def accepts(result: RunResult, _: Any, comparison: Comparison) -> bool:
        if call_matches(result.value, expected, unwrap=unwrap):
            return True
        return comparison is Comparison.APPS and apps_call_matches(result.value, expected)

    return accepts


def _ended_well(result: RunResult, _: Any, __: Comparison) -> bool:
    return result.end is End.OK


_marked = lru_cache(maxsize=10_000)(marked_source)


@lru_cache(maxsize=100_000)
def _plan_assertion(assertion: str, setup: str, classes: tuple[str, ...] | None) -> Plan:
    shape, rest_of_setup = split_with_setup(assertion, setup, classes)
    planned = _plan_shape(shape, rest_of_setup)
    return replace(planned, setup=ExpressionJob("None", setup)) if _stands_alone(setup) else planned


def _stands_alone(setup: str) -> bool:
    """Whether a set-up does something, and uses no names but its own and Python's."""
    module = ast.parse(setup)
    foreign = {name for name in used_names(module) - bound_names(module) if not hasattr(builtins, name)}
    return bool(module.body) and not foreign


def _plan_shape(shape: Shape, setup: str) -> Plan:
    match shape:
        case Relation(source, name, expected, imports):
            parsed = ast.parse(expected, mode="eval").body
            if is_literal(parsed):
                return Plan(ExpressionJob(source, setup), _relation_judge(name, ast.literal_eval(parsed)))
            closed = ExpressionJob(expected, imports)
            return Plan(ExpressionJob(source, setup), _relation_judge(name), closed)
        case Truth(source, wanted):
            # The value itself may be of any type, and only its truth is asked for. `not` is no name to redefine.
            return Plan(ExpressionJob(f"not not ({source})", setup), _relation_judge("is", wanted))
        case Closeness() as closeness:
            return Plan(ExpressionJob(closeness.source, setup), _closeness_judge(closeness))
        case Check(source, entry_point):
            return Plan(CheckJob(source, entry_point), _ended_well)


_FROM_CLOSED = object()


def _relation_judge(name: str, wanted: Any = _FROM_CLOSED) -> Callable[[RunResult, Any, Comparison], bool]:
    """Python's own operators, as the statement says: no tolerance, `True == 1`, a list is no tuple."""
    relation = _OPERATORS[name]

    def accepts(result: RunResult, expected: Any, _: Comparison) -> bool:
        try:
            return bool(relation(result.value, expected if wanted is _FROM_CLOSED else wanted))
        # Values that cannot be ordered or hashed: the statement would have raised.
        except (TypeError, ValueError, ArithmeticError, RecursionError):
            return False

    return accepts


def _closeness_judge(closeness: Closeness) -> Callable[[RunResult, Any, Comparison], bool]:
    def accepts(result: RunResult, _: Any, __: Comparison) -> bool:
        value: Any = result.value
        if not isinstance(value, int | float | Fraction | complex):
            return False
        try:
            size: Any = abs(value)
            difference: Any = abs(value - closeness.target)
            share = closeness.relative * max(size, abs(closeness.target))
            allowed = max(closeness.absolute, share)
            if not math.isfinite(difference) or not math.isfinite(allowed):
                return bool(value == closeness.target)
        except (OverflowError, ValueError):  # a number beyond the range of floats
            return False
        return bool(difference < allowed if closeness.strict else difference <= allowed)

    return accepts

"""From a test to the job for the jail, and from the job's result to the test's outcome.

`plan` decides what is sent into the jail and keeps the right answer outside; `outcome_of` compares afterwards. A right
answer that is an expression (`float('inf')`, `set([1, 2])`) is never evaluated here. `Plan.closed` evaluates it once,
with an empty program, in a jail that no program has touched.
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

from rltf.problems.assertions import Closeness, Relation, Shape, Truth, split_with_setup
from rltf.problems.checks import Check, marked_source
from rltf.problems.python_source import as_run
from rltf.problems.scope import bound_names, is_literal, used_names
from rltf.problems.syntax import expression_tree, syntax_tree
from rltf.problems.types import (
    AnswerRule,
    AssertTest,
    CallTest,
    Checker,
    CheckTest,
    Problem,
    ReferenceTest,
    StdinTest,
    Test,
)
from rltf.sandbox import codec
from rltf.sandbox.answer_checker import Question
from rltf.sandbox.compare import (
    Comparison,
    apps_call_matches,
    apps_stdin_matches,
    call_matches,
    stdin_matches,
    values_match,
)
from rltf.sandbox.jobs import CallJob, CheckJob, ClosedJob, End, ExpressionJob, Job, RunResult, StdinJob
from rltf.sandbox.verdict import Outcome

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

Accepts = Callable[[RunResult, Any, Comparison], bool]


@dataclass(frozen=True, slots=True)
class Plan:
    """How one test is run and judged.

    `accepts(result, expected, comparison)` is asked only about runs that ended well. `expected` is the value of
    `closed`, None if there is no such job. `setup` runs the test's setup without the program, if it uses none of the
    program's names: if it fails there, the test is broken. `question` is for the problem's checker, which is asked
    about answers that are not accepted.
    """

    job: Job
    accepts: Accepts
    closed: ClosedJob | None = None
    setup: ClosedJob | None = None
    question: Question | None = None


def plans(problem: Problem) -> list[Plan]:
    """The plan for each of a problem's tests. Raises like `plan`."""
    needs_reference = any(isinstance(test, ReferenceTest) for test in problem.tests)
    reference = "".join(as_run(problem, problem.references[0])) if needs_reference else ""
    return [plan(test, problem.checker, reference) for test in problem.tests]


def plan(test: Test, checker: AnswerRule | Checker | None = None, reference: str = "") -> Plan:
    """The plan for a test of a problem with this `checker`. A reference test expects what `reference` answers.

    Raises UnusableRowError if the assertion cannot be split. Loading a benchmark already refuses such a test.
    """
    rule = checker if isinstance(checker, AnswerRule) else AnswerRule()
    own = checker if isinstance(checker, Checker) else None
    match test:
        case StdinTest(stdin, expected):
            job = StdinJob(stdin.encode("utf-8", "surrogatepass"))
            return Plan(job, _accepts_stdout(expected, rule), question=Question(own, stdin, expected) if own else None)
        case CallTest(function, arguments, expected, unwrap):
            question = Question(own, list(arguments), expected) if own else None
            return Plan(CallJob(function, arguments), _accepts_value(expected, rule, unwrap=unwrap), question=question)
        case CheckTest(source, entry_point):
            return Plan(CheckJob(_marked(source, entry_point), entry_point), _accepts_any)
        case AssertTest(assertion, setup, classes):
            return _plan_assertion(assertion, setup, classes)
        case ReferenceTest(function, arguments):
            call = CallJob(function, arguments)
            question = Question(own, list(arguments)) if own else None
            return Plan(call, _accepts_returned(rule), ClosedJob(call, reference), question=question)


def outcome_of(
    plan: Plan, result: RunResult, closed: RunResult | None = None, comparison: Comparison = Comparison.STRICT
) -> Outcome:
    """The outcome of a test, given the results of its job and of its closed job, if it has one."""
    if result.end is not End.OK:
        return _OUTCOMES[result.end]
    # If the codec cannot carry the expected value out of its jail, nothing can be compared with it.
    if plan.closed is not None and (closed is None or closed.end is not End.OK or not _is_plain(closed.value)):
        return Outcome.INFRASTRUCTURE_ERROR
    accepted = plan.accepts(result, closed.value if closed else None, comparison)
    return Outcome.PASSED if accepted else Outcome.FAILED


def _is_plain(value: Any) -> bool:
    try:
        codec.encode(value, strict=True)
    except codec.CodecError:
        return False
    return True


def _accepts_stdout(expected: str, rule: AnswerRule) -> Accepts:
    def accepts(result: RunResult, _: Any, comparison: Comparison) -> bool:
        stdout = result.stdout.decode("utf-8", "replace")
        if stdin_matches(stdout, expected, rule):
            return True
        return comparison is Comparison.APPS and apps_stdin_matches(stdout, expected)

    return accepts


def _accepts_value(expected: Any, rule: AnswerRule, *, unwrap: bool) -> Accepts:
    def accepts(result: RunResult, _: Any, comparison: Comparison) -> bool:
        if call_matches(result.value, expected, unwrap=unwrap, rule=rule):
            return True
        return comparison is Comparison.APPS and apps_call_matches(result.value, expected)

    return accepts


def _accepts_returned(rule: AnswerRule) -> Accepts:
    return lambda result, expected, _: values_match(result.value, expected, rule)


def _accepts_any(*_: object) -> bool:
    return True


_marked = lru_cache(maxsize=10_000)(marked_source)


@lru_cache(maxsize=100_000)
def _plan_assertion(assertion: str, setup: str, classes: tuple[str, ...] | None) -> Plan:
    shape, rest_of_setup = split_with_setup(assertion, setup, classes)
    planned = _plan_shape(shape, rest_of_setup)
    return replace(planned, setup=ClosedJob(ExpressionJob("None", setup))) if _stands_alone(setup) else planned


def _stands_alone(setup: str) -> bool:
    """Whether a setup does anything, and uses only its own names and Python's."""
    module = syntax_tree(setup)
    foreign = {name for name in used_names(module) - bound_names(module) if not hasattr(builtins, name)}
    return bool(module.body) and not foreign


def _plan_shape(shape: Shape, setup: str) -> Plan:
    match shape:
        case Relation(source, name, expected, imports):
            parsed = expression_tree(expected).body
            if is_literal(parsed):
                return Plan(ExpressionJob(source, setup), _accepts_relation(name, ast.literal_eval(parsed)))
            closed = ClosedJob(ExpressionJob(expected, imports))
            return Plan(ExpressionJob(source, setup), _accepts_relation(name), closed)
        case Truth(source, wanted):
            # The value may be of any type, but only its truth matters. A program cannot redefine `not`.
            return Plan(ExpressionJob(f"not not ({source})", setup), _accepts_relation("is", wanted))
        case Closeness() as closeness:
            return Plan(ExpressionJob(closeness.source, setup), _accepts_close(closeness))
        case Check(source, entry_point):
            return Plan(CheckJob(source, entry_point), _accepts_any)


_FROM_CLOSED = object()


def _accepts_relation(name: str, wanted: Any = _FROM_CLOSED) -> Accepts:
    """Apply Python's own operators, like the statement: no tolerance, `True == 1`, and a list is not a tuple."""
    relation = _OPERATORS[name]

    def accepts(result: RunResult, expected: Any, _: Comparison) -> bool:
        try:
            return bool(relation(result.value, expected if wanted is _FROM_CLOSED else wanted))
        # Values that cannot be ordered or hashed: the statement would have raised this too.
        except (TypeError, ValueError, ArithmeticError, RecursionError):
            return False

    return accepts


def _accepts_close(closeness: Closeness) -> Accepts:
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

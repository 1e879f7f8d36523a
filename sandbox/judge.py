"""From a test to the job for the jail, and from the job's result to the test's outcome.

`plan` decides what is sent into the jail and keeps the right answer outside; `outcome_of` compares afterwards. A right
answer that is an expression (`float('inf')`, `set([1, 2])`) is never evaluated here. `Plan.closed` evaluates it once,
with an empty program, in a jail that no program has touched.

`reason_to_refuse` finds problems that cannot be graded because their values do not fit through the grader. Such a
problem would count against every program, so its values go through the codec and the limits when the problem is loaded,
as the answers will.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import hashlib
import math
import operator
import sys
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from problems.assertions import Closeness, Relation, Shape, Truth, split_assertion, split_with_setup
from problems.checks import Check, marked_source
from problems.python_source import as_run
from problems.scope import bound_names, imported_modules, is_literal, used_names
from problems.syntax import expression_tree, syntax_tree
from problems.types import (
    AssertTest,
    CallTest,
    CheckTest,
    Problem,
    ReferenceTest,
    StdinTest,
    Test,
    UnusableRowError,
)
from sandbox import codec
from sandbox.compare import Comparison, apps_call_matches, apps_stdin_matches, call_matches, stdin_matches
from sandbox.jobs import CallJob, CheckJob, End, ExpressionJob, Job, RunResult, StdinJob
from sandbox.packages import find_packages
from sandbox.verdict import Outcome
from settings import SandboxSettings

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
class ClosedJob:
    """A job that runs trusted source only, in a jail that no graded program enters."""

    job: ExpressionJob | CallJob
    source: str = ""

    @property
    def key(self) -> bytes:
        """The same for equal jobs. Arguments may be lists, which cannot be hashed as they are."""
        fields = [getattr(self.job, field.name) for field in dataclasses.fields(self.job)]
        content = codec.encode((type(self.job).__name__, *fields), sys.maxsize)
        return hashlib.sha256(content + self.source.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True)
class Plan:
    """How one test is run and judged.

    `accepts(result, expected, comparison)` is asked only about runs that ended well. `expected` is the value of
    `closed`, None if there is no such job. `setup` runs the test's setup without the program, if it uses none of the
    program's names: if it fails there, the test is broken.
    """

    job: Job
    accepts: Accepts
    closed: ClosedJob | None = None
    setup: ClosedJob | None = None


def plans(problem: Problem) -> list[Plan]:
    """The plan for each of a problem's tests. Raises like `plan`."""
    needs_reference = any(isinstance(test, ReferenceTest) for test in problem.tests)
    reference = "".join(as_run(problem, problem.references[0])) if needs_reference else ""
    return [plan(test, reference) for test in problem.tests]


def plan(test: Test, reference: str = "") -> Plan:
    """The plan for a test. `reference` is the program whose answers a reference test expects.

    Raises:
        UnusableRowError: the assertion cannot be split. Loading a benchmark already refuses such a test.
    """
    match test:
        case StdinTest(stdin, expected):
            return Plan(StdinJob(stdin.encode("utf-8", "surrogatepass")), _accepts_stdout(expected))
        case CallTest(function, arguments, expected, unwrap):
            return Plan(CallJob(function, arguments), _accepts_value(expected, unwrap=unwrap))
        case CheckTest(source, entry_point):
            return Plan(CheckJob(_marked(source, entry_point), entry_point), _accepts_any)
        case AssertTest(assertion, setup, classes):
            return _plan_assertion(assertion, setup, classes)
        case ReferenceTest(function, arguments):
            job = CallJob(function, arguments)
            return Plan(job, _accepts_returned, ClosedJob(job, reference))


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


def _accepts_stdout(expected: str) -> Accepts:
    def accepts(result: RunResult, _: Any, comparison: Comparison) -> bool:
        stdout = result.stdout.decode("utf-8", "replace")
        if stdin_matches(stdout, expected):
            return True
        return comparison is Comparison.APPS and apps_stdin_matches(stdout, expected)

    return accepts


def _accepts_value(expected: Any, *, unwrap: bool) -> Accepts:
    def accepts(result: RunResult, _: Any, comparison: Comparison) -> bool:
        if call_matches(result.value, expected, unwrap=unwrap):
            return True
        return comparison is Comparison.APPS and apps_call_matches(result.value, expected)

    return accepts


def _accepts_returned(result: RunResult, expected: Any, _: Comparison) -> bool:
    return call_matches(result.value, expected, unwrap=False)


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


def reason_to_refuse(settings: SandboxSettings) -> Callable[[Problem], str | None]:
    """A function that says why a problem cannot be graded with these settings; None if it can.

    Raises:
        UserError: a package in the settings is not installed.
    """
    importable = sys.stdlib_module_names | find_packages(settings.packages).modules.keys()

    def reason(problem: Problem) -> str | None:
        try:
            _check_texts(problem)
            for number, test in enumerate(problem.tests):
                _check_imports(f"tests[{number}]", test, importable)
                _check_test(f"tests[{number}]", test, settings.output_bytes)
        except UnusableRowError as error:
            return str(error)
        return None

    return reason


def _check_texts(problem: Problem) -> None:
    for place, text in _texts(problem):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UnusableRowError(f"{place}: holds a lone surrogate, which cannot be encoded as UTF-8") from error


def _texts(problem: Problem) -> Iterator[tuple[str, str]]:
    yield "task_id", problem.task_id
    yield "statement", problem.statement
    yield "starter code", problem.starter_code
    yield "prompt", problem.code_prefix
    for number, reference in enumerate(problem.references):
        yield f"references[{number}]", reference
    for number, test in enumerate(problem.tests):
        match test:
            case StdinTest(stdin, expected):
                yield f"tests[{number}]: input", stdin
                yield f"tests[{number}]: expected output", expected
            case AssertTest(assertion, setup, _):
                yield f"tests[{number}]", assertion + setup
            case CheckTest(source, _):
                yield f"tests[{number}]", source


def _check_imports(place: str, test: Test, importable: Set[str]) -> None:
    match test:
        case AssertTest(assertion, setup, _):
            source = f"{setup}\n{assertion}"
        case CheckTest(source, _):
            pass
        case _:
            return
    for name in sorted(imported_modules(source) - importable):
        raise UnusableRowError(
            f"{place}: imports {name}, which is neither in the standard library nor in sandbox.packages"
        )


def _check_test(place: str, test: Test, output_bytes: int) -> None:
    # An answer leaves its process through a file, in a record of one letter and the value.
    answer_bytes = min(codec.MAX_BYTES, output_bytes - 1)
    match test:
        case StdinTest(_, expected):
            num_bytes = len(expected.encode())
            if num_bytes >= output_bytes:
                raise UnusableRowError(
                    f"{place}: expects {num_bytes} bytes of output; the limit is {output_bytes} (sandbox.output_bytes)"
                )
        case CallTest(function, arguments, expected, _):
            _check_value(f"{place}: arguments", (function, arguments), codec.MAX_BYTES)
            _check_value(f"{place}: expected value", expected, answer_bytes)
        case AssertTest(assertion, setup, classes):
            shape = split_assertion(assertion, setup, classes)
            if isinstance(shape, Relation):
                expected = expression_tree(shape.expected).body
                if is_literal(expected):
                    _check_value(f"{place}: expected value", ast.literal_eval(expected), answer_bytes)


def _check_value(place: str, value: object, max_bytes: int) -> None:
    try:
        codec.encode(value, max_bytes, strict=True)
    except codec.CodecError as error:
        raise UnusableRowError(f"{place}: {error}") from error

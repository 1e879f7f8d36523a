"""Problems that cannot be graded: their values do not fit through the grader, or their checker does not fit the tests.

Such a problem would count against every program, so its values go through the codec and the limits when the problem is
loaded, as the answers will.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Set

from rltf.problems.assertions import Relation, split_assertion
from rltf.problems.scope import bound_names, imported_modules, is_literal, parse_module
from rltf.problems.syntax import expression_tree
from rltf.problems.types import (
    AssertTest,
    CallTest,
    Checker,
    CheckerForm,
    CheckTest,
    Order,
    Problem,
    ReferenceTest,
    StdinTest,
    Test,
    UnusableRowError,
)
from rltf.sandbox import codec
from rltf.sandbox.compare import MAX_UNORDERED_ITEMS
from rltf.sandbox.packages import find_packages
from rltf.settings import SandboxSettings

_ORDERS = {True: "lines or tokens for stdin tests", False: "items for calls"}
_SETTING = "sandbox.packages"
_NO_REFERENCE = "expects what a reference returns, but the problem has no reference"


def reason_to_refuse(settings: SandboxSettings) -> Callable[[Problem], str | None]:
    """A function that says why a problem cannot be graded with these settings; None if it can.

    Raises UserError if a package in the settings is not installed.
    """
    importable = sys.stdlib_module_names | find_packages(settings.packages).modules.keys()

    def reason(problem: Problem) -> str | None:
        try:
            _check_texts(problem)
            if missing := [name for name in problem.modules if name not in importable]:
                raise UnusableRowError(f"needs {', '.join(missing)}: neither in the standard library nor in {_SETTING}")
            _check_imports("code before the program", problem.preamble, importable)
            _check_checker(problem, importable)
            for place, test in _placed(problem):
                if isinstance(test, ReferenceTest) and not problem.references:
                    raise UnusableRowError(f"{place}: {_NO_REFERENCE}")
                _check_imports(place, _source_of(test), importable)
                _check_test(place, test, settings.output_bytes)
        except UnusableRowError as error:
            return str(error)
        return None

    return reason


def _placed(problem: Problem) -> Iterator[tuple[str, Test]]:
    """The tests and the examples, each with its place."""
    for name, tests in (("tests", problem.tests), ("examples", problem.examples)):
        yield from ((f"{name}[{number}]", test) for number, test in enumerate(tests))


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
    yield "code before the program", problem.preamble
    for number, reference in enumerate(problem.references):
        yield f"references[{number}]", reference
    for place, test in _placed(problem):
        match test:
            case StdinTest(stdin, expected):
                yield f"{place}: input", stdin
                yield f"{place}: expected output", expected
            case AssertTest(assertion, setup, _):
                yield place, assertion + setup
            case CheckTest(source, _):
                yield place, source


def _check_checker(problem: Problem, importable: Set[str]) -> None:
    """Refuse a checker that does not fit the tests. Otherwise it would have no effect, or reject every answer."""
    checker = problem.checker
    if checker is None:
        return
    tests = {n: test for n, test in enumerate(problem.tests) if not isinstance(test, AssertTest | CheckTest)}
    if not tests:
        raise UnusableRowError("checker: the problem has only assertions, which say themselves what is right")
    if isinstance(checker, Checker):
        has_function = "check" in bound_names(parse_module(checker.source, "checker"))
        _check_imports("checker", checker.source, importable)
        if checker.form is CheckerForm.FUNCTION and not has_function:
            raise UnusableRowError("checker: expected a function check(input, expected, actual)")
        if checker.form is not CheckerForm.FUNCTION and not all(isinstance(test, StdinTest) for test in tests.values()):
            raise UnusableRowError("checker: a checker program reads text, so all tests must be stdin tests")
        return
    for number, test in tests.items():
        is_text = isinstance(test, StdinTest)
        if checker.any_order is not None and is_text == (checker.any_order is Order.ITEMS):
            raise UnusableRowError(f"checker: any_order is {checker.any_order}; expected {_ORDERS[is_text]}")
        expected = test.expected if isinstance(test, CallTest) and checker.any_order is not None else None
        if isinstance(expected, list | tuple) and len(expected) > MAX_UNORDERED_ITEMS:
            raise UnusableRowError(
                f"tests[{number}]: {len(expected)} items in any order; at most {MAX_UNORDERED_ITEMS} can be compared"
            )


def _source_of(test: Test) -> str:
    match test:
        case AssertTest(assertion, setup, _):
            return f"{setup}\n{assertion}"
        case CheckTest(source, _):
            return source
    return ""


def _check_imports(place: str, source: str, importable: Set[str]) -> None:
    for name in sorted(imported_modules(source) - importable):
        raise UnusableRowError(f"{place}: imports {name}, which is neither in the standard library nor in {_SETTING}")


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
        case ReferenceTest(function, arguments):
            _check_value(f"{place}: arguments", (function, arguments), codec.MAX_BYTES)
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

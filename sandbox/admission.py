"""Problems that the grader could not grade: what they expect or hand over does not fit through it.

Such a problem would be charged to every program. So every value goes through the codec and the limits when the problem
is loaded, as the answers will.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from problems.assertions import Relation, split_assertion
from problems.scope import is_literal
from problems.types import AssertTest, CallTest, CheckTest, Problem, StdinTest, Test, UnusableRowError
from sandbox import codec
from sandbox.limits import Limits


def reason_to_refuse(limits: Limits) -> Callable[[Problem], str | None]:
    """Says of a problem why it cannot be graded within `limits`; None where it can."""

    def reason(problem: Problem) -> str | None:
        try:
            _check_texts(problem)
            for number, test in enumerate(problem.tests):
                _check_test(f"tests[{number}]", test, limits)
        except UnusableRowError as error:
            return str(error)
        return None

    return reason


def _check_texts(problem: Problem) -> None:
    for place, text in _texts(problem):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UnusableRowError(f"{place}: holds a lone surrogate, which is no text in UTF-8") from error


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


def _check_test(place: str, test: Test, limits: Limits) -> None:
    match test:
        case StdinTest(_, expected):
            num_bytes = len(expected.encode())
            if num_bytes >= limits.output_bytes:
                raise UnusableRowError(
                    f"{place}: expects {num_bytes} bytes of output; the limit is {limits.output_bytes} "
                    "(sandbox.output_bytes)"
                )
        case CallTest(function, arguments, expected, _):
            _check_value(f"{place}: arguments", (function, arguments), codec.MAX_BYTES)
            _check_value(f"{place}: expected value", expected, _most_bytes(limits))
        case AssertTest(assertion, setup, classes):
            shape = split_assertion(assertion, setup, classes)
            if isinstance(shape, Relation):
                expected = ast.parse(shape.expected, mode="eval").body
                if is_literal(expected):
                    _check_value(f"{place}: expected value", ast.literal_eval(expected), _most_bytes(limits))


def _most_bytes(limits: Limits) -> int:
    """The largest answer: it leaves its process through a file, in a record of a letter and the value."""
    return min(codec.MAX_BYTES, limits.output_bytes - 1)


def _check_value(place: str, value: object, max_bytes: int) -> None:
    try:
        codec.encode(value, max_bytes, strict=True)
    except codec.CodecError as error:
        raise UnusableRowError(f"{place}: {error}") from error

"""Custom problems: your own rows, one JSON object per line (`docs/own-problems.md`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from errors import UserError
from problems.assertions import classes_in, function_under_test, parse_assertion, split_assertion
from problems.types import AssertTest, CallTest, Problem, StdinTest, Test, UnusableRowError

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


class StdinTestRow(_Row):
    """`{"stdin": "2 3\\n", "expected": "5\\n"}`"""

    stdin: str
    expected: str

    def to_test(self, references: Sequence[str]) -> Test:
        return StdinTest(self.stdin, self.expected)


class CallTestRow(_Row):
    """`{"call": "add", "arguments": [2, 3], "expected": 5}`"""

    call: Name
    arguments: list[Any]
    expected: Any

    def to_test(self, references: Sequence[str]) -> Test:
        return CallTest(self.call, tuple(self.arguments), self.expected)


class AssertTestRow(_Row):
    """`{"assert": "assert add(2, 3) == 5", "setup": "import math"}`"""

    assertion: str = Field(alias="assert")
    setup: str = ""

    def to_test(self, references: Sequence[str]) -> Test:
        classes = classes_in(self.assertion, references)
        split_assertion(self.assertion, self.setup, classes)
        return AssertTest(self.assertion, self.setup, classes)


def _kind(test: Any) -> str:
    keys = test.keys() if isinstance(test, dict) else ()
    return next((kind for kind in ("stdin", "call", "assert") if kind in keys), "none")


TestRow = Annotated[
    Annotated[StdinTestRow, Tag("stdin")]
    | Annotated[CallTestRow, Tag("call")]
    | Annotated[AssertTestRow, Tag("assert")],
    Discriminator(
        _kind,
        custom_error_type="test_kind",
        custom_error_message='expected a test with the key "stdin", "call" or "assert"',
    ),
]


class ProblemRow(_Row):
    """One row of a file."""

    task_id: str | int
    statement: str = Field(min_length=1)
    tests: list[TestRow] = Field(min_length=1)
    references: list[str] = []
    difficulty: str | None = None
    starter_code: str = ""
    num_visible_tests: int = Field(0, ge=0)
    provenance: list[dict[str, Any]] = Field([], description="Where tests come from, written by `augment`; never read.")


def task_id_of(row: Any) -> str | None:
    """The row's `task_id`, as text."""
    value = row.get("task_id") if isinstance(row, dict) else None
    return str(value) if isinstance(value, str | int) else None


def to_problem(data: Any) -> Problem:
    """A custom row as a `Problem`.

    Raises:
        UnusableRowError: a wrong field. The message names the first one.
    """
    try:
        row = ProblemRow.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(
            str(part) for part in first["loc"] if part not in ("stdin", "call") or part == first["loc"][-1]
        )
        raise UnusableRowError(f"{place or 'row'}: {first['msg']}") from error
    tests = tuple(test.to_test(row.references) for test in row.tests)
    if row.num_visible_tests > len(tests):
        raise UnusableRowError(f"num_visible_tests: {row.num_visible_tests}, but there are {len(tests)} tests")
    return Problem(
        task_id=str(row.task_id),
        benchmark="jsonl",
        statement=row.statement,
        tests=tests,
        references=tuple(row.references),
        difficulty=row.difficulty,
        entry_point=next((test.function for test in tests if isinstance(test, CallTest)), None)
        or function_under_test(parse_assertion(test.assertion) for test in tests if isinstance(test, AssertTest)),
        starter_code=row.starter_code,
        num_visible_tests=row.num_visible_tests,
    )


def to_row(problem: Problem) -> dict[str, Any]:
    """The custom row of a problem.

    Raises:
        UserError: one of its tests is a test function.
    """
    return {
        "task_id": problem.task_id,
        "statement": problem.statement,
        "tests": [_test_row(test) for test in problem.tests],
        "references": list(problem.references),
        "difficulty": problem.difficulty,
        "starter_code": problem.starter_code,
        "num_visible_tests": problem.num_visible_tests,
    }


def _test_row(test: Test) -> dict[str, Any]:
    match test:
        case StdinTest(stdin, expected):
            return {"stdin": stdin, "expected": expected}
        case CallTest(function, arguments, expected, _):
            return {"call": function, "arguments": list(arguments), "expected": expected}
        case AssertTest(assertion, setup, _):
            return {"assert": assertion, "setup": setup}
    raise UserError("custom rows cannot hold test functions")

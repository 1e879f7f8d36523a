"""Custom problems: your own rows, one JSON object per line (`docs/own-problems.md`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from rltf.errors import UserError
from rltf.problems.assertions import classes_in, function_under_test, parse_assertion, split_assertion
from rltf.problems.examples import examples_of, hide_some
from rltf.problems.types import (
    AnswerRule,
    AssertTest,
    CallTest,
    Checker,
    CheckerForm,
    Limits,
    Order,
    Problem,
    StdinTest,
    Test,
    UnusableRowError,
)

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


class RuleRow(_Row):
    """`{"any_order": "lines", "ignore_case": true, "absolute": 1e-4, "relative": 1e-6}`"""

    any_order: Order | None = None
    ignore_case: bool = False
    absolute: float | None = Field(None, ge=0, allow_inf_nan=False)
    relative: float | None = Field(None, ge=0, allow_inf_nan=False)

    def to_checker(self) -> AnswerRule | Checker:
        return AnswerRule(self.any_order, self.ignore_case, self.absolute, self.relative)


class SourceRow(_Row):
    """`{"function": "def check(input, expected, actual): ..."}`, or a `program` or `score` (see `CheckerForm`)."""

    function: str | None = None
    program: str | None = None
    score: str | None = None

    @model_validator(mode="after")
    def _check(self) -> SourceRow:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"expected one of function, program and score, got {len(self.model_fields_set)}")
        return self

    def to_checker(self) -> AnswerRule | Checker:
        ((form, source),) = self.model_dump(exclude_unset=True).items()
        return Checker(source, CheckerForm(form))


def _checker_kind(checker: Any) -> str:
    keys = checker.keys() if isinstance(checker, dict) else ()
    return "source" if set(CheckerForm) & set(keys) else "rule"


CheckerRow = Annotated[
    Annotated[RuleRow, Tag("rule")] | Annotated[SourceRow, Tag("source")], Discriminator(_checker_kind)
]


class LimitsRow(_Row):
    """`{"time_s": 2.0, "memory_bytes": 268435456}`"""

    time_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    memory_bytes: int | None = Field(None, gt=0)


class ProblemRow(_Row):
    """One row of a file."""

    task_id: str | int
    statement: str = Field(min_length=1)
    tests: list[TestRow] = Field(min_length=1)
    references: list[str] = []
    difficulty: str | None = None
    starter_code: str = ""
    num_visible_tests: int = Field(0, ge=0)
    limits: LimitsRow = LimitsRow()
    checker: CheckerRow | None = None
    examples: list[TestRow] | None = Field(None, description="Tests that a model may see (`docs/self-repair.md`).")
    provenance: list[dict[str, Any]] = Field([], description="Where tests come from, written by `augment`; never read.")


def task_id_of(row: Any) -> str | None:
    """The row's `task_id`, as text."""
    value = row.get("task_id") if isinstance(row, dict) else None
    return str(value) if isinstance(value, str | int) else None


def to_problem(data: Any) -> Problem:
    """A custom row as a `Problem`. Raises UnusableRowError for a wrong field. The message names the first one."""
    try:
        row = ProblemRow.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, _without_tags(first["loc"])))
        raise UnusableRowError(f"{place or 'row'}: {first['msg']}") from error
    tests = tuple(test.to_test(row.references) for test in row.tests)
    if row.num_visible_tests > len(tests):
        raise UnusableRowError(f"num_visible_tests: {row.num_visible_tests}, but there are {len(tests)} tests")
    examples = examples_of("", tests, num_visible=row.num_visible_tests)
    if row.examples is not None:
        examples = tuple(test.to_test(row.references) for test in row.examples)
        if not hide_some(examples, tests):
            raise UnusableRowError("examples: all of the tests; add tests that are no examples, or remove examples")
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
        limits=Limits(row.limits.time_s, row.limits.memory_bytes),
        checker=None if row.checker is None else row.checker.to_checker(),
        examples=examples,
    )


def _without_tags(loc: Sequence[str | int]) -> Iterator[str | int]:
    """The place of an error without what pydantic adds to it: which member of a union it tried."""
    for number, part in enumerate(loc, start=1):
        is_field = part in ("stdin", "call") and number == len(loc)
        if is_field or part not in ("stdin", "call", "rule", "source"):
            yield part


def to_row(problem: Problem) -> dict[str, Any]:
    """The custom row of a problem. Raises UserError if one of its tests is a test function."""
    usual = examples_of("", problem.tests, num_visible=problem.num_visible_tests)
    own = {"examples": [_test_row(test) for test in problem.examples]} if problem.examples != usual else {}
    return {
        "task_id": problem.task_id,
        "statement": problem.statement,
        "tests": [_test_row(test) for test in problem.tests],
        "references": list(problem.references),
        "difficulty": problem.difficulty,
        "starter_code": problem.starter_code,
        "num_visible_tests": problem.num_visible_tests,
        "limits": asdict(problem.limits),
        "checker": _checker_row(problem.checker),
        **own,
    }


def _checker_row(checker: AnswerRule | Checker | None) -> dict[str, Any] | None:
    if isinstance(checker, Checker):
        return {checker.form.value: checker.source}
    return None if checker is None else asdict(checker)


def _test_row(test: Test) -> dict[str, Any]:
    match test:
        case StdinTest(stdin, expected):
            return {"stdin": stdin, "expected": expected}
        case CallTest(function, arguments, expected, _):
            return {"call": function, "arguments": list(arguments), "expected": expected}
        case AssertTest(assertion, setup, _):
            return {"assert": assertion, "setup": setup}
    raise UserError("custom rows cannot hold test functions")

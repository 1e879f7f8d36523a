"""The one type of problem, the kinds of test it can have, and the rows of a benchmark that cannot become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class StdinTest:
    """Run the program with `stdin`, and compare its standard output with `expected`."""

    stdin: str
    expected: str


@dataclass(frozen=True, slots=True)
class CallTest:
    """Call `function` (global, or a method of the program's class `Solution`) with `arguments`.

    With `unwrap`, `expected` is a list of one item, as APPS often writes answers, and the bare item is right as well.
    """

    function: str
    arguments: tuple[Any, ...]
    expected: Any
    unwrap: bool = False


@dataclass(frozen=True, slots=True)
class AssertTest:
    """One `assert` statement over the program's names. `setup` runs in the program's namespace before it.

    `classes` are the names in the assertion that stand for classes of the program. None means the capitalized names.
    """

    assertion: str
    setup: str = ""
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class CheckTest:
    """A module with a test function `check(candidate)` (HumanEval) that does not split into `AssertTest`s."""

    source: str
    entry_point: str


@dataclass(frozen=True, slots=True)
class ReferenceTest:
    """Call `function` with `arguments`; the expected value is the one that the problem's first reference returns."""

    function: str
    arguments: tuple[Any, ...]


Test = StdinTest | CallTest | AssertTest | CheckTest | ReferenceTest


class Order(StrEnum):
    """What may come in any order in an answer."""

    LINES = "lines"
    TOKENS = "tokens"
    """All words of the output, whatever their lines."""
    ITEMS = "items"
    """The items of a returned list."""


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """Answers that are right besides the expected one.

    An answer may come in any order, or in upper or lower case. Where a float is expected, it may be off by
    `absolute + relative * abs(expected)`; if both are None, by the grader's own tolerance. In the output of a program,
    a tolerance holds for every number, since an expected `2` may be a float as well.
    """

    any_order: Order | None = None
    ignore_case: bool = False
    absolute: float | None = None
    relative: float | None = None


class CheckerForm(StrEnum):
    """How a checker is written."""

    FUNCTION = "function"
    """Defines `check(input, expected, actual)`, which returns whether the answer is right. For a stdin test the three
    are text, for a call test the list of arguments and two values."""
    PROGRAM = "program"
    """A Python program that gets the names of three files: input, the answer, the expected answer. Its exit status is
    0 if the answer is right, and 1 or 2 if it is wrong (testlib)."""
    SCORE = "score"
    """A Python program that gets the names of three files: input, the expected answer, the answer. The last word
    that it prints is 1 if the answer is right, and its exit status is then 0 (open-r1)."""


@dataclass(frozen=True, slots=True)
class Checker:
    """Source code that decides whether an answer is right, for problems with several right answers."""

    source: str
    form: CheckerForm = CheckerForm.FUNCTION


@dataclass(frozen=True, slots=True)
class Limits:
    """What the benchmark allows a program in one test. None stands for the sandbox's own limit."""

    time_s: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Problem:
    """A programming problem with its tests.

    `task_id` is unique within its benchmark. The statement shows the first `num_visible_tests` tests. `references` are
    programs known to be right; there may be none. A completion continues `code_prefix` (HumanEval's prompt), or is a
    whole program if that is empty. `preamble` is source code that runs before it and is not shown. `entry_point` names
    the function that call and assert tests use, if any. `checker` says which answers to stdin, call and reference tests
    are right; None means the expected one alone. `modules` are the top-level modules that its programs need. `examples`
    are tests that a model may see, with what its program does on them. They may be tests as well, but not all of them.
    """

    task_id: str
    benchmark: str
    statement: str
    tests: tuple[Test, ...]
    references: tuple[str, ...] = ()
    difficulty: str | None = None
    entry_point: str | None = None
    starter_code: str = ""
    code_prefix: str = ""
    preamble: str = ""
    num_visible_tests: int = 0
    limits: Limits = Limits()
    checker: AnswerRule | Checker | None = None
    modules: tuple[str, ...] = ()
    examples: tuple[Test, ...] = ()


class UnusableRowError(ValueError):
    """One row cannot be used; the message gives the reason. `file` and `line` give the place if it is not the row's."""

    def __init__(self, reason: str, *, file: str | None = None, line: int | None = None) -> None:
        super().__init__(reason)
        self.file = file
        self.line = line


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that was skipped. `line` counts from 1, for Hub rows as well; it is None if the file has no lines."""

    file: str
    line: int | None
    task_id: str | None
    reason: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.reason}" if self.task_id is None else f"{place}: problem {self.task_id}: {self.reason}"


def describe_rejected(rejected: Sequence[RejectedRow], limit: int = 20) -> str:
    """One line per row for the first `limit` rows, then the number of rows left out."""
    lines = [str(row) for row in rejected[:limit]]
    if len(rejected) > limit:
        lines.append(f"... and {len(rejected) - limit} more")
    return "\n".join(lines)

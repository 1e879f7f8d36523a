"""The one type of problem, and the kinds of test it can have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StdinTest:
    """Run the program with `stdin`; its standard output is compared with `expected`."""

    stdin: str
    expected: str


@dataclass(frozen=True, slots=True)
class CallTest:
    """Call `function` (global, or a method of the program's class `Solution`) with `arguments`.

    `unwrap` says that `expected` is a one-element list around the answer, as APPS often writes it, so that the bare
    element is right as well.
    """

    function: str
    arguments: tuple[Any, ...]
    expected: Any
    unwrap: bool = False


@dataclass(frozen=True, slots=True)
class AssertTest:
    """One `assert` statement over the program's names; `setup` runs in the program's namespace before it.

    `classes` are the names in the assertion that stand for classes of the program; None: those in capitals.
    """

    assertion: str
    setup: str = ""
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class CheckTest:
    """A module with a test function `check(candidate)` (HumanEval) that does not split into `AssertTest`s."""

    source: str
    entry_point: str


Test = StdinTest | CallTest | AssertTest | CheckTest


@dataclass(frozen=True, slots=True)
class Problem:
    """A programming problem with its tests.

    `task_id` is unique within its benchmark. The first `num_visible_tests` tests are shown in the statement.
    `references` are programs known to be right (none for problems that carry tests only). `code_prefix` is source that
    a completion continues (HumanEval's prompt), empty where a completion is a whole program. `entry_point` names the
    function that call and assert tests use, if any.
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
    num_visible_tests: int = 0

"""What an attack is: programs graded one after another by one sandbox, each with the outcomes that are right for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from problems.types import AssertTest, CallTest, CheckTest, Problem, StdinTest, Test
from sandbox.compare import Comparison
from sandbox.verdict import Outcome

PASSED, FAILED, ERROR = Outcome.PASSED, Outcome.FAILED, Outcome.RUNTIME_ERROR
TIMEOUT, MEMORY, OUTPUT = Outcome.TIMEOUT, Outcome.MEMORY_LIMIT, Outcome.OUTPUT_LIMIT
SYNTAX, INFRASTRUCTURE = Outcome.SYNTAX_ERROR, Outcome.INFRASTRUCTURE_ERROR

# A program's own doing, whatever it tries: scored, and never a pass.
NEVER_PASSED = (FAILED, ERROR, TIMEOUT, MEMORY, OUTPUT, SYNTAX)
# The program used up what the grader needs as well: no pass; better `memory_limit` than a fault of the grader.
STARVED = (MEMORY, INFRASTRUCTURE, FAILED, ERROR, TIMEOUT, OUTPUT)
# Awkward rather than hostile: any outcome, as long as there is one.
ANY = (PASSED, *NEVER_PASSED)
# The test's own values are beyond what a grader need take: it may refuse, but by a verdict.
ANY_OR_FAULT = (*ANY, INFRASTRUCTURE)


@dataclass(frozen=True, slots=True)
class Step:
    """One program, graded on `problem`."""

    problem: Problem
    source: str
    outcomes: tuple[Outcome, ...] = NEVER_PASSED
    comparison: Comparison = Comparison.STRICT
    error_line: int | None = None


@dataclass(frozen=True, slots=True)
class Attack:
    """Steps in order. `small`: graded with little memory and much time, since it has to fill that memory."""

    name: str
    steps: tuple[Step, ...]
    small: bool = False


def problem(*tests: Test, prefix: str = "", benchmark: str = "tests") -> Problem:
    """A problem with these tests."""
    return Problem("p", benchmark, "", tests, entry_point="f", code_prefix=prefix)


def single(
    name: str,
    on: Problem,
    source: str,
    outcomes: Iterable[Outcome] = NEVER_PASSED,
    comparison: Comparison = Comparison.STRICT,
    error_line: int | None = None,
    small: bool = False,
) -> Attack:
    """An attack of one program."""
    return Attack(name, (Step(on, source, tuple(outcomes), comparison, error_line),), small)


SQUARE = problem(StdinTest("5\n", "25\n"))
SQUARES = problem(*(StdinTest(f"{n}\n", f"{n * n}\n") for n in (5, 6, 7)))
CALL = problem(CallTest("f", (5,), 25))
ASSERT = problem(AssertTest("assert f(5) == 25"))
CHECK = problem(
    CheckTest("def check(candidate):\n    for n in (5, 6, 7):\n        assert candidate(n) == n * n\n", "f")
)

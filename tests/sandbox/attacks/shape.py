"""An attack: programs that one sandbox grades one after another, each with its acceptable outcomes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rltf.problems.types import AssertTest, CallTest, CheckTest, Problem, StdinTest, Test
from rltf.sandbox.compare import Comparison
from rltf.sandbox.verdict import Outcome

PASSED, FAILED, ERROR = Outcome.PASSED, Outcome.FAILED, Outcome.RUNTIME_ERROR
TIMEOUT, MEMORY, OUTPUT = Outcome.TIMEOUT, Outcome.MEMORY_LIMIT, Outcome.OUTPUT_LIMIT
SYNTAX, INFRASTRUCTURE = Outcome.SYNTAX_ERROR, Outcome.INFRASTRUCTURE_ERROR

# The program's own doing, whatever it tries: scored, but never a pass.
NEVER_PASSED = (FAILED, ERROR, TIMEOUT, MEMORY, OUTPUT, SYNTAX)
# The program used up what the grader needs too: never a pass, and preferably `memory_limit`, not a grader error.
STARVED = (MEMORY, INFRASTRUCTURE, FAILED, ERROR, TIMEOUT, OUTPUT)
# Awkward rather than hostile: any outcome will do, as long as there is one.
ANY = (PASSED, *NEVER_PASSED)
# The test's own values are more than a grader needs to handle: it may refuse them, but with a verdict.
ANY_VERDICT = (*ANY, INFRASTRUCTURE)


@dataclass(frozen=True, slots=True)
class Step:
    """One program, to be graded on `problem`."""

    problem: Problem
    source: str
    outcomes: tuple[Outcome, ...] = NEVER_PASSED
    comparison: Comparison = Comparison.STRICT
    error_line: int | None = None


@dataclass(frozen=True, slots=True)
class Attack:
    """Steps in order. A `small` attack gets little memory and much time, because it has to fill that memory."""

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
    """An attack with a single program."""
    return Attack(name, (Step(on, source, tuple(outcomes), comparison, error_line),), small)


SQUARE = problem(StdinTest("5\n", "25\n"))
SQUARES = problem(*(StdinTest(f"{n}\n", f"{n * n}\n") for n in (5, 6, 7)))
CALL = problem(CallTest("f", (5,), 25))
ASSERT = problem(AssertTest("assert f(5) == 25"))
CHECK = problem(
    CheckTest("def check(candidate):\n    for n in (5, 6, 7):\n        assert candidate(n) == n * n\n", "f")
)

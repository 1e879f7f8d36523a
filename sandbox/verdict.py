"""What the sandbox says about a program."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rltf.settings.choices import Isolation as Isolation  # part of a verdict

GRADER_ERROR = "GraderError"
"""The type of a verdict's error if the grader or the test failed; the message says which."""


class Outcome(StrEnum):
    """The outcome of a test, or of a program (its worst test). Only a test can be `SKIPPED`: not run and not passed."""

    PASSED = "passed"
    FAILED = "failed"
    RUNTIME_ERROR = "runtime_error"
    TIMEOUT = "timeout"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    SYNTAX_ERROR = "syntax_error"
    INFRASTRUCTURE_ERROR = "infrastructure_error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class ProgramError:
    """The first error in test order. A hint from inside the jail, except for syntax errors, which the grader finds.

    `line` counts from 1 in the submitted program, `column` from 0 in characters. Both are None if unknown.
    """

    type: str
    message: str = ""
    line: int | None = None
    column: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`tests` holds the outcome of each test in the problem's order. `seconds` is wall time, `cpu_seconds` CPU time.

    `actual` is what came out of the first test that did not pass: its output or its value, cut off (see `shown.py`). It
    is None if there is no such test, if that test ended without an answer, or if it is a test function. It is for
    people; a policy may only see that of a verdict on the examples (`examples.py`).
    """

    task_id: str
    completion_id: str
    outcome: Outcome
    tests: tuple[Outcome, ...]
    error: ProgramError | None
    isolation: Isolation
    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    actual: str | None = None

    @property
    def passed(self) -> bool:
        return self.outcome is Outcome.PASSED

    @property
    def is_grader_error(self) -> bool:
        """Whether the grader or the test failed, so that the verdict says nothing about the program."""
        return self.outcome is Outcome.INFRASTRUCTURE_ERROR

    @property
    def pass_ratio(self) -> float:
        """Share of tests passed, in [0, 1]."""
        return sum(test is Outcome.PASSED for test in self.tests) / len(self.tests)

    def to_json(self) -> dict[str, object]:
        """The fields of an output row, without the ids, which are copied from the input row."""
        error = self.error
        return {
            "outcome": self.outcome.value,
            "passed": self.passed,
            "pass_ratio": self.pass_ratio,
            "tests": [test.value for test in self.tests],
            "error_type": error.type if error else None,
            "error_message": error.message if error else None,
            "error_line": error.line if error else None,
            "actual": self.actual,
            "isolation": self.isolation.value,
            "seconds": round(self.seconds, 6),
        }

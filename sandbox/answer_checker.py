"""Problems with several right answers: a program of the problem's author says whether an answer is right.

The checker is trusted, but it reads what a hostile program wrote. So it runs in a jail as well, one that no graded
program enters, and gets nothing but the input, the expected answer and the program's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rltf.problems.types import Checker, CheckerForm
from rltf.sandbox import codec
from rltf.sandbox.jobs import CallJob, ClosedJob, End, Job, RunResult, StdinJob
from rltf.sandbox.trusted import TrustedJail
from rltf.sandbox.verdict import Outcome
from rltf.settings import MIB

# The answers of one program that may wait for its checker, and how much of them and their inputs goes into one run.
_MAX_KEPT_BYTES = 64 * MIB
_MAX_RUN_BYTES = 16 * MIB

# Runs a checker program on three files, and returns its exit status and what it printed.
_RUN_PROGRAM = """
import io, sys

def check(source, input, second, third):
    names = ["input.txt", "second.txt", "third.txt"]
    for name, text in zip(names, (input, second, third)):
        with open(name, "w", newline="") as file:
            file.write(text)
    sys.argv = ["checker", *names]
    sys.stdout = io.StringIO()
    status = 0
    try:
        exec(compile(source, "<checker>", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        status = 0 if error.code is None else error.code
    return status, sys.stdout.getvalue()
"""
_FUNCTION = "check"


@dataclass(frozen=True, slots=True)
class Question:
    """What a checker is asked about a test: `given` is the input. `expected` is None if a reference computes it."""

    checker: Checker
    given: Any
    expected: Any = None

    def job(self, answer: Any, expected: Any) -> ClosedJob:
        """The job that asks about an answer, given the value that the test expects."""
        if self.checker.form is CheckerForm.FUNCTION:
            return ClosedJob(CallJob(_FUNCTION, (self.given, expected, answer)), self.checker.source)
        pair = (answer, expected) if self.checker.form is CheckerForm.PROGRAM else (expected, answer)
        return ClosedJob(CallJob(_FUNCTION, (self.checker.source, self.given, *pair)), _RUN_PROGRAM)


@dataclass(frozen=True, slots=True)
class _Asked:
    question: Question
    expected: Any
    answer: Any
    num_bytes: int

    def about(self, answer: Any) -> ClosedJob:
        return self.question.job(answer, self.expected)


class Answers:
    """The answers of one program that its problem's checker has to look at, by the number of their test."""

    def __init__(self) -> None:
        self._asked: dict[int, _Asked] = {}
        self._outcomes: dict[int, tuple[Outcome, str]] = {}

    def keep(self, number: int, question: Question, job: Job, result: RunResult, closed: RunResult | None) -> None:
        """Keep what came out of a test that did not give the expected answer."""
        expected = question.expected if closed is None else closed.value
        answer = result.stdout.decode("utf-8", "replace") if isinstance(job, StdinJob) else result.value
        try:
            num_bytes = len(codec.encode((question.given, expected, answer), sys.maxsize))
        except codec.CodecError:  # nested as deeply as a value may be
            return
        if num_bytes + sum(one.num_bytes for one in self._asked.values()) > _MAX_KEPT_BYTES:
            self._outcomes[number] = Outcome.OUTPUT_LIMIT, ""
            return
        self._asked[number] = _Asked(question, expected, answer, num_bytes)

    def forget(self, number: int) -> None:
        """Drop an answer: its test has run again, because a jail failed."""
        self._asked.pop(number, None)
        self._outcomes.pop(number, None)

    def outcomes(self, trusted: TrustedJail) -> dict[int, tuple[Outcome, str]]:
        """Ask the checker: the outcome of each test, and the reason if it is the checker that fails.

        Raises `JailError` if the jail breaks.
        """
        found = dict(self._outcomes)
        for part in self._parts():
            jobs = [one.about(one.answer) for one in part.values()]
            results = trusted.run(jobs[0].source, [job.job for job in jobs])
            for (number, asked), result in zip(part.items(), results, strict=True):
                found[number] = _outcome(number, asked, result, trusted)
        return found

    def _parts(self) -> Iterator[dict[int, _Asked]]:
        part: dict[int, _Asked] = {}
        for number, asked in self._asked.items():
            if part and asked.num_bytes + sum(one.num_bytes for one in part.values()) > _MAX_RUN_BYTES:
                yield part
                part = {}
            part[number] = asked
        if part:
            yield part


def _outcome(number: int, asked: _Asked, result: RunResult, trusted: TrustedJail) -> tuple[Outcome, str]:
    checker = asked.question.checker
    if _accepts(checker, result):
        return Outcome.PASSED, ""
    if result.end is End.SKIPPED:  # the checker has used up its time on an earlier answer
        return Outcome.SKIPPED, ""
    if result.end is End.INFRASTRUCTURE:
        return Outcome.INFRASTRUCTURE_ERROR, f"the checker of test {number} could not run"
    (control,) = trusted.results([asked.about(asked.expected)])
    assert control is not None
    if _accepts(checker, control):
        return Outcome.FAILED, ""
    reason = "rejects the expected answer" if control.end is End.OK else f"ends with {control.end}"
    if control.error is not None:
        reason = f"fails ({control.error.type}: {control.error.message})"
    return Outcome.INFRASTRUCTURE_ERROR, f"the checker of test {number} {reason}"


def _accepts(checker: Checker, result: RunResult) -> bool:
    """Whether a checker found an answer right. One that fails on an answer did not."""
    if result.end is not End.OK:
        return False
    if checker.form is CheckerForm.FUNCTION:
        return result.value is True
    match result.value:
        case (0, str(printed)):
            return checker.form is CheckerForm.PROGRAM or printed.split()[-1:] == ["1"]
    return False

"""Checking that a benchmark's reference programs pass its own tests, before anything is learnt from either."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from files import write_json
from problems.types import Problem
from sandbox.grading import Graders
from sandbox.verdict import Outcome, Verdict

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RejectedReference:
    """A reference program that does not pass. `number` counts the problem's references from 0."""

    task_id: str
    number: int
    reason: str

    def __str__(self) -> str:
        return f"problem {self.task_id}, reference {self.number}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Validated:
    """`problems` carry only references that pass. Those that had references and none that passes are left out."""

    problems: tuple[Problem, ...]
    rejected: tuple[RejectedReference, ...]
    left_out: tuple[Problem, ...]


def validate_references(problems: Iterable[Problem], graders: Graders, cache: Path) -> Validated:
    """Run every reference program on its problem's tests.

    A problem without references is kept as it is. `cache` is a JSON file: what it says of a problem is believed for as
    long as its tests and references are the same, and what is found now is added to it. A reference that the grader
    cannot judge (a set-up that fails) is rejected as well, since no program would do better, but that is not kept.
    """
    problems = list(problems)
    known: dict[str, dict[str, str | None]] = json.loads(cache.read_text("utf-8")) if cache.exists() else {}
    keys = [_fingerprint(problem) for problem in problems]
    unknown = [
        (key, number, problem)
        for key, problem in zip(keys, problems, strict=True)
        for number in range(len(problem.references))
        if str(number) not in known.get(key, {})
    ]

    def grade(item: tuple[str, int, Problem]) -> Verdict:
        _, number, problem = item
        return graders.grade(problem, problem.references[number], f"reference {number}")

    faults: dict[str, dict[str, str | None]] = {}
    for (key, number, _), verdict in graders.map(grade, unknown):
        found = faults if verdict.outcome is Outcome.INFRASTRUCTURE_ERROR else known
        found.setdefault(key, {})[str(number)] = None if verdict.passed else _reason(verdict)
    write_json(cache, known)
    return _split(problems, [known.get(key, {}) | faults.get(key, {}) for key in keys])


def _split(problems: list[Problem], found: list[dict[str, str | None]]) -> Validated:
    kept: list[Problem] = []
    rejected: list[RejectedReference] = []
    left_out: list[Problem] = []
    for problem, reasons in zip(problems, found, strict=True):
        failing = {int(number): reason for number, reason in reasons.items() if reason is not None}
        rejected.extend(RejectedReference(problem.task_id, number, reason) for number, reason in failing.items())
        passing = tuple(program for number, program in enumerate(problem.references) if number not in failing)
        if problem.references and not passing:
            left_out.append(problem)
        else:
            kept.append(replace(problem, references=passing))
    return Validated(tuple(kept), tuple(rejected), tuple(left_out))


def _reason(verdict: Verdict) -> str:
    failing = next(number for number, outcome in enumerate(verdict.tests) if outcome is not Outcome.PASSED)
    error = f" ({verdict.error.type}: {verdict.error.message})" if verdict.error else ""
    return f"{verdict.outcome.value} at test {failing}{error}"


def _fingerprint(problem: Problem) -> str:
    """Names what a verdict on the problem's references depends on."""
    parts: list[Any] = [problem.benchmark, problem.task_id, problem.code_prefix, problem.tests, problem.references]
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()

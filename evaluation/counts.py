"""The counts of one evaluation by the strict rules and, where asked for, beside them by those of APPS."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from errors import UserError
from evaluation.result import Tally, compare_tallies, evaluate_tally
from evaluation.store import read_samples
from problems.types import Problem
from sandbox.compare import Comparison
from sandbox.verdict import Outcome

APPS_KEY = "passed_apps"
"""The key of a stored program for whether it passes by the APPS rules."""


class Counts:
    """How many programs of each problem passed, by each of the rules."""

    def __init__(self, problems: tuple[Problem, ...], comparison: Comparison) -> None:
        self._num_programs = Counter({problem.task_id: 0 for problem in problems})
        self._tallies = {Comparison.STRICT: Tally(problems)}
        if comparison is Comparison.APPS:
            self._tallies[Comparison.APPS] = Tally(problems)

    def add(self, task_id: str, outcome: Outcome, passed_apps: bool | None) -> None:
        """Count one program. By the APPS rules one without `passed_apps` was not graded, whatever `outcome` says."""
        self._num_programs[task_id] += 1
        self._tallies[Comparison.STRICT].add(task_id, outcome)
        if Comparison.APPS in self._tallies:
            by_apps = {None: Outcome.INFRASTRUCTURE_ERROR, True: Outcome.PASSED, False: outcome}[passed_apps]
            self._tallies[Comparison.APPS].add(task_id, by_apps)

    @property
    def num_ungraded(self) -> int:
        """Programs that the grader itself failed on, by whichever rules."""
        return max(tally.outcomes[Outcome.INFRASTRUCTURE_ERROR] for tally in self._tallies.values())

    def coverage(self) -> dict[str, Any]:
        """How evenly programs are spread over problems, graded or not."""
        numbers = [number for number in self._num_programs.values() if number]
        return {
            "problems_without_samples": len(self._num_programs) - len(numbers),
            "samples_per_problem": {"min": min(numbers, default=0), "max": max(numbers, default=0)},
        }

    def results(self, ks: tuple[int, ...]) -> dict[str, Any]:
        """The content of `results.json`. Raises UserError where no problem has as many programs as some k."""
        try:
            strict, *others = (evaluate_tally(tally, ks, rules.value) for rules, tally in self._tallies.items())
        except ValueError as error:
            if not self.num_ungraded:
                raise UserError(str(error)) from error
            raise UserError(
                f"{error} ({self.num_ungraded} programs met faults of the grader; the same command grades them again)"
            ) from error
        return strict.to_json() | {other.comparison: other.to_json() for other in others}

    def against(self, theirs: Counts, ks: tuple[int, ...]) -> dict[str, Any]:
        """What these are more than `theirs`, by the same rules. Raises UserError where they share too little."""
        try:
            strict, *others = (
                (rules.value, compare_tallies(tally, theirs._tallies[rules], ks))
                for rules, tally in self._tallies.items()
            )
        except ValueError as error:
            raise UserError(str(error)) from error
        return strict[1] | dict(others)


def read_counts(folder: Path, problems: tuple[Problem, ...], comparison: Comparison) -> Counts:
    """The counts of an earlier evaluation over those of `problems` that it has.

    Raises:
        UserError: as `read_samples`; a row without `task_id` and `outcome`, or without the comparison asked for.
    """
    counts = Counts(problems, comparison)
    known = {problem.task_id for problem in problems}
    for number, row in enumerate(read_samples(folder), start=1):
        place = f"{folder / 'samples.jsonl'}:{number}"
        try:
            task_id, outcome = str(row["task_id"]), Outcome(row["outcome"])
        except (KeyError, ValueError) as error:
            raise UserError(f"{place}: no row of an evaluation: {error}") from error
        if comparison is Comparison.APPS and APPS_KEY not in row:
            raise UserError(f"{place}: {folder} was evaluated without --comparison apps; evaluate both with it")
        if task_id in known:
            counts.add(task_id, outcome, row.get(APPS_KEY))
    return counts

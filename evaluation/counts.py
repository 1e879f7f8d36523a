"""The counts of one evaluation by the strict rules and, where asked for, beside them by those of APPS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.result import Tally, compare_tallies, evaluate_tally
from evaluation.store import EvaluationError, read_samples
from problems.types import Problem
from sandbox.compare import Comparison
from sandbox.verdict import Outcome

APPS_KEY = "passed_apps"
"""The key of a stored program for whether it passes by the APPS rules."""


class Counts:
    """How many programs of each problem passed, by each of the rules."""

    def __init__(self, problems: tuple[Problem, ...], comparison: Comparison) -> None:
        self._tallies = {Comparison.STRICT: Tally(problems)}
        if comparison is Comparison.APPS:
            self._tallies[Comparison.APPS] = Tally(problems)

    def add(self, task_id: str, outcome: Outcome, passed_apps: bool | None) -> None:
        """Count one program."""
        for rules, tally in self._tallies.items():
            tally.add(task_id, Outcome.PASSED if passed_apps and rules is Comparison.APPS else outcome)

    def results(self, ks: tuple[int, ...]) -> dict[str, Any]:
        """The content of `results.json`. Raises EvaluationError where no problem has as many programs as some k."""
        try:
            strict, *others = (evaluate_tally(tally, ks, rules.value) for rules, tally in self._tallies.items())
        except ValueError as error:
            raise EvaluationError(str(error)) from error
        return strict.to_json() | {other.comparison: other.to_json() for other in others}

    def against(self, theirs: Counts, ks: tuple[int, ...]) -> dict[str, Any]:
        """What these are more than `theirs`, by the same rules. Raises EvaluationError where they share too little."""
        try:
            strict, *others = (
                (rules.value, compare_tallies(tally, theirs._tallies[rules], ks))
                for rules, tally in self._tallies.items()
            )
        except ValueError as error:
            raise EvaluationError(str(error)) from error
        return strict[1] | dict(others)


def read_counts(folder: Path, problems: tuple[Problem, ...], comparison: Comparison) -> Counts:
    """The counts of an earlier evaluation over those of `problems` that it has.

    Raises:
        EvaluationError: as `read_samples`; a row without `task_id` and `outcome`, or without the comparison asked for.
    """
    counts = Counts(problems, comparison)
    known = {problem.task_id for problem in problems}
    for number, row in enumerate(read_samples(folder), start=1):
        place = f"{folder / 'samples.jsonl'}:{number}"
        try:
            task_id, outcome = str(row["task_id"]), Outcome(row["outcome"])
        except (KeyError, ValueError) as error:
            raise EvaluationError(f"{place}: no row of an evaluation: {error}") from error
        if comparison is Comparison.APPS and APPS_KEY not in row:
            raise EvaluationError(f"{place}: {folder} was evaluated without --comparison apps; evaluate both with it")
        if task_id in known:
            counts.add(task_id, outcome, row.get(APPS_KEY))
    return counts

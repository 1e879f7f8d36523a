"""Counting verdicts into pass@k tables. Pure; holds counts only, however many programs there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.passes import bootstrap_interval, pass_at_k
from problems.types import Problem
from sandbox.verdict import Outcome, Verdict

ALL = "all"


class Tally:
    """How many programs of each problem were scored and how many passed.

    `infrastructure_error`s are counted among the outcomes but not as programs: they say nothing about the policy.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.difficulties = {problem.task_id: problem.difficulty for problem in problems}
        self.num_samples: Counter[str] = Counter()
        self.num_passed: Counter[str] = Counter()
        self.outcomes: Counter[Outcome] = Counter()

    def add(self, task_id: str, outcome: Outcome) -> None:
        """Count one program.

        Raises:
            KeyError: no such problem.
        """
        if task_id not in self.difficulties:
            raise KeyError(task_id)
        self.outcomes[outcome] += 1
        if outcome is not Outcome.INFRASTRUCTURE_ERROR:
            self.num_samples[task_id] += 1
            self.num_passed[task_id] += outcome is Outcome.PASSED

    def groups(self) -> dict[str, list[str]]:
        """The task ids that have scored programs: `all`, and those of each difficulty."""
        groups: dict[str, list[str]] = {ALL: []}
        for task_id, difficulty in self.difficulties.items():
            if self.num_samples[task_id]:
                groups[ALL].append(task_id)
                if difficulty is not None:
                    groups.setdefault(difficulty, []).append(task_id)
        return groups

    def pass_at_k(self, task_id: str, k: int) -> float:
        """The problem's pass@k. Raises ValueError where it has fewer than k programs."""
        return pass_at_k(self.num_samples[task_id], self.num_passed[task_id], k)


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """pass@k of a set of programs.

    `pass_at` and `intervals` (95 %, bootstrap over problems) go from k to group (`all` and each difficulty) to value.
    `num_left_out[k]` problems have fewer than k scored programs and are not in pass@k.
    """

    pass_at: Mapping[int, Mapping[str, float]]
    intervals: Mapping[int, Mapping[str, tuple[float, float]]]
    num_left_out: Mapping[int, int]
    num_problems: int
    num_samples: int
    outcomes: Mapping[Outcome, int]
    comparison: str = "strict"

    def to_json(self) -> dict[str, Any]:
        """The object that `results.json` holds."""
        left_out = {f"pass@{k}": count for k, count in self.num_left_out.items() if count}
        return {
            **{f"pass@{k}": dict(groups) for k, groups in self.pass_at.items()},
            "intervals": {
                f"pass@{k}": {group: list(interval) for group, interval in groups.items()}
                for k, groups in self.intervals.items()
            },
            "num_problems": self.num_problems,
            "num_samples": self.num_samples,
            "outcomes": {outcome.value: count for outcome, count in sorted(self.outcomes.items())},
            "comparison": self.comparison,
            **({"problems_with_too_few_samples": left_out} if left_out else {}),
        }


def evaluate_verdicts(
    problems: Sequence[Problem], verdicts: Iterable[Verdict], ks: Sequence[int], comparison: str = "strict"
) -> EvaluationResult:
    """pass@k of graded programs; `verdicts` are read once and not kept.

    Raises:
        KeyError: a verdict of a problem that is not among `problems`.
        ValueError: no problem has as many programs as some k asks for.
    """
    tally = Tally(problems)
    for verdict in verdicts:
        tally.add(verdict.task_id, verdict.outcome)
    return evaluate_tally(tally, ks, comparison)


def evaluate_tally(tally: Tally, ks: Sequence[int], comparison: str = "strict") -> EvaluationResult:
    """pass@k of counted programs. Raises as `evaluate_verdicts` does."""
    groups = tally.groups()
    pass_at: dict[int, dict[str, float]] = {}
    intervals: dict[int, dict[str, tuple[float, float]]] = {}
    left_out: dict[int, int] = {}
    for k in sorted(set(ks)):
        pass_at[k], intervals[k] = {}, {}
        for group, task_ids in groups.items():
            values = np.array([tally.pass_at_k(task, k) for task in task_ids if tally.num_samples[task] >= k])
            if group == ALL:
                left_out[k] = len(task_ids) - len(values)
                if not len(values):
                    most = max(tally.num_samples.values(), default=0)
                    raise ValueError(f"pass@{k} needs {k} graded programs of a problem; the most there are is {most}")
            if len(values):
                pass_at[k][group] = float(values.mean())
                intervals[k][group] = bootstrap_interval(values)
    return EvaluationResult(
        pass_at=pass_at,
        intervals=intervals,
        num_left_out=left_out,
        num_problems=len(groups[ALL]),
        num_samples=tally.num_samples.total(),
        outcomes=dict(tally.outcomes),
        comparison=comparison,
    )


def compare_tallies(ours: Tally, theirs: Tally, ks: Sequence[int]) -> dict[str, Any]:
    """pass@k of `ours` minus that of `theirs` over the problems both have, overall and for each difficulty.

    From `pass@K` to group to `difference`, its `interval` and `num_problems`. The interval is the paired bootstrap's:
    problems are resampled with the difference that each has. Pairing takes out what makes problems hard for both, so it
    is narrower than two separate intervals suggest.

    Raises:
        ValueError: no problem has k programs in both.
    """
    compared: dict[str, Any] = {}
    for k in sorted(set(ks)):
        compared[f"pass@{k}"] = groups = {}
        for group, task_ids in ours.groups().items():
            tasks = [task for task in task_ids if min(ours.num_samples[task], theirs.num_samples[task]) >= k]
            if tasks:
                differences = np.array([ours.pass_at_k(task, k) - theirs.pass_at_k(task, k) for task in tasks])
                groups[group] = {
                    "difference": float(differences.mean()),
                    "interval": list(bootstrap_interval(differences)),
                    "num_problems": len(tasks),
                }
        if not groups:
            raise ValueError(f"no problem has {k} programs in both runs, so pass@{k} cannot be compared")
    return compared

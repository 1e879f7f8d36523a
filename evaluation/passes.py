"""pass@k: the estimator, bootstrap intervals over problems, and tallies of verdicts. Holds counts, never programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rltf.problems.types import Problem
from rltf.sandbox.verdict import Outcome

ALL = "all"
NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95
_CHUNK = 2**22  # resampled values held at a time


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Probability that at least one of `k` programs drawn without replacement passes (Chen et al. 2021, equation 1).

    `1 - C(n - c, k) / C(n, k)` in exact integers and one division, so it is stable for any n and k. Raises ValueError
    if not `0 <= num_passed <= num_samples`, or not `1 <= k <= num_samples`.
    """
    if not 0 <= num_passed <= num_samples:
        raise ValueError(f"{num_passed} of {num_samples} programs cannot have passed")
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs k from 1 to the number of programs, {num_samples}")
    draws = comb(num_samples, k)
    return (draws - comb(num_samples - num_passed, k)) / draws


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The percentile interval of the mean of `values` [num_problems], resampling problems with replacement.

    The same values give the same interval. The programs within a problem are not resampled: what makes a benchmark's
    figure uncertain is which problems it happens to contain. Raises ValueError if there are no values.
    """
    if not len(values):
        raise ValueError("an interval needs at least one problem")
    rng = np.random.default_rng(0)
    rows = max(1, _CHUNK // len(values))
    means = [
        values[rng.integers(len(values), size=(min(rows, NUM_RESAMPLES - start), len(values)))].mean(axis=1)
        for start in range(0, NUM_RESAMPLES, rows)
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


class Tally:
    """How many programs of each problem were scored, and how many passed.

    An `infrastructure_error` counts as an outcome but not as a program: it says nothing about the policy. `sets` are
    the task ids of named sets of the problems. Their names are neither `all` nor a difficulty.
    """

    def __init__(self, problems: Iterable[Problem], sets: Mapping[str, Sequence[str]] | None = None) -> None:
        self.difficulties = {problem.task_id: problem.difficulty for problem in problems}
        self.sets = {} if sets is None else sets
        self.num_samples: Counter[str] = Counter()
        self.num_passed: Counter[str] = Counter()
        self.outcomes: Counter[Outcome] = Counter()

    def add(self, task_id: str, outcome: Outcome) -> None:
        """Count one program. Raises KeyError if there is no such problem."""
        if task_id not in self.difficulties:
            raise KeyError(task_id)
        self.outcomes[outcome] += 1
        if outcome is not Outcome.INFRASTRUCTURE_ERROR:
            self.num_samples[task_id] += 1
            self.num_passed[task_id] += outcome is Outcome.PASSED

    @property
    def num_ungraded(self) -> int:
        """Programs that the grader failed on."""
        return self.outcomes[Outcome.INFRASTRUCTURE_ERROR]

    def groups(self) -> dict[str, list[str]]:
        """The task ids with scored programs: under `all`, under each set, and under each difficulty."""
        scored = [task_id for task_id in self.difficulties if self.num_samples[task_id]]
        groups = {ALL: scored}
        for name, task_ids in self.sets.items():
            groups[name] = [task_id for task_id in task_ids if self.num_samples[task_id]]
        for task_id in scored:
            if (difficulty := self.difficulties[task_id]) is not None:
                groups.setdefault(difficulty, []).append(task_id)
        return groups

    def pass_at_k(self, task_id: str, k: int) -> float:
        """The problem's pass@k. Raises ValueError if it has fewer than k programs."""
        return pass_at_k(self.num_samples[task_id], self.num_passed[task_id], k)


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """pass@k of a set of programs.

    `pass_at` and `intervals` (95 %, bootstrap over problems) map k to group (`all`, each set and each difficulty) to
    value. `num_left_out[k]` problems have fewer than k scored programs and are not part of pass@k. `sets` has the task
    ids with scored programs of each named set that has a pass@k for every k.
    """

    pass_at: Mapping[int, Mapping[str, float]]
    intervals: Mapping[int, Mapping[str, tuple[float, float]]]
    num_left_out: Mapping[int, int]
    num_problems: int
    num_samples: int
    outcomes: Mapping[Outcome, int]
    comparison: str = "strict"
    sets: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def shown(self) -> tuple[str, ...]:
        """The groups to show during a run: the named sets or, if there are none, `all`."""
        return tuple(self.sets) or (ALL,)

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


def evaluate_tally(tally: Tally, ks: Sequence[int], comparison: str = "strict") -> EvaluationResult:
    """pass@k of the counted programs. Raises ValueError if no problem has as many programs as some k."""
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
                    raise ValueError(f"pass@{k} needs {k} graded programs of a problem; no problem has over {most}")
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
        sets={name: groups[name] for name in tally.sets if all(name in of_groups for of_groups in pass_at.values())},
    )


def compare_tallies(ours: Tally, theirs: Tally, ks: Sequence[int]) -> dict[str, Any]:
    """pass@k of `ours` minus pass@k of `theirs` over the problems both have, overall and for each difficulty.

    Maps `pass@K` to group to `difference`, its `interval` and `num_problems`. The interval comes from a paired
    bootstrap, which resamples problems together with the difference each one shows. Pairing removes what makes problems
    hard for both, so the interval is narrower than two separate intervals suggest. Raises ValueError if no problem has
    k programs in both.
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

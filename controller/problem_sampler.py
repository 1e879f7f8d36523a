"""The order in which RL goes through the problems."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NUM_RECENT = 2
"""A problem counts as unsolved only after so many rollouts: a single one often misses a pass rate of 5 to 10 %."""


class Passes(NamedTuple):
    """How many programs of a problem were scored, and how many of them passed."""

    num_passed: int
    num_samples: int


class ProblemSampler:
    """Task ids in epochs: every problem once in each, in an order that depends only on the seed and the epoch.

    A group whose programs all pass, or all fail, teaches little or nothing under a group baseline (DAPO, arXiv
    2503.14476, section 3.2). So when its turn comes, a problem is skipped with probability `skip_solved` if every
    program of its last rollout passed, and with probability `skip_unsolved` if none of its last rollouts' did.
    `measured` are results from before the run, which count as a rollout. They alone can make a problem unsolved.
    """

    def __init__(
        self,
        task_ids: Sequence[str],
        seed: int,
        *,
        skip_solved: float = 0.0,
        skip_unsolved: float = 0.0,
        measured: Mapping[str, Passes] | None = None,
    ) -> None:
        """Raises ValueError if there are no problems."""
        if not task_ids:
            raise ValueError("no problems to train on")
        self._task_ids = tuple(task_ids)
        self._seed = seed
        self._skip_solved = skip_solved
        self._skip_unsolved = skip_unsolved
        self._recent: dict[str, list[Passes]] = {task_id: [] for task_id in task_ids}
        for task_id, passes in (measured or {}).items():
            if task_id in self._recent:
                self._recent[task_id] = [passes] * NUM_RECENT
        self._order: list[str] = []
        self.position = 0

    def note(self, task_id: str, num_passed: int, num_samples: int) -> None:
        """Remember the results of a rollout of the problem."""
        recent = self._recent.setdefault(task_id, [])
        recent.append(Passes(num_passed, num_samples))
        del recent[:-NUM_RECENT]

    def next(self) -> str:
        """The next task id; `position` then counts it and those that were skipped."""
        while True:
            epoch, index = divmod(self.position, len(self._task_ids))
            if index == 0 or not self._order:
                self._order = random.Random(f"{self._seed}:{epoch}").sample(self._task_ids, len(self._task_ids))
            self.position += 1
            task_id = self._order[index]
            skip = self._skip_probability(task_id)
            if not skip or random.Random(f"{self._seed}:skip:{self.position}").random() >= skip:
                return task_id

    def _skip_probability(self, task_id: str) -> float:
        recent = self._recent[task_id]
        if recent and recent[-1].num_passed == recent[-1].num_samples > 0:
            return self._skip_solved
        if len(recent) == NUM_RECENT and not any(passes.num_passed for passes in recent):
            return self._skip_unsolved
        return 0.0

    def to_json(self) -> dict[str, Any]:
        """The sampler's part of a checkpoint."""
        recent = {task_id: [list(passes) for passes in found] for task_id, found in self._recent.items() if found}
        return {"problems": self._fingerprint(), "position": self.position, "recent": recent}

    def restore(self, stored: dict[str, Any]) -> bool:
        """Continue where `to_json` was called. Returns whether the order is still the same: the problems may differ."""
        self.position = stored["position"]
        self._recent = {task_id: [] for task_id in self._task_ids}
        for task_id, found in stored["recent"].items():
            self._recent[task_id] = [Passes(*passes) for passes in found]
        return bool(stored["problems"] == self._fingerprint())

    def _fingerprint(self) -> str:
        return hashlib.sha256("\n".join(self._task_ids).encode()).hexdigest()[:16]

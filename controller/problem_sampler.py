"""The order of problems in epochs, and how many samples may be under way."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any

from errors import UserError
from settings import Settings


def capacity(settings: Settings, *, num_trained: int, step: int) -> int:
    """Samples that may be useful so far (trained or in flight) when weights have just gone out after update `step`.

    The snapshot that is trained on now and the `max_off_policy_versions` ones after it may use what is sampled now;
    anything else would be too stale when its turn came. With `max_off_policy_versions` 0 sampling and training take
    turns. (The rule is AReaL's, arXiv 2505.24298, equation 3, counted in snapshots from what has been trained on:
    rollouts stay whole, so snapshots may be larger than asked for.) Before the first update `buffer.start_samples` may
    be more.
    """
    buffer, batch_size = settings.buffer, settings.learner.batch_size
    remaining = settings.run.num_steps - step
    wanted = min((1 + buffer.max_off_policy_versions) * buffer.refresh_every, remaining) * batch_size
    if num_trained == 0:
        wanted = max(wanted, buffer.start_samples)
    return num_trained + wanted


class ProblemSampler:
    """Task ids in epochs: every problem once in each, in an order that follows from the seed and the epoch.

    A problem noted as solved is passed over with probability `skip_solved` when its turn comes: a rollout in which
    every program passes teaches nothing under a group baseline (DAPO, arXiv 2503.14476, section 3.2).
    """

    def __init__(self, task_ids: Sequence[str], seed: int, skip_solved: float = 0.0) -> None:
        """Raises ValueError where there are no problems."""
        if not task_ids:
            raise ValueError("no problems to train on")
        self._task_ids = tuple(task_ids)
        self._seed = seed
        self._skip_solved = skip_solved
        self._solved: set[str] = set()
        self._order: list[str] = []
        self.position = 0

    def note(self, task_id: str, *, solved: bool) -> None:
        """Whether every program of the problem's last rollout passed."""
        (self._solved.add if solved else self._solved.discard)(task_id)

    def next(self) -> str:
        """The next task id; `position` then counts it and those passed over."""
        while True:
            epoch, index = divmod(self.position, len(self._task_ids))
            if index == 0 or not self._order:
                self._order = random.Random(f"{self._seed}:{epoch}").sample(self._task_ids, len(self._task_ids))
            self.position += 1
            task_id = self._order[index]
            if task_id not in self._solved or random.Random(f"{self._seed}:skip:{self.position}").random() >= (
                self._skip_solved
            ):
                return task_id

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"problems": self._fingerprint(), "position": self.position, "solved": sorted(self._solved)}

    def restore(self, stored: dict[str, Any]) -> None:
        """Go on where `to_json` was called. Raises UserError where the problems were others."""
        if stored["problems"] != self._fingerprint():
            raise UserError("the checkpoint was written with other problems; give problems.train as it was")
        self.position, self._solved = stored["position"], set(stored["solved"])

    def _fingerprint(self) -> str:
        return hashlib.sha256("\n".join(self._task_ids).encode()).hexdigest()[:16]

"""What the learner trains on next: batches of references, lent by the online buffer and entered in the ledger."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ray.actor import ActorProxy

from rltf.controller.ledger import DropReason, Ledger, State, ids
from rltf.learner.buffer import BufferItem, BufferServer
from rltf.settings import Settings
from rltf.supervise import StallError, answer

logger = logging.getLogger(__name__)

POLL_S = 5.0
# A buffer that died is up again within seconds, or half a minute if it moves to another node.
ANSWER_S = 120.0

T = TypeVar("T")
Batch = list[BufferItem]


class InterruptedRunError(RuntimeError):
    """A deterministic run lost something that cannot be made again as it was: resume it from its last checkpoint."""


@dataclass(slots=True)
class BatchSource:
    """Batches in the order in which they are trained on; the first one is next.

    `allow` is told how many samples, trained or in flight, are needed at least.

    Usage:
        batch, ahead = await source.batches(step, version)     # waits for the first, not for the second
        source.done(report.trained, report.lost, step)         # the first one is used up
    """

    settings: Settings
    ledger: Ledger
    buffer: ActorProxy[BufferServer]
    allow: Callable[[int], None]
    taken: deque[Batch] = field(default_factory=deque)
    _partial: Batch = field(default_factory=list)
    _epoch: str = ""
    _discard: list[str] = field(default_factory=list)

    async def batches(self, step: int, version: int, meanwhile: Callable[[], Awaitable[object]]) -> tuple[Batch, Batch]:
        """The batch of the update after `step`, at weights `version`, and the one after it if it is there already.

        Calls `meanwhile` now and then while it waits, and raises what that raises. Raises StallError if there are not
        enough fresh samples within `learner.fetch_timeout_s`.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.settings.learner.fetch_timeout_s
        asked = clock()
        self._drop_stale(step, version)
        await self._fill(step, version)
        while not self.taken:
            timeout_s = min(POLL_S, deadline - clock())
            if timeout_s <= 0:
                raise self._starved(step, version)
            await self.ledger.changes.wait(timeout_s)
            if clock() - asked >= POLL_S:
                asked = clock()
                await self._lend(())  # so that the death of the buffer is noticed
                await meanwhile()
            await self._fill(step, version)
        if len(self.taken) < 2 and step + 1 < self.settings.run.num_steps:
            await self._fill(step, version)
        return self.taken[0], self.taken[1] if len(self.taken) > 1 else []

    def done(self, trained: Sequence[str], lost: Sequence[str], step: int) -> None:
        """Update number `step` was made with the first batch, or with what was left of it."""
        self.taken.popleft()
        for rollout_id in trained:
            self.ledger.train(rollout_id, step)
        for rollout_id in lost:
            self.ledger.drop(rollout_id, DropReason.LOST)
        if lost:
            logger.warning("%d rollouts died with the buffer before they were trained on: dropped as lost", len(lost))
        self._discard += [*trained, *lost]

    async def contents(self) -> Batch:
        """All rollouts that are buffered or taken, in the order of their use: part of a checkpoint."""
        buffered = await answer(self.buffer.items.remote(), ANSWER_S, "the buffer to list its rollouts")
        return [*(item for batch in (*self.taken, self._partial) for item in batch), *buffered]

    async def restore(
        self, epoch: str, items: Sequence[BufferItem], evicted: Sequence[str], batches: Sequence[Sequence[str]]
    ) -> None:
        """Enter what the buffer loaded from a checkpoint; `batches` had been taken from it already.

        There was no room for the rollouts `evicted`, since the buffer has become smaller.
        """
        self._epoch = epoch
        for rollout_id in evicted:
            self.ledger.drop(rollout_id, DropReason.EVICTED)
        for item in items:
            if item.meta.rollout_id in self.ledger.live:
                self.ledger.buffer(item.meta.rollout_id, item.meta, epoch)
            else:
                self._discard.append(item.meta.rollout_id)
        for names in batches:
            if batch := await self._take([name for name in names if name in self.ledger.buffered]):
                self.taken.append(batch)

    async def _fill(self, step: int, version: int) -> None:
        """Take a snapshot for the updates that have no batch yet, once it is there, and split it among them."""
        every, batch_size = self.settings.buffer.refresh_every, self.settings.learner.batch_size
        first = step + len(self.taken)
        num_batches = min(every - first % every, self.settings.run.num_steps - first)
        if not self.taken:  # whole rollouts may be larger than batches, which uses up the current snapshot early
            self.allow(self.ledger.num_trained + num_batches * batch_size)
        names = self._next(
            num_batches * batch_size - _num_samples(self._partial), version + first // every - step // every
        )
        if names:
            self._partial += await self._take(names)
        if num_batches and _num_samples(self._partial) >= num_batches * batch_size:
            sizes = [item.meta.num_samples for item in self._partial]
            self.taken.extend(split(self._partial, sizes, num_batches))
            self._partial = []

    def _next(self, num_samples: int, version: int) -> list[str]:
        """The rollouts that hold the next `num_samples`, whole ones; none if there are too few that are fresh enough.

        The oldest come first; in a deterministic run, in the order of issue.
        """
        at_least = num_samples
        if not self.ledger.num_trained and not self.taken:
            at_least = max(num_samples, self.settings.buffer.start_samples)
        self._drop_buffered_stale(version)
        if self.ledger.num_in(State.BUFFERED) < at_least:
            return []
        candidates = list(self.ledger.buffered.values())
        if self.settings.run.deterministic:
            live = sorted(self.ledger.live.values(), key=lambda rollout: rollout.position)
            candidates = [rollout for rollout in live if rollout.state <= State.BUFFERED]
        names: list[str] = []
        for rollout in candidates:
            if num_samples <= 0:
                break
            if rollout.state < State.BUFFERED:
                return []  # it is on its way, and its turn comes first
            names.append(rollout.rollout_id)
            num_samples -= rollout.num_samples
        return names if num_samples <= 0 else []

    async def _take(self, names: Sequence[str]) -> Batch:
        """Have the buffer lend these rollouts; those that it evicted meanwhile are dropped."""
        items = await self._lend(names)
        for item in items:
            self.ledger.take(item.meta.rollout_id)
        for name in set(names).difference(item.meta.rollout_id for item in items):
            self.ledger.drop(name, DropReason.EVICTED, State.BUFFERED)
        return items

    async def _lend(self, names: Sequence[str]) -> Batch:
        discard, self._discard = self._discard, []
        epoch, items = await answer(self.buffer.take.remote(names, discard), ANSWER_S, "the buffer to lend rollouts")
        self._note_epoch(epoch)
        self._discard += [item.meta.rollout_id for item in items if item.meta.rollout_id not in self.ledger.buffered]
        return [item for item in items if item.meta.rollout_id in self.ledger.buffered]

    def _note_epoch(self, epoch: str) -> None:
        """Notice whether the buffer restarted, and what it held is gone."""
        if self._epoch not in ("", epoch):
            if self.settings.run.deterministic:
                raise InterruptedRunError("the buffer died with rollouts that cannot be made again as they were")
            logger.warning("the buffer is gone: its process died, and a new one has taken its place, empty")
        self._epoch = epoch
        if lost := self.ledger.drop_other_epochs(epoch):
            logger.warning(
                "%d samples of %d rollouts died with the buffer (%s): dropped as lost, others are sampled instead",
                sum(rollout.num_samples for rollout in lost), len(lost), ids(lost),
            )  # fmt: skip

    def _drop_buffered_stale(self, version: int) -> None:
        bound = self.settings.buffer.max_off_policy_versions
        stale = [rollout for rollout in self.ledger.buffered.values() if version - rollout.version > bound]
        for rollout in stale:
            self.ledger.drop(rollout.rollout_id, DropReason.STALE)
        self._discard += [rollout.rollout_id for rollout in stale]

    def _drop_stale(self, step: int, version: int) -> None:
        """Drop what became too stale after it was taken, because weights were published out of turn."""
        every, bound = self.settings.buffer.refresh_every, self.settings.buffer.max_off_policy_versions
        for index, batch in enumerate((*self.taken, self._partial)):
            at_use = version + (step + index) // every - step // every
            stale = [item for item in batch if at_use - item.meta.version > bound]
            for item in stale:
                batch.remove(item)
                self.ledger.drop(item.meta.rollout_id, DropReason.STALE)
            self._discard += [item.meta.rollout_id for item in stale]
        self.taken = deque(batch for batch in self.taken if batch)

    def _starved(self, step: int, version: int) -> StallError:
        learner = self.settings.learner
        return StallError(
            f"update {step + 1} timed out after {learner.fetch_timeout_s:g} s (learner.fetch_timeout_s) waiting for "
            f"{learner.batch_size} samples at most {self.settings.buffer.max_off_policy_versions} versions older than "
            f"weights {version}"
        )


def split(rollouts: Sequence[T], num_samples: Sequence[int], num_batches: int) -> list[list[T]]:
    """Split whole rollouts of `num_samples` each into batches of about the same size, leaving out empty ones."""
    total, before = sum(num_samples), 0
    batches: list[list[T]] = [[] for _ in range(num_batches)]
    for rollout, size in zip(rollouts, num_samples, strict=True):
        batches[before * num_batches // total].append(rollout)
        before += size
    return [batch for batch in batches if batch]


def _num_samples(items: Batch) -> int:
    return sum(item.meta.num_samples for item in items)

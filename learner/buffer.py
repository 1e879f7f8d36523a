"""The online buffer: a bounded first-in-first-out queue of references to graded rollouts.

    offered -> BUFFERED -> TAKEN -> trained
        \\________\\__________\\____-> dropped, with its reason

Invariants: a rollout stays whole; no rollout is handed out twice unless `restore` took it back after its learner died;
nothing staler than `max_staleness` is handed out; every rollout offered is buffered, taken, trained or dropped, and
`BufferStats` balances exactly. The buffer holds references and metadata alone, so eviction fetches nothing.

`OnlineBuffer` is the queue itself and knows no Ray; `BufferActor` is a thin actor around it. The actor puts rollouts
into the object store itself: an object dies with the process that put it (Ray 2.56 removed `ray.put(_owner=...)`), and
this one outlives the producers. The price is one copy within shared memory.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

import ray

from learner.experience import Experience
from sandbox.verdict import Outcome
from settings import BufferSettings

# Ids of finished rollouts that are remembered, to recognise one that arrives again: 100,000 ids are about 10 MB.
NUM_REMEMBERED_IDS = 100_000

RefT = TypeVar("RefT")


class DropReason(StrEnum):
    """Why a rollout was not trained on."""

    EVICTED = "evicted"
    """Pushed out by newer ones: the learner is slower than the generators."""
    STALE = "stale"
    """More than `max_staleness` weight versions behind at the moment of use."""
    DUPLICATE = "duplicate"
    """A rollout of this id is here already, or was before: its producer was restarted."""
    LOST = "lost"
    """Its object is gone from the store."""


class BufferStarvedError(TimeoutError):
    """Not enough fresh samples arrived before the deadline."""


@dataclass(frozen=True, slots=True)
class SampleMeta:
    """What the buffer knows of one rollout without fetching it.

    `version` is the oldest weights version that sampled any of its tokens; `size_bytes` that of its arrays.
    """

    rollout_id: str
    task_id: str
    num_samples: int
    num_tokens: int
    version: int
    size_bytes: int
    outcomes: tuple[tuple[Outcome, int], ...]
    reward_sum: float

    @classmethod
    def of(cls, rollout_id: str, experiences: Sequence[Experience]) -> SampleMeta:
        """Summarise the graded samples of one rollout. Raises ValueError where there are none."""
        if not experiences:
            raise ValueError(f"rollout {rollout_id}: no graded sample in it, so there is nothing to buffer")
        arrays = [(e.prompt_ids, e.token_ids, e.logprobs, e.token_weights) for e in experiences]
        return cls(
            rollout_id=rollout_id,
            task_id=experiences[0].task_id,
            num_samples=len(experiences),
            num_tokens=sum(len(e.token_ids) for e in experiences),
            version=min(e.version for e in experiences),
            size_bytes=sum(array.nbytes for group in arrays for array in group),
            outcomes=tuple(sorted(Counter(e.outcome for e in experiences).items())),
            reward_sum=sum(e.reward for e in experiences),
        )


@dataclass(frozen=True, slots=True)
class BufferItem(Generic[RefT]):
    """A reference to the `list[Experience]` of one rollout, and what is known of it."""

    ref: RefT
    meta: SampleMeta


@dataclass(frozen=True, slots=True)
class BufferStats:
    """Counts in samples. `num_offered == num_buffered + num_taken + num_trained + sum(dropped.values())`, always."""

    num_offered: int
    num_buffered: int
    num_taken: int
    num_trained: int
    dropped: dict[DropReason, int]
    num_rollouts: int
    num_tokens: int
    size_bytes: int


class OnlineBuffer(Generic[RefT]):
    """The queue. Not thread-safe: one owner calls it.

    Usage:
        buffer.add(item)                          # oldest ones give way when it is full
        items = buffer.take(256, version=7)       # None until 256 fresh samples are there
        buffer.finish(ids)                        # or drop(ids, reason), or restore() after the learner died
    """

    def __init__(self, settings: BufferSettings) -> None:
        self._settings = settings
        self._buffered: OrderedDict[str, BufferItem[RefT]] = OrderedDict()
        self._taken: OrderedDict[str, BufferItem[RefT]] = OrderedDict()
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._num_buffered = 0
        self._size_bytes = 0
        self._num_offered = 0
        self._num_trained = 0
        self._dropped: Counter[DropReason] = Counter()
        self._started = False

    def add(self, item: BufferItem[RefT]) -> None:
        """Append a rollout; the oldest buffered ones are evicted where samples or bytes would pass their bounds.

        Raises ValueError for a rollout that could never fit.
        """
        meta = item.meta
        if meta.num_samples > self._settings.capacity or meta.size_bytes > self._settings.max_bytes:
            raise ValueError(
                f"rollout {meta.rollout_id} ({meta.num_samples} samples, {meta.size_bytes} bytes) is larger than the "
                f"buffer: raise buffer.capacity ({self._settings.capacity}) or buffer.max_bytes "
                f"({self._settings.max_bytes})"
            )
        self._num_offered += meta.num_samples
        if meta.rollout_id in self._buffered or meta.rollout_id in self._taken or meta.rollout_id in self._finished:
            self._dropped[DropReason.DUPLICATE] += meta.num_samples
            return
        while (
            self._num_buffered + meta.num_samples > self._settings.capacity
            or self._size_bytes + meta.size_bytes > self._settings.max_bytes
        ):
            self._discard(next(iter(self._buffered)), DropReason.EVICTED)
        self._insert(item)

    def take(self, num_samples: int, version: int) -> list[BufferItem[RefT]] | None:
        """Hand out the oldest whole rollouts that hold `num_samples` samples or more together.

        `version` is the learner's: rollouts more than `max_staleness` versions behind are dropped first. None where too
        few are left, or where the first snapshot still waits for `start_samples`. Raises ValueError for more samples
        than the buffer can ever hold.
        """
        if num_samples > self._settings.capacity:
            raise ValueError(
                f"a snapshot of {num_samples} samples can never be taken: buffer.capacity is {self._settings.capacity}"
            )
        for rollout_id in [
            rollout_id
            for rollout_id, item in self._buffered.items()
            if version - item.meta.version > self._settings.max_staleness
        ]:
            self._discard(rollout_id, DropReason.STALE)
        wanted = num_samples if self._started else max(num_samples, self._settings.start_samples)
        if self._num_buffered < wanted:
            return None
        self._started = True
        items: list[BufferItem[RefT]] = []
        missing = num_samples
        while missing > 0:
            rollout_id, item = self._buffered.popitem(last=False)
            self._uncount(item)
            self._taken[rollout_id] = item
            items.append(item)
            missing -= item.meta.num_samples
        return items

    def finish(self, rollout_ids: Iterable[str]) -> None:
        """Note that taken rollouts were trained on. Raises KeyError for one that is not taken."""
        for rollout_id in rollout_ids:
            self._num_trained += self._taken.pop(rollout_id).meta.num_samples
            self._remember(rollout_id)

    def drop(self, rollout_ids: Iterable[str], reason: DropReason) -> None:
        """Note that taken rollouts will not be trained on. Raises KeyError for one that is not taken."""
        for rollout_id in rollout_ids:
            self._dropped[reason] += self._taken.pop(rollout_id).meta.num_samples
            self._remember(rollout_id)

    def restore(self) -> int:
        """Put taken rollouts back at the front, in their old order: the learner that took them is gone.

        Returns the number of samples put back or, where newer ones have filled their place, evicted.
        """
        items = list(self._taken.values())
        self._taken.clear()
        newer, self._buffered = self._buffered, OrderedDict()
        self._num_buffered = self._size_bytes = 0
        for item in (*items, *newer.values()):
            self._insert(item)
        while self._num_buffered > self._settings.capacity or self._size_bytes > self._settings.max_bytes:
            self._discard(next(iter(self._buffered)), DropReason.EVICTED)
        return sum(item.meta.num_samples for item in items)

    def stats(self) -> BufferStats:
        """Where every sample offered so far is."""
        return BufferStats(
            num_offered=self._num_offered,
            num_buffered=self._num_buffered,
            num_taken=sum(item.meta.num_samples for item in self._taken.values()),
            num_trained=self._num_trained,
            dropped=dict(self._dropped),
            num_rollouts=len(self._buffered),
            num_tokens=sum(item.meta.num_tokens for item in self._buffered.values()),
            size_bytes=self._size_bytes,
        )

    def _insert(self, item: BufferItem[RefT]) -> None:
        self._buffered[item.meta.rollout_id] = item
        self._num_buffered += item.meta.num_samples
        self._size_bytes += item.meta.size_bytes

    def _uncount(self, item: BufferItem[RefT]) -> None:
        self._num_buffered -= item.meta.num_samples
        self._size_bytes -= item.meta.size_bytes

    def _discard(self, rollout_id: str, reason: DropReason) -> None:
        item = self._buffered.pop(rollout_id)
        self._uncount(item)
        self._dropped[reason] += item.meta.num_samples
        self._remember(rollout_id)

    def _remember(self, rollout_id: str) -> None:
        self._finished[rollout_id] = None
        if len(self._finished) > NUM_REMEMBERED_IDS:
            self._finished.popitem(last=False)


RolloutRef = ray.ObjectRef[list[Experience]]


class BufferServer:
    """`OnlineBuffer` for callers that wait, and the owner of the objects whose references it holds.

    `add` is called by whoever graded a rollout, `snapshot`, `finish` and `drop` by the learner.
    """

    def __init__(self, settings: BufferSettings) -> None:
        self._buffer: OnlineBuffer[RolloutRef] = OnlineBuffer(settings)
        self._changed = asyncio.Condition()
        self._num_restores = 0

    def __repr__(self) -> str:
        """What Ray puts before each line of this actor's log, and before its methods in the dashboard."""
        return "buffer"

    async def add(self, rollouts: Sequence[tuple[str, list[Experience]]]) -> BufferStats:
        """Append rollouts (id, graded samples) in order; their data goes into the object store."""
        async with self._changed:
            for rollout_id, experiences in rollouts:
                self._buffer.add(BufferItem(ray.put(experiences), SampleMeta.of(rollout_id, experiences)))
            self._changed.notify_all()
            return self._buffer.stats()

    async def snapshot(self, num_samples: int, version: int, timeout_s: float) -> list[BufferItem[RolloutRef]]:
        """Hand out rollouts as `OnlineBuffer.take` does, waiting for them.

        Raises BufferStarvedError when `timeout_s` pass without enough of them.
        """
        items: list[BufferItem[RolloutRef]] | None = None
        num_restores = self._num_restores

        def taken() -> bool:
            nonlocal items
            if self._num_restores != num_restores:
                raise BufferStarvedError("another learner has taken over; this one's snapshot is void")
            items = self._buffer.take(num_samples, version)
            return items is not None

        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(taken), timeout_s)
            except BufferStarvedError:
                raise
            except TimeoutError:
                stats = self._buffer.stats()
                dropped = ", ".join(f"{count} {reason}" for reason, count in stats.dropped.items())
                raise BufferStarvedError(
                    f"the learner waited {timeout_s:g} s for {num_samples} samples at most as stale as weights version "
                    f"{version} allows; {stats.num_buffered} are buffered, {stats.num_taken} taken, "
                    f"dropped so far: {dropped or 'none'}"
                ) from None
        assert items is not None  # `taken` said so
        return items

    async def finish(self, rollout_ids: Sequence[str]) -> BufferStats:
        """See `OnlineBuffer.finish`."""
        self._buffer.finish(rollout_ids)
        return self._buffer.stats()

    async def drop(self, rollout_ids: Sequence[str], reason: DropReason) -> None:
        """See `OnlineBuffer.drop`."""
        self._buffer.drop(rollout_ids, reason)

    async def restore(self) -> int:
        """See `OnlineBuffer.restore`."""
        async with self._changed:
            num_samples = self._buffer.restore()
            self._num_restores += 1
            self._changed.notify_all()
            return num_samples

    async def stats(self) -> BufferStats:
        """See `OnlineBuffer.stats`."""
        return self._buffer.stats()


BufferActor = ray.remote(num_cpus=0)(BufferServer)
"""`BufferServer` as a Ray actor."""

"""The online buffer: a first-in-first-out queue of references to graded rollouts, bounded in samples and bytes.

    add -> queued -> take -> lent -> discard
              \\______________________/  evicted when the queue is full

The buffer knows which rollouts it holds, and nothing else: the controller's ledger decides which are taken, which are
too stale, and what became of each. Every call may arrive twice, and gives the same answer then.

`OnlineBuffer` is the queue itself, which knows no Ray; `BufferServer` is the actor around it.
"""

from __future__ import annotations

import gc
import os
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray

from learner.data import Experience, Experiences, load_rollouts
from settings import BufferSettings

# Ids of discarded rollouts to remember, so that one that arrives again is not queued: 100,000 ids are about 10 MB.
NUM_REMEMBERED_IDS = 100_000

RefT = TypeVar("RefT")
RolloutRef = ray.ObjectRef[Experiences]


@dataclass(frozen=True, slots=True)
class RolloutMeta:
    """What is known of a graded rollout without fetching it.

    `version` is the oldest weights version that sampled any of its tokens. `size_bytes` is the size of its arrays; one
    that the samples share, like their prompt, counts once.
    """

    rollout_id: str
    num_samples: int
    version: int
    size_bytes: int

    @classmethod
    def of(cls, rollout_id: str, experiences: Sequence[Experience]) -> RolloutMeta:
        """Summarize the graded samples of one rollout. Raises ValueError if there are none."""
        if not experiences:
            raise ValueError(f"rollout {rollout_id} has no graded sample, so there is nothing to buffer")
        arrays = {
            id(array): array for e in experiences for array in (e.prompt_ids, e.token_ids, e.logprobs, e.token_weights)
        }
        return cls(
            rollout_id=rollout_id,
            num_samples=len(experiences),
            version=min(e.version for e in experiences),
            size_bytes=sum(array.nbytes for array in arrays.values()),
        )


@dataclass(frozen=True, slots=True)
class BufferItem(Generic[RefT]):
    """A reference to the `Experiences` of one rollout, and what is known of it."""

    ref: RefT
    meta: RolloutMeta


@dataclass(frozen=True, slots=True)
class BufferStats:
    """What is queued now, and how many samples are lent."""

    num_rollouts: int
    num_samples: int
    size_bytes: int
    num_lent: int


@dataclass(frozen=True, slots=True)
class Added:
    """The buffer's answer to `add`: it holds `meta`, and gave up the rollouts `evicted` for it.

    `meta` is None if the rollout was discarded before. `epoch` changes whenever the buffer restarts, empty.
    """

    epoch: str
    meta: RolloutMeta | None
    evicted: tuple[str, ...] = ()


class OnlineBuffer(Generic[RefT]):
    """The queue. Not thread-safe.

    Usage:
        evicted = buffer.add(item)      # the oldest rollouts make room if the queue is full
        items = buffer.take(ids)        # those that it still holds
        buffer.discard(ids)             # trained on, or never to be
    """

    def __init__(self, settings: BufferSettings) -> None:
        self._settings = settings
        self._queued: OrderedDict[str, BufferItem[RefT]] = OrderedDict()
        self._lent: dict[str, BufferItem[RefT]] = {}
        self._discarded: OrderedDict[str, None] = OrderedDict()
        self._num_samples = 0
        self._size_bytes = 0

    def holds(self, rollout_id: str) -> RolloutMeta | None:
        """What is known of a rollout that is queued or lent; None if it is neither."""
        item = self._queued.get(rollout_id) or self._lent.get(rollout_id)
        return None if item is None else item.meta

    def was_discarded(self, rollout_id: str) -> bool:
        """Whether a rollout was discarded or evicted lately."""
        return rollout_id in self._discarded

    def add(self, item: BufferItem[RefT]) -> tuple[str, ...]:
        """Queue a rollout that is new here; returns the ids of those that were evicted to make room.

        Raises ValueError for a rollout that can never fit.
        """
        meta, settings = item.meta, self._settings
        if meta.num_samples > settings.capacity or meta.size_bytes > settings.max_bytes:
            raise ValueError(
                f"rollout {meta.rollout_id} ({meta.num_samples} samples, {meta.size_bytes} bytes) does not fit "
                f"into the buffer: raise buffer.capacity ({settings.capacity}) or buffer.max_bytes "
                f"({settings.max_bytes})"
            )
        evicted = []
        while (
            self._num_samples + meta.num_samples > settings.capacity
            or self._size_bytes + meta.size_bytes > settings.max_bytes
        ):
            evicted.append(next(iter(self._queued)))
            self.discard(evicted[-1:])
        self._queued[meta.rollout_id] = item
        self._count(meta, 1)
        return tuple(evicted)

    def take(self, rollout_ids: Iterable[str]) -> list[BufferItem[RefT]]:
        """Lend these rollouts, in this order, except those that are not here."""
        items = []
        for rollout_id in rollout_ids:
            if (item := self._queued.pop(rollout_id, None)) is not None:
                self._count(item.meta, -1)
                self._lent[rollout_id] = item
            if rollout_id in self._lent:
                items.append(self._lent[rollout_id])
        return items

    def discard(self, rollout_ids: Iterable[str]) -> None:
        """Let go of these rollouts; they will not be accepted again."""
        for rollout_id in rollout_ids:
            if (item := self._queued.pop(rollout_id, None)) is not None:
                self._count(item.meta, -1)
            self._lent.pop(rollout_id, None)
            self._discarded[rollout_id] = None
            if len(self._discarded) > NUM_REMEMBERED_IDS:
                self._discarded.popitem(last=False)

    def items(self) -> list[BufferItem[RefT]]:
        """The queued rollouts, oldest first."""
        return list(self._queued.values())

    def stats(self) -> BufferStats:
        """What is queued now, and how many samples are lent."""
        num_lent = sum(item.meta.num_samples for item in self._lent.values())
        return BufferStats(len(self._queued), self._num_samples, self._size_bytes, num_lent)

    def _count(self, meta: RolloutMeta, sign: int) -> None:
        self._num_samples += sign * meta.num_samples
        self._size_bytes += sign * meta.size_bytes


class BufferServer:
    """The buffer as a Ray actor, which owns the objects that its references point to.

    It puts rollouts into the object store itself: an object dies with the process that put it (Ray 2.56 removed
    `ray.put(_owner=...)`), and this one outlives the producers. The price is one copy within shared memory.

    If it dies, Ray restarts it under the same handle and repeats the calls in flight. Its rollouts are gone, and a new
    `epoch` tells the controller so. `put` makes references.
    """

    def __init__(self, settings: BufferSettings, put: Callable[[Experiences], Any] = ray.put) -> None:
        self.epoch = uuid.uuid4().hex
        self._buffer: OnlineBuffer[RolloutRef] = OnlineBuffer(settings)
        self._put = put
        gc.freeze()  # modules, which the collector need not look through while rollouts come and go

    def __repr__(self) -> str:
        """What Ray puts before each line of this actor's log, and before its methods in the dashboard."""
        return "buffer"

    async def add(self, rollout_id: str, experiences: Experiences) -> Added:
        """Queue the graded samples of a rollout, unless it is here already or was discarded."""
        meta = self._buffer.holds(rollout_id)
        if meta is not None or self._buffer.was_discarded(rollout_id):
            return Added(self.epoch, meta)
        meta = RolloutMeta.of(rollout_id, experiences)
        return Added(self.epoch, meta, self._buffer.add(BufferItem(self._put(experiences), meta)))

    async def take(
        self, rollout_ids: Sequence[str], discard: Sequence[str]
    ) -> tuple[str, list[BufferItem[RolloutRef]]]:
        """Let go of the rollouts `discard`, and lend the others; returns the epoch, and those that are still here."""
        self._buffer.discard(discard)
        return self.epoch, self._buffer.take(rollout_ids)

    async def items(self) -> list[BufferItem[RolloutRef]]:
        """The queued rollouts, oldest first: part of a checkpoint."""
        return self._buffer.items()

    async def load(self, path: Path) -> tuple[str, list[BufferItem[RolloutRef]]]:
        """Queue the rollouts of a checkpoint; returns the epoch, and them."""
        for rollout_id, experiences in load_rollouts(path):
            await self.add(rollout_id, experiences)
        return self.epoch, self._buffer.items()

    async def pid(self) -> int:
        """The process id of this epoch."""
        return os.getpid()

    async def stats(self) -> BufferStats:
        """See `OnlineBuffer.stats`."""
        return self._buffer.stats()


BufferActor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(BufferServer)
"""`BufferServer` as a Ray actor."""

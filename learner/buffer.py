"""The online buffer: a first-in-first-out queue of references to graded rollouts, bounded in samples and bytes.

    add -> queued -> take -> lent -> discard
              \\______________________/  evicted when the queue is full

The buffer knows which rollouts it holds, and nothing else: the controller's ledger decides which are taken, which are
too stale, and what became of each. Every call may arrive twice, and gives the same answer then.
"""

from __future__ import annotations

import gc
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorProxy

from rltf.errors import UserError
from rltf.learner.data import Experience, Experiences, load_rollouts
from rltf.settings import BufferSettings

# Ids of discarded rollouts to remember, so that one that arrives again is not queued: 100,000 ids are about 10 MB.
NUM_REMEMBERED_IDS = 100_000

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
class BufferItem:
    """A reference to the `Experiences` of one rollout, and what is known of it."""

    ref: RolloutRef
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


class BufferServer:
    """The buffer, which runs as a Ray actor and owns the objects that its references point to.

    It puts rollouts into the object store itself: an object dies with the process that put it (Ray 2.56 removed
    `ray.put(_owner=...)`), and this one outlives the producers. The price is one copy within shared memory.

    If it dies, Ray restarts it under the same handle and repeats the calls in flight. Its rollouts are gone, and a new
    `epoch` tells the controller so. `put` makes references.
    """

    def __init__(self, settings: BufferSettings, put: Callable[[Experiences], Any] = ray.put) -> None:
        self.epoch = uuid.uuid4().hex
        self._settings = settings
        self._put = put
        self._queued: OrderedDict[str, BufferItem] = OrderedDict()
        self._lent: dict[str, BufferItem] = {}
        self._discarded: OrderedDict[str, None] = OrderedDict()
        self._num_samples = self._size_bytes = 0
        gc.freeze()  # modules, which the collector need not look through while rollouts come and go

    def __repr__(self) -> str:
        """What Ray puts before each line of this actor's log, and before its methods in the dashboard."""
        return "buffer"

    @ray.method
    def add(self, rollout_id: str, experiences: Experiences) -> Added:
        """Queue the graded samples of a rollout, unless it is here already or was discarded.

        The oldest rollouts make room if the queue is full. Raises UserError for a rollout that can never fit.
        """
        held = self._queued.get(rollout_id) or self._lent.get(rollout_id)
        if held is not None or rollout_id in self._discarded:
            return Added(self.epoch, None if held is None else held.meta)
        meta, settings = RolloutMeta.of(rollout_id, experiences), self._settings
        if meta.num_samples > settings.capacity or meta.size_bytes > settings.max_bytes:
            raise UserError(
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
            self._let_go(evicted[-1])
        self._queued[rollout_id] = BufferItem(self._put(experiences), meta)
        self._count(meta, 1)
        return Added(self.epoch, meta, tuple(evicted))

    @ray.method
    def take(self, rollout_ids: Sequence[str], discard: Sequence[str]) -> tuple[str, list[BufferItem]]:
        """Let go of the rollouts `discard`, and lend the others in this order.

        Returns the epoch, and those of the others that are still here.
        """
        for rollout_id in discard:
            self._let_go(rollout_id)
        items = []
        for rollout_id in rollout_ids:
            if (item := self._queued.pop(rollout_id, None)) is not None:
                self._count(item.meta, -1)
                self._lent[rollout_id] = item
            if rollout_id in self._lent:
                items.append(self._lent[rollout_id])
        return self.epoch, items

    @ray.method
    def items(self) -> list[BufferItem]:
        """The queued rollouts, oldest first: part of a checkpoint."""
        return list(self._queued.values())

    @ray.method
    def load(self, path: Path) -> tuple[str, list[BufferItem], list[str]]:
        """Queue the rollouts of a checkpoint; returns the epoch, them, and the ids of those that do not fit in."""
        add: Any = self.add  # which Ray's types only know as a remote method
        rollouts = load_rollouts(path)
        for rollout_id, experiences in rollouts:
            add(rollout_id, experiences)
        evicted = [rollout_id for rollout_id, _ in rollouts if rollout_id not in self._queued]
        return self.epoch, list(self._queued.values()), evicted

    @ray.method
    def stats(self) -> BufferStats:
        """What is queued now, and how many samples are lent."""
        num_lent = sum(item.meta.num_samples for item in self._lent.values())
        return BufferStats(len(self._queued), self._num_samples, self._size_bytes, num_lent)

    def _let_go(self, rollout_id: str) -> None:
        """Forget a rollout, which will not be accepted again."""
        if (item := self._queued.pop(rollout_id, None)) is not None:
            self._count(item.meta, -1)
        self._lent.pop(rollout_id, None)
        self._discarded[rollout_id] = None
        if len(self._discarded) > NUM_REMEMBERED_IDS:
            self._discarded.popitem(last=False)

    def _count(self, meta: RolloutMeta, sign: int) -> None:
        self._num_samples += sign * meta.num_samples
        self._size_bytes += sign * meta.size_bytes


def start_buffer(settings: BufferSettings, **options: Any) -> ActorProxy[BufferServer]:
    """Start the actor with these Ray options."""
    actor = ray.remote(BufferServer).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, **options)
    return actor.remote(settings)

"""The online buffer: a bounded first-in-first-out queue of references to graded rollouts.

    offered -> BUFFERED -> TAKEN -> trained
        \\________\\__________\\____-> dropped, with its reason

Invariants: a rollout stays whole and is handed out once; nothing staler than `max_off_policy_versions` is handed out;
every rollout offered is buffered, taken, trained or dropped, and `BufferStats` balances exactly. What is said twice of
a rollout counts once. The buffer holds references and metadata alone, so eviction fetches nothing.

This is the queue itself, which knows no Ray; `learner.buffer_actor` is the actor around it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

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
    """More than `max_off_policy_versions` weight versions behind at the moment of use."""
    DUPLICATE = "duplicate"
    """A rollout of this id is here already, or was before: its producer was restarted."""
    LOST = "lost"
    """Its object died with the process that held it."""
    UNGRADED = "ungraded"
    """The sandbox failed on it: the grader's fault, which says nothing of the program."""
    REWOUND = "rewound"
    """It was trained on by updates that died with the learner that made them."""


@dataclass(frozen=True, slots=True)
class Drop:
    """A rollout that the buffer dropped, with the samples that it had."""

    rollout_id: str
    reason: DropReason
    num_samples: int


@dataclass(frozen=True, slots=True)
class SampleMeta:
    """What the buffer knows of one rollout without fetching it.

    `version` is the oldest weights version that sampled any of its tokens; `size_bytes` is of its arrays, of one that
    samples share, as their prompt, once.
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
        arrays = {
            id(array): array for e in experiences for array in (e.prompt_ids, e.token_ids, e.logprobs, e.token_weights)
        }
        return cls(
            rollout_id=rollout_id,
            task_id=experiences[0].task_id,
            num_samples=len(experiences),
            num_tokens=sum(len(e.token_ids) for e in experiences),
            version=min(e.version for e in experiences),
            size_bytes=sum(array.nbytes for array in arrays.values()),
            outcomes=tuple(sorted(Counter(e.outcome for e in experiences).items())),
            reward_sum=sum(e.reward for e in experiences),
        )


@dataclass(frozen=True, slots=True)
class BufferItem(Generic[RefT]):
    """A reference to the `Experiences` of one rollout, and what is known of it."""

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
        buffer.finish(ids)                        # or drop(ids, reason)
        drops = buffer.drops_after(cursor)        # what it dropped of its own accord, duplicates apart
    """

    def __init__(self, settings: BufferSettings) -> None:
        self._settings = settings
        self._buffered: OrderedDict[str, BufferItem[RefT]] = OrderedDict()
        self._taken: dict[str, BufferItem[RefT]] = {}
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._journal: deque[Drop] = deque()
        self._num_forgotten = 0
        self._num_buffered = 0
        self._size_bytes = 0
        self._num_offered = 0
        self._num_trained = 0
        self._dropped: Counter[DropReason] = Counter()

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

    def take(self, num_samples: int, version: int, at_least: int = 0) -> list[BufferItem[RefT]] | None:
        """Hand out the oldest whole rollouts that hold `num_samples` samples or more together.

        `version` is the learner's: rollouts more than `max_off_policy_versions` behind are dropped first. None if
        fewer than `num_samples` or `at_least` are left. Raises ValueError for more than the buffer can ever hold.
        """
        if max(num_samples, at_least) > self._settings.capacity:
            raise ValueError(
                f"a snapshot of {max(num_samples, at_least)} samples can never be taken: buffer.capacity is "
                f"{self._settings.capacity}"
            )
        for rollout_id in [
            rollout_id
            for rollout_id, item in self._buffered.items()
            if version - item.meta.version > self._settings.max_off_policy_versions
        ]:
            self._discard(rollout_id, DropReason.STALE)
        if self._num_buffered < max(num_samples, at_least):
            return None
        items: list[BufferItem[RefT]] = []
        missing = num_samples
        while missing > 0:
            items.append(self._hand_out(next(iter(self._buffered))))
            missing -= items[-1].meta.num_samples
        return items

    def take_named(self, rollout_ids: Sequence[str]) -> list[BufferItem[RefT]] | None:
        """Hand out these rollouts, in this order; None, and nothing, where one is not here."""
        if any(rollout_id not in self._buffered for rollout_id in rollout_ids):
            return None
        return [self._hand_out(rollout_id) for rollout_id in rollout_ids]

    def finish(self, rollout_ids: Iterable[str]) -> None:
        """Note that taken rollouts were trained on; those that are not taken are passed over."""
        for rollout_id in rollout_ids:
            if rollout_id in self._taken:
                self._num_trained += self._taken.pop(rollout_id).meta.num_samples
                self._remember(rollout_id)

    def drop(self, rollout_ids: Iterable[str], reason: DropReason) -> None:
        """Note that taken rollouts will not be trained on; those that are not taken are passed over."""
        for rollout_id in rollout_ids:
            if rollout_id in self._taken:
                self._dropped[reason] += self._taken.pop(rollout_id).meta.num_samples
                self._remember(rollout_id)

    @property
    def num_drops(self) -> int:
        """How many entries the journal has had."""
        return self._num_forgotten + len(self._journal)

    def drops_after(self, cursor: int) -> list[Drop]:
        """What was evicted or became stale, from entry number `cursor` on; the entries before are forgotten."""
        while self._num_forgotten < cursor and self._journal:
            self._journal.popleft()
            self._num_forgotten += 1
        return list(self._journal)

    def items(self) -> list[BufferItem[RefT]]:
        """The buffered rollouts, oldest first."""
        return list(self._buffered.values())

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

    def _remove(self, rollout_id: str) -> BufferItem[RefT]:
        item = self._buffered.pop(rollout_id)
        self._num_buffered -= item.meta.num_samples
        self._size_bytes -= item.meta.size_bytes
        return item

    def _hand_out(self, rollout_id: str) -> BufferItem[RefT]:
        item = self._taken[rollout_id] = self._remove(rollout_id)
        return item

    def _discard(self, rollout_id: str, reason: DropReason) -> None:
        item = self._remove(rollout_id)
        self._dropped[reason] += item.meta.num_samples
        self._journal.append(Drop(rollout_id, reason, item.meta.num_samples))
        self._remember(rollout_id)

    def _remember(self, rollout_id: str) -> None:
        self._finished[rollout_id] = None
        if len(self._finished) > NUM_REMEMBERED_IDS:
            self._finished.popitem(last=False)

"""The online buffer as a state machine: whatever happens, every sample is somewhere, once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from learner.buffer import BufferItem, DropReason, OnlineBuffer, SampleMeta
from sandbox.verdict import Outcome
from settings import BufferSettings
from tests.learner.samples import make_rollout


def make_item(rollout_id: str, *, num_samples: int = 4, version: int = 0, size_bytes: int = 100) -> BufferItem[str]:
    meta = SampleMeta(
        rollout_id=rollout_id,
        task_id="task",
        num_samples=num_samples,
        num_tokens=10 * num_samples,
        version=version,
        size_bytes=size_bytes,
        outcomes=((Outcome.FAILED, num_samples),),
        reward_sum=0.0,
    )
    return BufferItem(ref=f"ref of {rollout_id}", meta=meta)


def make_buffer(**fields: int) -> OnlineBuffer[str]:
    return OnlineBuffer(BufferSettings(**{"capacity": 20, "max_bytes": 1000, "max_off_policy_versions": 1, **fields}))


class BufferMachine(RuleBasedStateMachine):
    """Compares the buffer with a plain model of it: lists in the order of arrival."""

    @initialize(max_off_policy_versions=st.integers(0, 2))
    def start(self, max_off_policy_versions: int) -> None:
        self.max_off_policy_versions = max_off_policy_versions
        self.buffer = make_buffer(max_off_policy_versions=max_off_policy_versions)
        self.version = 0
        self.num_ids = 0
        self.num_offered = 0
        self.cursor = 0
        self.told: Counter[DropReason] = Counter()
        self.waiting: list[BufferItem[str]] = []
        self.taken: list[BufferItem[str]] = []
        self.handed_out: list[str] = []

    @rule(num_samples=st.integers(1, 8), size_bytes=st.integers(1, 400), age=st.integers(0, 3))
    def add(self, num_samples: int, size_bytes: int, age: int) -> None:
        item = make_item(
            f"r{self.num_ids}", num_samples=num_samples, version=max(0, self.version - age), size_bytes=size_bytes
        )
        self.num_ids += 1
        self.num_offered += num_samples
        self.buffer.add(item)
        self.waiting.append(item)
        while sum(i.meta.num_samples for i in self.waiting) > 20 or sum(i.meta.size_bytes for i in self.waiting) > 1000:
            self.waiting.pop(0)

    @precondition(lambda self: self.num_ids > 0)
    @rule(data=st.data())
    def add_again(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, self.num_ids - 1))
        before = self.buffer.stats()
        self.buffer.add(make_item(f"r{index}", num_samples=3))
        self.num_offered += 3
        after = self.buffer.stats()
        assert after.num_buffered == before.num_buffered
        assert after.dropped[DropReason.DUPLICATE] == before.dropped.get(DropReason.DUPLICATE, 0) + 3

    @rule()
    def publish(self) -> None:
        self.version += 1

    @rule(num_samples=st.integers(1, 20))
    def take(self, num_samples: int) -> None:
        items = self.buffer.take(num_samples, self.version)
        self.waiting = [i for i in self.waiting if self.version - i.meta.version <= self.max_off_policy_versions]
        if sum(i.meta.num_samples for i in self.waiting) < num_samples:
            assert items is None
            return
        assert items is not None
        assert items == self.waiting[: len(items)]  # oldest first, whole rollouts
        counts = [i.meta.num_samples for i in items]
        assert sum(counts) >= num_samples > sum(counts[:-1])
        assert all(self.version - i.meta.version <= self.max_off_policy_versions for i in items)
        self.waiting = self.waiting[len(items) :]
        self.taken += items
        self.handed_out += [i.meta.rollout_id for i in items]

    @precondition(lambda self: self.taken)
    @rule()
    def finish_oldest(self) -> None:
        self.buffer.finish([self.taken.pop(0).meta.rollout_id])

    @precondition(lambda self: self.taken)
    @rule()
    def lose_oldest(self) -> None:
        self.buffer.drop([self.taken.pop(0).meta.rollout_id], DropReason.LOST)

    @rule()
    def finish_what_is_not_taken(self) -> None:
        before = self.buffer.stats()
        self.buffer.finish(["never seen", *(item.meta.rollout_id for item in self.waiting)])
        assert self.buffer.stats() == before

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def take_named(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.waiting))
        assert self.buffer.take_named([item.meta.rollout_id, "never seen"]) is None
        assert self.buffer.take_named([item.meta.rollout_id]) == [item]
        self.waiting.remove(item)
        self.taken.append(item)
        self.handed_out.append(item.meta.rollout_id)

    @rule()
    def read_the_journal(self) -> None:
        drops = self.buffer.drops_after(self.cursor)
        self.cursor = self.buffer.num_drops
        for drop in drops:
            self.told[drop.reason] += drop.num_samples
        dropped = self.buffer.stats().dropped
        for reason in (DropReason.EVICTED, DropReason.STALE):
            assert self.told[reason] == dropped.get(reason, 0)

    @invariant()
    def every_sample_is_somewhere_once(self) -> None:
        stats = self.buffer.stats()
        where = stats.num_buffered + stats.num_taken + stats.num_trained + sum(stats.dropped.values())
        assert stats.num_offered == self.num_offered == where
        assert stats.num_buffered == sum(i.meta.num_samples for i in self.waiting) <= 20
        assert stats.size_bytes == sum(i.meta.size_bytes for i in self.waiting) <= 1000
        assert stats.num_taken == sum(i.meta.num_samples for i in self.taken)
        assert len(self.handed_out) == len(set(self.handed_out))


TestBufferMachine = BufferMachine.TestCase
TestBufferMachine.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_first_snapshot_waits_for_the_start_fill() -> None:
    buffer = make_buffer()
    for index in range(2):
        buffer.add(make_item(f"r{index}"))
    assert buffer.take(4, version=0, at_least=12) is None
    buffer.add(make_item("r2"))
    assert buffer.take(4, version=0, at_least=12) is not None


def test_samples_of_newer_weights_than_a_resumed_learner_has_are_fresh() -> None:
    buffer = make_buffer(max_off_policy_versions=0)
    buffer.add(make_item("r0", version=7))
    assert buffer.take(4, version=5) is not None


def test_what_could_never_work_is_refused() -> None:
    buffer = make_buffer()
    with pytest.raises(ValueError, match=r"buffer\.capacity is 20"):
        buffer.take(21, version=0)
    with pytest.raises(ValueError, match=r"raise buffer\.capacity \(20\) or buffer\.max_bytes \(1000\)"):
        buffer.add(make_item("r0", num_samples=21))
    with pytest.raises(ValueError, match="rollout r0: no graded sample"):
        SampleMeta.of("r0", [])


def test_metadata_sums_up_a_rollout() -> None:
    experiences = make_rollout(np.random.default_rng(0), "r0", version=3)
    meta = SampleMeta.of("r0", experiences)
    assert (meta.rollout_id, meta.task_id, meta.num_samples, meta.version) == ("r0", "r0", 4, 3)
    assert meta.num_tokens == sum(len(e.token_ids) for e in experiences)
    assert dict(meta.outcomes) == {e.outcome: 1 for e in experiences}
    assert meta.reward_sum == pytest.approx(1.0 - 3 * 0.3)
    # Ids, log-probabilities and four weights of a token; the prompt that the samples share.
    assert meta.size_bytes == 24 * meta.num_tokens + 4 * len(experiences[0].prompt_ids)

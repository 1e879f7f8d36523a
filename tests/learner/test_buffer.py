"""The online buffer against a plain model of it: bounded, first in first out, and every answer the same twice."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from learner.buffer import BufferItem, BufferServer, OnlineBuffer, RolloutMeta
from settings import BufferSettings
from tests.learner.samples import make_rollout

CAPACITY, MAX_BYTES = 20, 1000


def make_item(rollout_id: str, *, num_samples: int = 4, version: int = 0, size_bytes: int = 100) -> BufferItem[str]:
    meta = RolloutMeta(
        rollout_id=rollout_id,
        num_samples=num_samples,
        version=version,
        size_bytes=size_bytes,
    )
    return BufferItem(ref=f"ref of {rollout_id}", meta=meta)


def make_buffer() -> OnlineBuffer[str]:
    return OnlineBuffer(BufferSettings(capacity=CAPACITY, max_bytes=MAX_BYTES, refresh_every=1))


class BufferMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.buffer = make_buffer()
        self.num_ids = 0
        self.queued: list[BufferItem[str]] = []
        self.lent: list[BufferItem[str]] = []
        self.gone: set[str] = set()

    @rule(num_samples=st.integers(1, 8), size_bytes=st.integers(1, 400))
    def add(self, num_samples: int, size_bytes: int) -> None:
        item = make_item(f"r{self.num_ids}", num_samples=num_samples, size_bytes=size_bytes)
        self.num_ids += 1
        self.queued.append(item)
        evicted = []
        while (
            sum(i.meta.num_samples for i in self.queued) > CAPACITY
            or sum(i.meta.size_bytes for i in self.queued) > MAX_BYTES
        ):
            evicted.append(self.queued.pop(0).meta.rollout_id)
        assert self.buffer.add(item) == tuple(evicted)
        self.gone.update(evicted)

    @precondition(lambda self: self.queued or self.lent)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        held = [*self.queued, *self.lent]
        chosen = data.draw(st.lists(st.sampled_from(held), unique_by=lambda item: item.meta.rollout_id))
        names = [item.meta.rollout_id for item in chosen]
        assert self.buffer.take([*names, "never seen", *sorted(self.gone)]) == chosen
        assert self.buffer.take(names) == chosen, "the same call, made again"
        self.lent += [item for item in chosen if item not in self.lent]
        self.queued = [item for item in self.queued if item not in chosen]

    @precondition(lambda self: self.queued or self.lent)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from([*self.queued, *self.lent]))
        for _ in range(2):
            self.buffer.discard([item.meta.rollout_id])
        self.gone.add(item.meta.rollout_id)
        self.queued, self.lent = ([i for i in items if i is not item] for items in (self.queued, self.lent))

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert self.buffer.items() == self.queued
        stats = self.buffer.stats()
        assert stats.num_rollouts == len(self.queued)
        assert stats.num_samples == sum(i.meta.num_samples for i in self.queued) <= CAPACITY
        assert stats.num_lent == sum(i.meta.num_samples for i in self.lent)
        assert stats.size_bytes == sum(i.meta.size_bytes for i in self.queued) <= MAX_BYTES
        for item in (*self.queued, *self.lent):
            assert self.buffer.holds(item.meta.rollout_id) == item.meta
        for rollout_id in self.gone:
            assert self.buffer.was_discarded(rollout_id)
            assert self.buffer.holds(rollout_id) is None


TestBufferMachine = BufferMachine.TestCase
TestBufferMachine.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_rollout_that_can_never_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"raise buffer\.capacity \(20\) or buffer\.max_bytes \(1000\)"):
        make_buffer().add(make_item("r0", num_samples=CAPACITY + 1))
    with pytest.raises(ValueError, match="rollout r0 has no graded sample"):
        RolloutMeta.of("r0", [])


def test_metadata_summarizes_a_rollout() -> None:
    experiences = make_rollout(np.random.default_rng(0), "r0", version=3)
    meta = RolloutMeta.of("r0", experiences)
    assert (meta.rollout_id, meta.num_samples, meta.version) == ("r0", 4, 3)
    # Ids, log-probabilities and four weights of a token; the prompt that the samples share.
    num_tokens = sum(len(e.token_ids) for e in experiences)
    assert meta.size_bytes == 24 * num_tokens + 4 * len(experiences[0].prompt_ids)


def test_a_rollout_that_arrives_again_counts_once() -> None:
    async def scenario() -> None:
        buffer = BufferServer(BufferSettings(capacity=CAPACITY, refresh_every=1), put=lambda experiences: object())
        first = make_rollout(np.random.default_rng(0), "r0", num_samples=4)
        graded_worse = make_rollout(np.random.default_rng(1), "r0", num_samples=3)
        added = await buffer.add("r0", first)
        assert added.meta is not None
        assert added.meta.num_samples == 4
        assert await buffer.add("r0", graded_worse) == added
        assert (await buffer.stats()).num_samples == 4
        await buffer.take([], ["r0"])
        assert (await buffer.add("r0", first)).meta is None
        assert (await buffer.stats()).num_samples == 0

    asyncio.run(scenario())

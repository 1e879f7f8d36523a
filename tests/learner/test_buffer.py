"""The online buffer against a plain model of it: bounded, first in first out, and every answer the same twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rltf.errors import UserError
from rltf.learner.buffer import Added, BufferItem, BufferServer, RolloutMeta
from rltf.learner.data import Experiences
from rltf.rewards import Granularity
from rltf.settings import BufferSettings
from tests.learner.samples import make_rollout
from tests.tiers import examples

CAPACITY, MAX_BYTES = 20, 1000


def make_samples(rollout_id: str, *, num_samples: int, num_words: int) -> Experiences:
    """Samples without tokens, whose prompt has `num_words` of four bytes."""
    (sample, *_) = make_rollout(np.random.default_rng(0), rollout_id)
    sample = replace(
        sample,
        prompt_ids=np.zeros(num_words, np.int32),
        token_ids=np.zeros(0, np.int32),
        logprobs=np.zeros(0, np.float32),
        token_weights=np.zeros((len(Granularity), 0), np.float32),
    )
    return Experiences([sample] * num_samples)


def make_buffer() -> Any:
    settings = BufferSettings(capacity=CAPACITY, max_bytes=MAX_BYTES, refresh_every=1)
    return BufferServer(settings, put=lambda experiences: experiences)


class BufferMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.buffer = make_buffer()
        self.num_ids = 0
        self.queued: list[BufferItem] = []
        self.lent: list[BufferItem] = []
        self.gone: set[str] = set()

    @rule(num_samples=st.integers(1, 8), num_words=st.integers(1, 100))
    def add(self, num_samples: int, num_words: int) -> None:
        samples = make_samples(f"r{self.num_ids}", num_samples=num_samples, num_words=num_words)
        item = BufferItem(samples, RolloutMeta.of(f"r{self.num_ids}", samples))  # type: ignore[arg-type]
        self.num_ids += 1
        self.queued.append(item)
        evicted = []
        while (
            sum(i.meta.num_samples for i in self.queued) > CAPACITY
            or sum(i.meta.size_bytes for i in self.queued) > MAX_BYTES
        ):
            evicted.append(self.queued.pop(0).meta.rollout_id)
        assert self.buffer.add(item.meta.rollout_id, samples) == Added(self.buffer.epoch, item.meta, tuple(evicted))
        self.gone.update(evicted)

    @precondition(lambda self: self.queued or self.lent)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        names = [item.meta.rollout_id for item in (*self.queued, *self.lent)]
        chosen = data.draw(st.lists(st.sampled_from(names), unique=True))
        assert self.take_ids(*chosen, "never seen", *sorted(self.gone)) == chosen
        assert self.take_ids(*chosen) == chosen, "the same call, made again"
        self.lent += [item for item in self.queued if item.meta.rollout_id in chosen]
        self.queued = [item for item in self.queued if item.meta.rollout_id not in chosen]

    def take_ids(self, *rollout_ids: str) -> list[str]:
        epoch, items = self.buffer.take(rollout_ids, ())
        assert epoch == self.buffer.epoch
        return [item.meta.rollout_id for item in items]

    @precondition(lambda self: self.queued or self.lent)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from([*self.queued, *self.lent]))
        for _ in range(2):
            self.buffer.take((), [item.meta.rollout_id])
        self.gone.add(item.meta.rollout_id)
        self.queued, self.lent = ([i for i in items if i is not item] for items in (self.queued, self.lent))

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert [item.meta for item in self.buffer.items()] == [item.meta for item in self.queued]
        stats = self.buffer.stats()
        assert stats.num_rollouts == len(self.queued)
        assert stats.num_samples == sum(i.meta.num_samples for i in self.queued) <= CAPACITY
        assert stats.num_lent == sum(i.meta.num_samples for i in self.lent)
        assert stats.size_bytes == sum(i.meta.size_bytes for i in self.queued) <= MAX_BYTES
        more = make_samples("again", num_samples=1, num_words=1)
        for item in (*self.queued, *self.lent):
            assert self.buffer.add(item.meta.rollout_id, more) == Added(self.buffer.epoch, item.meta)
        for rollout_id in self.gone:
            assert self.buffer.add(rollout_id, more) == Added(self.buffer.epoch, None)


TestBufferMachine = BufferMachine.TestCase
TestBufferMachine.settings = examples(0.6, stateful_step_count=40)


def test_a_rollout_that_can_never_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"raise buffer\.capacity \(20\) or buffer\.max_bytes \(1000\)"):
        make_buffer().add("r0", make_samples("r0", num_samples=CAPACITY + 1, num_words=1))
    with pytest.raises(ValueError, match="rollout r0 has no graded sample"):
        RolloutMeta.of("r0", [])


def test_metadata_summarizes_a_rollout() -> None:
    experiences = make_rollout(np.random.default_rng(0), "r0", version=3)
    meta = RolloutMeta.of("r0", experiences)
    assert (meta.rollout_id, meta.num_samples, meta.version) == ("r0", 4, 3)
    # Ids, log-probabilities and the weights of a token; the prompt that the samples share.
    num_tokens = sum(len(e.token_ids) for e in experiences)
    assert meta.size_bytes == 4 * (2 + len(Granularity)) * num_tokens + 4 * len(experiences[0].prompt_ids)


def test_a_rollout_that_arrives_again_counts_once() -> None:
    buffer = make_buffer()
    first = make_rollout(np.random.default_rng(0), "r0", num_samples=1)
    graded_worse = make_rollout(np.random.default_rng(1), "r0", num_samples=2)
    added = buffer.add("r0", first)
    assert added.meta.num_samples == 1
    assert buffer.add("r0", graded_worse) == added
    assert buffer.stats().num_samples == 1
    buffer.take([], ["r0"])
    assert buffer.add("r0", first).meta is None
    assert buffer.stats().num_samples == 0

"""Experiences and rollouts are pickled as columns: nothing changes, and the number of arrays does not grow."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rltf.learner.data import Experience, Experiences
from rltf.sandbox.verdict import Outcome
from rltf.transport.rollouts import Completion, FinishReason, Rollout, VersionSpan

LENGTHS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), max_size=5)


@given(LENGTHS, st.booleans())
def test_pickled_experiences_are_equal(lengths: list[tuple[int, int]], is_shared: bool) -> None:
    prompt = np.arange(7, dtype=np.int32)
    sent = Experiences(
        experience(i, prompt if is_shared else prompt[:p], length) for i, (p, length) in enumerate(lengths)
    )
    data, buffers = pickled(sent)
    assert len(buffers) <= 4
    arrived = pickle.loads(data, buffers=buffers)
    assert type(arrived) is Experiences
    same(arrived, sent)
    same(pickle.loads(pickle.dumps(arrived)), sent)  # the buffer pickles what it received


@given(LENGTHS, st.booleans())
def test_pickled_rollout_is_equal(lengths: list[tuple[int, int]], has_greedy: bool) -> None:
    completions = tuple(completion(i, p, length) for i, (p, length) in enumerate(lengths))
    greedy = completion(99, 3, 2) if has_greedy else None
    data, buffers = pickled(Rollout("r", "t", completions, greedy))
    assert len(buffers) <= 4
    arrived: Rollout = pickle.loads(data, buffers=buffers)
    assert (arrived.rollout_id, arrived.task_id, arrived.greedy is None) == ("r", "t", greedy is None)
    same([*arrived.samples, arrived.greedy], [*completions, greedy])


def test_shared_prompt_is_pickled_once() -> None:
    prompt = np.arange(1000, dtype=np.int32)
    _, buffers = pickled(Experiences(experience(i, prompt, 5) for i in range(20)))
    assert sum(buffer.raw().nbytes for buffer in buffers) == prompt.nbytes + 20 * 5 * (4 + 4 + 16)


def pickled(value: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
    buffers: list[pickle.PickleBuffer] = []
    return pickle.dumps(value, protocol=5, buffer_callback=buffers.append), buffers


def same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other)
        for name in getattr(other, "__slots__", ()):
            value, wanted = getattr(one, name), getattr(other, name)
            if isinstance(wanted, np.ndarray):
                assert value.dtype == wanted.dtype
                assert np.array_equal(value, wanted)
            else:
                assert (value, type(value)) == (wanted, type(wanted))


def experience(i: int, prompt: Any, length: int) -> Experience:
    ids = np.arange(i, i + length, dtype=np.int32)
    weights = np.arange(4 * length, dtype=np.float32).reshape(4, length) + i
    outcome = list(Outcome)[i % len(Outcome)]
    return Experience("t", f"c{i}", prompt, ids, ids.astype(np.float32), weights, i, i / 3, outcome)


def completion(i: int, prompt_length: int, length: int) -> Completion:
    ids = np.arange(i, i + length, dtype=np.int32)
    return Completion(
        task_id="t",
        completion_id=f"c{i}",
        prompt_ids=np.arange(prompt_length, dtype=np.int32),
        token_ids=ids,
        logprobs=ids.astype(np.float32),
        char_spans=np.stack([ids, ids + 1], axis=1),
        weight_versions=(VersionSpan(0, 1, i), VersionSpan(1, length, i + 1)),
        finish_reason=list(FinishReason)[i % 2],
        text="text" * i,
        program_start=i,
        program_end=2 * i,
    )

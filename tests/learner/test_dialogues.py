"""The feedback between the answers of a dialogue is read and not learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rltf.learner.data import Experience, Experiences, load_rollouts, save_rollouts
from rltf.learner.packing import pack
from rltf.learner.policy import Policy
from rltf.rewards import Granularity
from rltf.settings import Dtype
from tests.learner.samples import gradients, largest_difference, make_learner, make_rollout, plain_logprobs, random_ids


def make_dialogue(random: np.random.Generator, prompt_ids: np.ndarray, num_turns: int, name: str) -> Experience:
    """A sample whose answers have 1 to 9 tokens, with 1 to 6 tokens of feedback between them."""
    spans, length = [], int(random.integers(1, 10))
    num_sampled = length
    for _ in range(num_turns - 1):
        end = length + int(random.integers(1, 7))
        spans.append((length, end))
        answer = int(random.integers(1, 10))
        length, num_sampled = end + answer, num_sampled + answer
    (made,) = make_rollout(random, name, num_samples=1)
    return replace(
        made,
        prompt_ids=prompt_ids,
        token_ids=random_ids(random, length),
        logprobs=(-5 + random.normal(size=num_sampled)).astype(np.float32),
        token_weights=random.normal(size=(len(Granularity), num_sampled)).astype(np.float32),
        feedback_spans=tuple(spans),
    )


def make_dialogues(seed: int) -> Experiences:
    """Samples of two prompts with one to three turns."""
    random = np.random.default_rng(seed)
    prompts = [random_ids(random, 7), random_ids(random, 20)]
    return Experiences(make_dialogue(random, prompts[i % 2], 1 + i % 3, f"d{i}") for i in range(6))


def as_one_answer(dialogue: Experience) -> Experience:
    """The same tokens as one answer in which those of the feedback have a weight of 0."""
    num_tokens, places = len(dialogue.token_ids), dialogue.sequence.learned
    logprobs, weights = np.zeros(num_tokens, np.float32), np.zeros((len(Granularity), num_tokens), np.float32)
    logprobs[places], weights[:, places] = dialogue.logprobs, dialogue.token_weights
    return replace(dialogue, logprobs=logprobs, token_weights=weights, feedback_spans=())


def test_logprobs_are_those_of_the_sampled_tokens(tiny_model_dir: Path) -> None:
    policy = Policy(tiny_model_dir, compute_dtype=Dtype.FLOAT32, device=torch.device("cpu"))
    sequences = [dialogue.sequence for dialogue in make_dialogues(0)]
    expected = torch.cat([plain_logprobs(policy, one, 1.0)[one.learned] for one in sequences])
    found = torch.full_like(expected, torch.nan)
    for batch in policy.pack(sequences, micro_batch_tokens=128, row_tokens=64):
        found[batch.source], _ = policy.logprobs(batch, torch.ones(len(batch.target)))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("micro_batch_tokens", [128, 1024])
def test_feedback_has_no_gradient(tiny_model_dir: Path, micro_batch_tokens: int) -> None:
    """The gradient is that of one answer whose feedback weighs nothing; only the mean counts fewer tokens."""
    dialogues = make_dialogues(1)
    num_sampled, num_tokens = sum(d.num_sampled for d in dialogues), sum(len(d.token_ids) for d in dialogues)
    assert num_sampled < num_tokens
    for mode, factor in (("seq-mean-token-sum", 1.0), ("token-mean", num_sampled / num_tokens)):
        found = []
        for samples in (dialogues, [as_one_answer(dialogue) for dialogue in dialogues]):
            learner = make_learner(
                tiny_model_dir, micro_batch_tokens=micro_batch_tokens, loss_agg_mode=mode, supervised_weight=0.0
            )
            learner.update(learner.prepare(samples))
            found.append(gradients(learner.policy))
        ours, theirs = found
        assert largest_difference([factor * one for one in ours], theirs) < 1e-5


def test_what_an_answer_is_worth_to_the_value_head_passes_over_feedback(tiny_model_dir: Path) -> None:
    """GAE goes from the last token of a turn to the first of the next one."""
    learner = make_learner(tiny_model_dir, algorithm="ppo", supervised_weight=0.0)
    dialogues = make_dialogues(2)
    table = learner.prepare(dialogues).table
    assert len(table.behavior) == sum(dialogue.num_sampled for dialogue in dialogues)
    assert table.sequence.bincount().tolist() == [dialogue.num_sampled for dialogue in dialogues]
    assert np.isfinite(learner.update(learner.prepare(dialogues)).loss)


def test_a_dialogue_whose_arrays_do_not_fit_is_refused(tiny_model_dir: Path) -> None:
    learner = make_learner(tiny_model_dir, supervised_weight=0.0)
    (one,) = (d for d in make_dialogues(3)[:2] if d.feedback_spans)
    with pytest.raises(ValueError, match=r"do not match \d+ sampled tokens"):
        learner.prepare([replace(one, feedback_spans=())])


def test_dialogues_are_stored_bit_for_bit(tmp_path: Path) -> None:
    dialogues = make_dialogues(4)
    save_rollouts(tmp_path / "rollouts.npz", [("r", dialogues)])
    ((_, found),) = load_rollouts(tmp_path / "rollouts.npz")
    for ours, theirs in zip(found, dialogues, strict=True):
        assert ours.feedback_spans == theirs.feedback_spans
        assert ours.outcome is theirs.outcome
        assert np.array_equal(ours.token_weights, theirs.token_weights)


@given(st.integers(0, 2**32 - 1))
def test_every_sampled_token_is_packed_once_after_the_token_before_it(seed: int) -> None:
    sequences = [dialogue.sequence for dialogue in make_dialogues(seed)]
    targets = np.concatenate([one.token_ids[one.learned] for one in sequences])
    before = np.concatenate([np.concatenate([one.prompt_ids[-1:], one.token_ids])[one.learned] for one in sequences])
    batches = pack(sequences, micro_batch_tokens=256, row_tokens=64)
    assert torch.cat([batch.source for batch in batches]).sort().values.tolist() == list(range(len(targets)))
    for batch in batches:
        assert batch.target.tolist() == targets[batch.source].tolist()
        assert batch.input_ids.flatten()[batch.predictor].tolist() == before[batch.source].tolist()

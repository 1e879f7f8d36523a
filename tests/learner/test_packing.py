"""Packing changes no result: rows equal single sequences, chunks the whole, micro-batches one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rltf.learner.data import TokenSequence
from rltf.learner.logprobs import chunked_logprobs
from rltf.learner.packing import pack
from rltf.settings import LossAggMode
from tests.learner.samples import gradients, largest_difference, make_experiences, make_learner, make_references
from tests.tiers import examples, first_fast

sequence_lists = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=12)


def build(spec: list[tuple[int, int]]) -> list[TokenSequence]:
    """Sequences from pairs (index of one of four prompts, completion length); ids in a completion are distinct."""
    prompts = [np.arange(1, 2 + 3 * index, dtype=np.int32) for index in range(4)]
    return [
        TokenSequence(prompts[prompt], np.arange(100 * i, 100 * i + length, dtype=np.int32))
        for i, (prompt, length) in enumerate(spec)
    ]


@examples(0.6)
@given(spec=sequence_lists, row_tokens=st.integers(1, 60), budget=st.integers(3, 20))
def test_tokens_attend_only_to_their_own_sequence(spec: list[tuple[int, int]], row_tokens: int, budget: int) -> None:
    sequences = build(spec)
    micro_batch_tokens = 8 * budget
    batches = pack(sequences, micro_batch_tokens=micro_batch_tokens, row_tokens=row_tokens)
    completions = np.concatenate([s.token_ids for s in sequences])
    owner = np.repeat(np.arange(len(sequences)), [len(s.token_ids) for s in sequences])
    first = np.searchsorted(owner, np.arange(len(sequences)))

    seen = torch.cat([batch.source for batch in batches])
    assert sorted(seen.tolist()) == list(range(len(completions)))  # each token is predicted exactly once
    for batch in batches:
        rows, length = batch.input_ids.shape
        assert rows * length <= micro_batch_tokens
        visible = batch.attention_mask(torch.float32)[:, 0] == 0
        for predictor, target, source in zip(
            batch.predictor.tolist(), batch.target.tolist(), batch.source.tolist(), strict=True
        ):
            assert target == completions[source]
            row, column = divmod(predictor, length)
            keys = visible[row, column].nonzero().squeeze(-1)
            sequence = sequences[owner[source]]
            before = sequence.token_ids[: source - first[owner[source]]]
            context = np.concatenate([sequence.prompt_ids, before])
            assert batch.input_ids[row, keys].tolist() == context.tolist()
            assert batch.position_ids[row, keys].tolist() == list(range(len(context)))


def test_shared_prompts_are_computed_once() -> None:
    sequences = build([(3, 9)] * 8)
    (batch,) = pack(sequences, micro_batch_tokens=512, row_tokens=128)
    assert batch.input_ids.numel() == 80  # 10 prompt tokens and 8 x 8 others, padded to a multiple of 8


def test_unusable_sequences_are_refused() -> None:
    empty = np.array([], np.int32)
    some = np.array([5], np.int32)
    with pytest.raises(ValueError, match="sequence 1 has 0 prompt and 1 completion tokens"):
        pack([TokenSequence(some, some), TokenSequence(empty, some)], micro_batch_tokens=8, row_tokens=8)
    with pytest.raises(ValueError, match="sequence 0 has 1 prompt and 0 completion tokens"):
        pack([TokenSequence(some, empty)], micro_batch_tokens=8, row_tokens=8)
    with pytest.raises(ValueError, match=r"raise learner.micro_batch_tokens \(8\)"):
        pack([TokenSequence(np.arange(9, dtype=np.int32), some)], micro_batch_tokens=8, row_tokens=8)


@pytest.mark.parametrize(
    "layout",
    [
        {"row_tokens": 1, "micro_batch_tokens": 64},  # one sequence per row, several micro-batches
        {"row_tokens": 64, "micro_batch_tokens": 4096},
        {"row_tokens": 4096, "micro_batch_tokens": 4096},  # everything in one row
        {"row_tokens": 128, "micro_batch_tokens": 512, "chunk_tokens": 3},
        {"row_tokens": 128, "micro_batch_tokens": 512, "activation_checkpointing": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("loss_agg_mode", first_fast(LossAggMode))
def test_layout_does_not_change_loss_or_gradient(
    tiny_model_dir: Path, layout: dict[str, Any], loss_agg_mode: LossAggMode
) -> None:
    experiences, references = make_experiences(0), make_references(1)
    results = []
    whole: dict[str, Any] = {"row_tokens": 128, "micro_batch_tokens": 4096, "chunk_tokens": 4096}
    for fields in (whole, layout):
        learner = make_learner(tiny_model_dir, loss_agg_mode=loss_agg_mode, **fields)
        stats = learner.update(learner.prepare_with(experiences, references))
        results.append((stats.loss, gradients(learner.policy)))
    (loss, gradient), (other_loss, other_gradient) = results
    assert other_loss == pytest.approx(loss, abs=1e-5)
    scale = max(g.abs().max().item() for g in gradient)
    assert largest_difference(gradient, other_gradient) < 1e-5 * max(1.0, scale)


def test_order_of_samples_does_not_matter(tiny_model_dir: Path) -> None:
    experiences, references = make_experiences(0), make_references(1)
    results = []
    for order in (experiences, experiences[::-1]):
        learner = make_learner(tiny_model_dir)
        stats = learner.update(learner.prepare_with(order, references))
        results.append((stats.loss, gradients(learner.policy)))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-5)
    assert largest_difference(results[0][1], results[1][1]) < 1e-5


@pytest.mark.parametrize("chunk_tokens", [1, 4, 100])
@pytest.mark.parametrize("with_bias", [False, True])
def test_chunked_logprobs_equal_log_softmax(chunk_tokens: int, with_bias: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(11, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(13, 7, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(13, dtype=torch.float64, requires_grad=True) if with_bias else None
    targets = torch.randint(0, 13, (11,))
    temperature = torch.rand(11, dtype=torch.float64) + 0.5
    upstream = torch.randn(11, dtype=torch.float64)
    inputs = [hidden, weight] + ([bias] if bias is not None else [])

    logprobs, entropy = chunked_logprobs(hidden, weight, bias, targets, temperature, chunk_tokens=chunk_tokens)
    ours = torch.autograd.grad(logprobs, inputs, upstream)
    whole = torch.log_softmax(torch.nn.functional.linear(hidden, weight, bias) / temperature[:, None], -1)
    expected = whole.gather(-1, targets[:, None]).squeeze(-1)
    theirs = torch.autograd.grad(expected, inputs, upstream)

    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(entropy, -(whole.exp() * whole).sum(-1).detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)

"""How micro-batches are dealt to ranks, and that one rank makes the plain update."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rltf.learner.data import TokenSequence
from rltf.learner.encoder_decoder import EncoderDecoderBatch
from rltf.learner.encoder_decoder import pack as pack_both
from rltf.learner.objectives import loss, token_table
from rltf.learner.optim import learning_rate, make_optimizer
from rltf.learner.packing import MicroBatch, pack
from rltf.learner.policy import Policy
from rltf.learner.prepared import Batches, deal, pack_evenly
from rltf.settings import Dtype
from tests.learner.samples import make_experiences, make_learner, make_references

sequences = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 40)), min_size=1, max_size=30).map(
    lambda lengths: [
        TokenSequence(np.arange(2, 2 + prompt, dtype=np.int32), np.arange(2, 2 + completion, dtype=np.int32))
        for prompt, completion in lengths
    ]
)


def packed(some: list[TokenSequence], tokens: int, *, both: bool) -> Batches:
    if both:
        return pack_both(some, start_id=0, micro_batch_tokens=tokens, row_tokens=64)
    return pack(some, micro_batch_tokens=tokens, row_tokens=64)


@pytest.mark.parametrize("both", [False, True])
@given(sequences, st.integers(1, 5))
def test_every_token_is_dealt_once_and_all_ranks_get_equally_many(
    both: bool, some: list[TokenSequence], size: int
) -> None:
    batches = pack_evenly(lambda tokens: packed(some, tokens, both=both), 128, size)
    parts = deal(batches, size)
    assert len(parts) == size
    assert len({len(part) for part in parts}) == 1
    dealt = torch.cat([batch.source for part in parts for batch in part])
    assert dealt.sort().values.tolist() == list(range(sum(len(s.token_ids) for s in some)))
    if size > 1:
        rounds = [[batch.num_tokens for batch in round_ if len(batch.source)] for round_ in zip(*parts, strict=True)]
        assert all(min(earlier) >= max(later) for earlier, later in pairwise(rounds))


@given(sequences, st.integers(2, 5))
def test_even_packing_is_never_slower(some: list[TokenSequence], size: int) -> None:
    def cost(batches: Batches) -> int:
        return sum(max(b.num_tokens for b in round_) for round_ in zip(*deal(batches, size), strict=True))

    even = pack_evenly(lambda tokens: packed(some, tokens, both=False), 256, size)
    assert cost(even) <= cost(packed(some, 256, both=False))


def test_a_small_update_is_work_for_every_rank() -> None:
    some = [TokenSequence(np.full(8, n, np.int32), np.full(9, 3, np.int32)) for n in range(8)]
    batches = pack_evenly(lambda tokens: packed(some, tokens, both=False), 4096, 4)
    assert len(packed(some, 4096, both=False)) == 1
    assert len(batches) == 4


@pytest.mark.parametrize("kind", [MicroBatch, EncoderDecoderBatch])
def test_an_empty_micro_batch_has_no_tokens_to_predict(kind: type[MicroBatch | EncoderDecoderBatch]) -> None:
    empty = kind.empty()
    assert len(empty.source) == len(empty.target) == len(empty.predictor) == 0


def test_one_rank_makes_the_plain_update_bit_for_bit(tiny_model_dir: Path) -> None:
    learner = make_learner(tiny_model_dir, micro_batch_tokens=256, row_tokens=64, max_grad_norm=1.0)
    policy = Policy(tiny_model_dir, compute_dtype=Dtype.FLOAT32, device=torch.device("cpu"))
    optim = learner.settings.optim
    optimizer = make_optimizer(policy.trained_parameters(), optim)
    for step in range(3):
        experiences, references = make_experiences(step), make_references(step)
        learner.update(learner.prepare_with(experiences, references))
        table = token_table(
            experiences,
            references,
            num_sampled_sequences=len(experiences),
            num_sampled_tokens=sum(len(e.token_ids) for e in experiences),
            temperature=0.8,
            loss_agg_mode=learner.objective.loss_agg_mode,
            max_tokens=32,
        )
        optimizer.zero_grad()
        all_sequences = [*(TokenSequence(e.prompt_ids, e.token_ids) for e in experiences), *references]
        batches = pack(all_sequences, micro_batch_tokens=256, row_tokens=64)
        assert len(batches) > 1
        for batch in batches:
            part = table.select(batch.source)
            logprobs, _ = policy.logprobs(batch, part.temperature)
            loss(logprobs, part, learner.objective, learner.advantage)[0].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(optim, step)
        optimizer.step()
    for mine, plain in zip(learner.policy.model.parameters(), policy.model.parameters(), strict=True):
        assert torch.equal(mine, plain)

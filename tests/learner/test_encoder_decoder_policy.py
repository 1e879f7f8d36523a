"""Encoder-decoder policies: packing changes no result, checkpoints are plain models, unusable models are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    T5Config,
    T5Tokenizer,
)

from rltf.errors import UserError
from rltf.learner.data import TokenSequence
from rltf.learner.encoder_decoder import pack
from rltf.learner.policy import Policy
from rltf.settings import Dtype, LossAggMode
from tests.encoder_decoder_models import KINDS, build_encoder_decoder
from tests.learner.samples import (
    gradients,
    largest_difference,
    make_experiences,
    make_learner,
    make_references,
)
from tests.learner.test_packing import build, sequence_lists
from tests.tiers import examples, first_fast

START = 999


@pytest.fixture(scope="module", params=first_fast(KINDS))
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder_decoder(request.param, tmp_path_factory.mktemp("model") / request.param)


@pytest.fixture(scope="module")
def codet5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder_decoder("codet5", tmp_path_factory.mktemp("model") / "codet5")


def plain_logits(model: Any, sequence: TokenSequence) -> torch.Tensor:
    """Logits [T, V] of one completion by itself, from the model's own forward pass."""
    inputs = np.concatenate([[model.config.decoder_start_token_id], sequence.token_ids[:-1]]).astype(np.int64)
    logits: torch.Tensor = model(
        input_ids=torch.from_numpy(sequence.prompt_ids.astype(np.int64))[None],
        decoder_input_ids=torch.from_numpy(inputs)[None],
        use_cache=False,
    ).logits[0]
    return logits


def load(folder: Path) -> Policy:
    return Policy(folder, compute_dtype=Dtype.FLOAT32, device=torch.device("cpu"))


@examples(0.6)
@given(spec=sequence_lists, row_tokens=st.integers(1, 60), budget=st.integers(4, 20))
def test_tokens_attend_only_to_their_own_prompt_and_completion(
    spec: list[tuple[int, int]], row_tokens: int, budget: int
) -> None:
    sequences = build(spec)
    micro_batch_tokens = 8 * budget
    batches = pack(sequences, start_id=START, micro_batch_tokens=micro_batch_tokens, row_tokens=row_tokens)
    completions = np.concatenate([s.token_ids for s in sequences])
    owner = np.repeat(np.arange(len(sequences)), [len(s.token_ids) for s in sequences])
    first = np.searchsorted(owner, np.arange(len(sequences)))

    seen = torch.cat([batch.source for batch in batches])
    assert sorted(seen.tolist()) == list(range(len(completions)))  # each token is predicted exactly once
    longest = max(len(s.token_ids) for s in sequences)
    for batch in batches:
        assert batch.encoder_ids.numel() + batch.decoder_ids.numel() <= micro_batch_tokens
        assert batch.decoder_ids.shape[1] <= -(-longest // 8) * 8
        visible = batch.decoder_mask()[:, 0]
        length = batch.decoder_ids.shape[1]
        for predictor, target, source in zip(
            batch.predictor.tolist(), batch.target.tolist(), batch.source.tolist(), strict=True
        ):
            assert target == completions[source]
            row, column = divmod(predictor, length)
            keys = visible[row, column].nonzero().squeeze(-1)
            sequence = sequences[owner[source]]
            before = sequence.token_ids[: source - first[owner[source]]]
            assert batch.decoder_ids[row, keys].tolist() == [START, *before.tolist()]
            assert keys.tolist() == list(
                range(keys[0], keys[0] + len(keys))
            )  # contiguous, so distances are those of a single sequence
            memory = batch.memory[row][batch.memory_mask[row]]
            assert batch.encoder_ids.flatten()[memory].tolist() == sequence.prompt_ids.tolist()
            place = memory[0] % batch.encoder_ids.shape[1]
            seen_by_encoder = batch.encoder_mask()[memory[0] // batch.encoder_ids.shape[1], 0, place].nonzero()
            assert seen_by_encoder.squeeze(-1).tolist() == list(range(place, place + len(memory)))


def test_prompt_is_encoded_once_and_short_completions_share_rows() -> None:
    prompt = np.arange(1, 11, dtype=np.int32)
    lengths = (9, 4, 4, 1)
    sequences = [TokenSequence(prompt, np.arange(length, dtype=np.int32)) for length in lengths]
    (batch,) = pack(sequences, start_id=START, micro_batch_tokens=512, row_tokens=128)
    assert batch.encoder_ids.shape == (1, 16)
    assert batch.decoder_ids.shape == (2, 16)  # 9, and 4 + 4 + 1


def test_unusable_sequences_are_refused() -> None:
    empty, some = np.array([], np.int32), np.array([5], np.int32)
    options: dict[str, Any] = {"start_id": START, "micro_batch_tokens": 8, "row_tokens": 8}
    with pytest.raises(ValueError, match="sequence 0 has 1 prompt and 0 completion tokens"):
        pack([TokenSequence(some, empty)], **options)
    with pytest.raises(ValueError, match=r"raise learner.micro_batch_tokens \(8\)"):
        pack([TokenSequence(np.arange(9, dtype=np.int32), some)], **options)


def test_logprobs_equal_the_plain_forward_pass(model_dir: Path) -> None:
    policy = load(model_dir)
    random = np.random.default_rng(3)
    prompt, completion = (random.integers(2, 300, count, dtype=np.int32) for count in (40, 50))
    long = TokenSequence(prompt, completion)  # longer than n_positions
    sequences = [TokenSequence(e.prompt_ids, e.token_ids) for e in make_experiences(0)] + make_references(1) + [long]
    for batch in policy.pack(sequences, micro_batch_tokens=256, row_tokens=64):
        ones = torch.ones(len(batch.target))
        logprobs, _ = policy.logprobs(batch, ones)
        expected = torch.cat(
            [
                plain_logits(policy.model, s)
                .log_softmax(-1)
                .gather(-1, torch.from_numpy(s.token_ids.astype(np.int64))[:, None])[:, 0]
                for s in sequences
            ]
        )
        torch.testing.assert_close(logprobs, expected[batch.source], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "layout",
    [
        {"row_tokens": 1, "micro_batch_tokens": 64},  # one completion per row, several micro-batches
        {"row_tokens": 4096, "micro_batch_tokens": 512, "chunk_tokens": 3},
        {"row_tokens": 128, "micro_batch_tokens": 512, "activation_checkpointing": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("loss_agg_mode", first_fast([LossAggMode.TOKEN_MEAN, LossAggMode.SEQ_MEAN_TOKEN_SUM]))
def test_layout_does_not_change_loss_or_gradient(
    codet5: Path, layout: dict[str, Any], loss_agg_mode: LossAggMode
) -> None:
    experiences, references = make_experiences(0), make_references(1)
    results = []
    whole: dict[str, Any] = {"row_tokens": 128, "micro_batch_tokens": 4096, "chunk_tokens": 4096}
    for fields in (whole, layout):
        learner = make_learner(codet5, loss_agg_mode=loss_agg_mode, **fields)
        stats = learner.update(learner.prepare_with(experiences, references))
        results.append((stats.loss, gradients(learner.policy)))
    (loss, gradient), (other_loss, other_gradient) = results
    assert other_loss == pytest.approx(loss, rel=1e-6, abs=1e-5)
    scale = max(g.abs().max().item() for g in gradient)
    assert largest_difference(gradient, other_gradient) < 1e-5 * max(1.0, scale)


def test_gradient_equals_that_of_the_plain_loss(codet5: Path) -> None:
    """The plain loss is what transformers computes from `labels`, one reference at a time, without packing."""
    references = make_references(2)
    learner = make_learner(codet5, rl_weight=0.0)
    stats = learner.update(learner.prepare_with([], references))
    ours = gradients(learner.policy)
    plain = AutoModelForSeq2SeqLM.from_pretrained(codet5, dtype=torch.float32).eval()
    num_tokens = sum(len(r.token_ids) for r in references)
    total = 0.0
    for reference in references:
        ids, labels = (torch.from_numpy(x.astype(np.int64))[None] for x in (reference.prompt_ids, reference.token_ids))
        loss = plain(input_ids=ids, labels=labels).loss * len(reference.token_ids) / num_tokens
        loss.backward()
        total += loss.item()
    theirs = [p.grad for p in plain.parameters() if p.grad is not None]
    assert stats.loss == pytest.approx(total, rel=1e-6, abs=1e-5)
    assert largest_difference(ours, theirs) < 1e-5


def test_saved_folder_is_a_plain_model(model_dir: Path, tmp_path: Path) -> None:
    learner = make_learner(model_dir)
    learner.update(learner.prepare_with(make_experiences(0), make_references(1)))
    path = learner.save_checkpoint(tmp_path)
    plain = AutoModelForSeq2SeqLM.from_pretrained(path, dtype=torch.float32).eval()
    ids = torch.tensor([AutoTokenizer.from_pretrained(path).encode("Write solve(xs).")])
    start = torch.tensor([[plain.config.decoder_start_token_id, 40, 41]])
    with torch.no_grad():
        ours = learner.policy.model(input_ids=ids, decoder_input_ids=start).logits
        theirs = plain(input_ids=ids, decoder_input_ids=start).logits
    assert plain.config.scale_decoder_outputs == learner.policy.model.config.scale_decoder_outputs
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)

    again = make_learner(path)
    again.resume(path)
    assert again.step == 1
    torch.testing.assert_close(again.policy.model.state_dict(), learner.policy.model.state_dict(), rtol=0, atol=0)


def test_model_with_learned_positions_is_refused(codet5: Path, tmp_path: Path) -> None:
    """BART's decoder has learned positions, so completions cannot share a row."""
    shape: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads: dict[str, Any] = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "init_std": 0.5}
    config = BartConfig(vocab_size=404, d_model=16, max_position_embeddings=64, **shape, **heads)
    torch.manual_seed(0)
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(codet5).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="bart models cannot be trained: log-probabilities of packed sequences are off"):
        load(tmp_path)


def test_model_without_a_start_token_is_refused(codet5: Path, tmp_path: Path) -> None:
    T5Config(vocab_size=404).save_pretrained(tmp_path)
    (tmp_path / "other.bin").touch()
    AutoTokenizer.from_pretrained(codet5).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="set decoder_start_token_id"):
        load(tmp_path)


def test_tokenizer_that_cannot_write_code_is_refused(codet5: Path, tmp_path: Path) -> None:
    """T5's own tokenizer turns line ends and indentation into single spaces."""
    build_encoder_decoder("codet5", tmp_path)
    for file in (tmp_path / "vocab.json", tmp_path / "merges.txt"):
        file.unlink()
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -5.0) for c in "▁def():rtun01+x")]
    T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot write Python"):
        load(tmp_path)

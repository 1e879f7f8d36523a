"""FlexAttention computes what SDPA with a dense mask computes. On a CPU it has no backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GemmaConfig, GPT2Config, LlamaConfig, Qwen3Config

from rltf.errors import UserError
from rltf.learner.attention import BLOCK_TOKENS, block_mask, uses_flex
from rltf.learner.data import TokenSequence
from rltf.learner.packing import MicroBatch, pack
from rltf.learner.policy import Policy
from rltf.settings import AttnImplementation, Dtype, LearnerSettings
from rltf.transport.model_folder import hollow_model
from tests.encoder_decoder_models import build_encoder_decoder
from tests.families import CONTEXT, build_family, build_tokenizer
from tests.learner.samples import random_ids
from tests.tiers import examples, first_fast

FLEX, SDPA, AUTO = AttnImplementation.FLEX_ATTENTION, AttnImplementation.SDPA, AttnImplementation.AUTO
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
}
GROUPED: dict[str, Any] = {**SHAPE, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT}
# Normalized queries and keys; scaled embeddings; layers that see a window next to layers that see everything.
MORE_FAMILIES: dict[str, Any] = {
    "qwen3": (Qwen3Config, GROUPED),
    "gemma": (GemmaConfig, GROUPED),
    "gemma3": (Gemma3TextConfig, {**GROUPED, "sliding_window": 448}),
}


@pytest.fixture
def eagerly() -> Iterator[None]:
    """FlexAttention without its kernels, which take half a minute to build."""
    with torch.compiler.set_stance("force_eager"):
        yield


def build(family: str, folder: Path) -> Path:
    if family not in MORE_FAMILIES:
        return build_family(family, folder)
    configuration, shape = MORE_FAMILIES[family]
    tokenizer = build_tokenizer("qwen2")
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    config = configuration(**shape, **ids, pad_token_id=None, initializer_range=0.2)
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(folder: Path, attn_implementation: AttnImplementation, dtype: Dtype = Dtype.FLOAT32) -> Policy:
    return Policy(folder, compute_dtype=dtype, device=torch.device("cpu"), attn_implementation=attn_implementation)


def trees(seed: int = 0) -> list[TokenSequence]:
    """Twelve completions of four prompts, in all several blocks long."""
    random = np.random.default_rng(seed)
    prompts = [random_ids(random, int(random.integers(20, 90))) for _ in range(4)]
    return [TokenSequence(prompts[i % 4], random_ids(random, int(random.integers(1, 60)))) for i in range(12)]


@torch.no_grad()
def logprobs(policy: Policy, sequences: list[TokenSequence], row_tokens: int) -> torch.Tensor:
    """Log-probabilities of all completion tokens, in the order of `sequences`."""
    found = torch.zeros(sum(len(sequence.token_ids) for sequence in sequences), dtype=policy.dtype)
    for batch in policy.pack(sequences, micro_batch_tokens=1024, row_tokens=row_tokens):
        found[batch.source], _ = policy.logprobs(batch, torch.ones(len(batch.target), dtype=policy.dtype))
    return found


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("family", first_fast(["gemma3", "llama", "qwen2", "starcoder2", "gpt_neox", "qwen3", "gemma"]))
def test_flex_attention_equals_masked_sdpa(family: str, tmp_path: Path) -> None:
    folder, sequences = build(family, tmp_path), trees()
    flex, sdpa = load(folder, FLEX), load(folder, SDPA)
    assert flex.uses_flex
    assert not sdpa.uses_flex
    for row_tokens in (128, 512):
        expected = logprobs(sdpa, sequences, row_tokens)
        torch.testing.assert_close(logprobs(flex, sequences, row_tokens), expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("eagerly")
def test_in_bfloat16_queries_keys_and_values_have_one_type(tmp_path: Path) -> None:
    folder, sequences = build("qwen3", tmp_path), trees()
    exact = logprobs(load(folder, SDPA), sequences, 512)
    flex, sdpa = ((logprobs(load(folder, one, Dtype.BFLOAT16), sequences, 512) - exact).std() for one in (FLEX, SDPA))
    assert flex < 1.5 * sdpa


@pytest.mark.long  # builds kernels
def test_compiled_flex_attention_is_as_exact(tiny_model_dir: Path) -> None:
    sequences, exact = trees(), load(tiny_model_dir, SDPA)
    exact.model.double()
    expected = logprobs(exact, sequences, 128).float()
    torch.testing.assert_close(logprobs(load(tiny_model_dir, FLEX), sequences, 128), expected, rtol=0, atol=1e-5)


lengths = st.lists(
    st.tuples(st.integers(1, 200), st.lists(st.integers(1, 200), min_size=1, max_size=4)), min_size=1, max_size=4
)


def packed(groups: list[tuple[int, list[int]]], **limits: int) -> list[MicroBatch]:
    sequences = [
        TokenSequence(np.full(prompt, index, np.int32), np.zeros(completion, np.int32))
        for index, (prompt, completions) in enumerate(groups)
        for completion in completions
    ]
    return pack(sequences, **limits)


@examples(0.25)
@given(groups=lengths)
def test_a_block_mask_shows_what_the_dense_mask_shows(groups: list[tuple[int, list[int]]]) -> None:
    for batch in packed(groups, micro_batch_tokens=1024, row_tokens=512, row_alignment=BLOCK_TOKENS):
        dense = batch.attention_mask(torch.float32) == 0
        mask = block_mask(batch)
        num_rows, _, length, _ = dense.shape
        shown: Any = create_mask(mask.mask_mod, num_rows, 1, length, length, device="cpu")
        assert torch.equal(shown, dense)
        side = length // BLOCK_TOKENS
        blocks = dense.reshape(num_rows, 1, side, BLOCK_TOKENS, side, BLOCK_TOKENS).any(5).any(3)
        assert torch.equal(mask.to_dense().bool(), blocks)


@given(groups=lengths, num_eights=st.integers(55, 200), row_tokens=st.integers(1, 1500))
def test_rows_are_whole_blocks_and_fit(groups: list[tuple[int, list[int]]], num_eights: int, row_tokens: int) -> None:
    limits = {"micro_batch_tokens": 8 * num_eights, "row_tokens": row_tokens}
    for batch in packed(groups, **limits, row_alignment=BLOCK_TOKENS):
        assert batch.num_tokens <= 8 * num_eights
        assert batch.longest_row % BLOCK_TOKENS == 0 or batch.longest_row == 8 * num_eights


def test_auto_is_flex_attention_on_gpus_if_the_model_supports_it() -> None:
    llama, gpt2 = (hollow_model(config, torch.float32) for config in (LlamaConfig(**GROUPED), GPT2Config(n_layer=1)))
    assert uses_flex(llama, AUTO, "cuda")
    assert not uses_flex(gpt2, AUTO, "cuda")
    assert not uses_flex(llama, AUTO, "cpu")
    assert not uses_flex(llama, SDPA, "cuda")


def test_models_without_flex_attention_are_refused(tmp_path: Path) -> None:
    for kind, folder in (
        ("gpt2", build_family("gpt2", tmp_path / "gpt2")),
        ("t5", build_encoder_decoder("t5", tmp_path / "t5")),
    ):
        with pytest.raises(UserError, match=rf"learner\.attn_implementation: {kind} models .* set it to auto or sdpa"):
            load(folder, FLEX)


def test_flex_attention_needs_a_gpu_to_train() -> None:
    with pytest.raises(ValueError, match="attn_implementation flex_attention cannot train on a CPU"):
        LearnerSettings(attn_implementation=FLEX, num_gpus=0)
    assert LearnerSettings(attn_implementation=FLEX).num_gpus == 1

"""The memory of a generator as `rltf plan` calculates it, compared with vLLM's own formulas."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import DeepseekV2Config, Gemma2Config, GPT2Config, LlamaConfig, PreTrainedConfig, Starcoder2Config

from rltf.actors.memory import Attention, attentions, cache_bytes, generator_memory
from rltf.settings import GIB, Settings

SHAPE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(**SHAPE, num_key_value_heads=2), [Attention(2 * 2 * 16, None)] * 2),
        (LlamaConfig(**SHAPE, num_key_value_heads=1, head_dim=32), [Attention(2 * 32, None)] * 2),
        (GPT2Config(n_embd=64, n_layer=3, n_head=2), [Attention(2 * 64, None)] * 3),
        (Starcoder2Config(**SHAPE, num_key_value_heads=1, sliding_window=40), [Attention(2 * 16, 40)] * 2),
        (
            Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=16, sliding_window=24),
            [Attention(64, 24), Attention(64, None)],
        ),
        (DeepseekV2Config(**SHAPE, kv_lora_rank=48, qk_rope_head_dim=8), [Attention(48 + 8, None)] * 2),
    ],
    ids=["grouped", "head-size", "gpt2", "sliding", "mixed", "latent"],
)
def test_what_layers_keep_of_a_token(config: PreTrainedConfig, expected: list[Attention]) -> None:
    assert attentions(config) == expected


def test_workers_share_heads_but_have_at_least_one() -> None:
    config = LlamaConfig(**SHAPE, num_key_value_heads=2)
    assert [attentions(config, number)[0].num_values for number in (1, 2, 4)] == [2 * 2 * 16, 2 * 16, 2 * 16]


@pytest.mark.slow
@pytest.mark.parametrize("num_tokens", [1, 16, 100, 1536])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("block_size", [16, 32])
def test_the_cache_of_a_sequence_is_that_of_vllm(num_tokens: int, dtype: torch.dtype, block_size: int) -> None:
    from vllm.v1.kv_cache_interface import AttentionSpec, FullAttentionSpec, MLAAttentionSpec, SlidingWindowSpec

    batched_tokens = 128
    engine: Any = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=num_tokens),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1),
        max_in_flight_tokens=batched_tokens,
    )
    of_all: dict[str, Any] = {"block_size": block_size, "dtype": dtype}
    specs: list[tuple[Attention, AttentionSpec]] = [
        (Attention(2 * 2 * 16, None), FullAttentionSpec(num_kv_heads=2, head_size=16, **of_all)),
        (Attention(48 + 8, None), MLAAttentionSpec(num_kv_heads=1, head_size=48 + 8, **of_all)),
        (
            Attention(2 * 2 * 16, 40),
            SlidingWindowSpec(num_kv_heads=2, head_size=16, sliding_window=40, dcp_sharded=False, **of_all),
        ),
    ]
    for layer, spec in specs:
        mine = cache_bytes(
            [layer], num_tokens, itemsize=dtype.itemsize, batched_tokens=batched_tokens, block_size=block_size
        )
        assert mine == spec.max_memory_usage_bytes(engine)


def test_a_generator_holds_weights_and_the_cache_that_is_set() -> None:
    config = LlamaConfig(**SHAPE, num_key_value_heads=2, vocab_size=1000, tie_word_embeddings=True)
    settings = Settings.model_validate({"generator": {"max_num_seqs": 8}, "model": {"max_model_len": 600}})
    memory = generator_memory(config, settings)
    mlp, attention, norms = 3 * 64 * 96, 2 * 64 * 64 + 2 * 64 * 32, 2 * 64
    assert memory.weights == 2 * (1000 * 64 + 2 * (mlp + attention + norms) + 64)
    assert memory.cache == 4 * GIB
    assert memory.cache_needed == 8 * 2 * 608 * 64 * 2  # 600 tokens take 38 blocks of 16
    assert memory.total > memory.weights + memory.cache
    halves = settings.generator.model_copy(update={"tensor_parallel_size": 2})
    half = generator_memory(config, settings.model_copy(update={"generator": halves}))
    assert (half.weights, half.cache) == (memory.weights // 2, 2 * GIB)
    assert half.cache_needed == memory.cache_needed // 2  # one of two heads
    other = settings.generator.model_copy(update={"engine": "transformers"})
    assert generator_memory(config, settings.model_copy(update={"generator": other})).cache == memory.cache_needed

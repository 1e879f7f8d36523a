"""How many sequences an engine takes on CPUs, and how large its cache is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, LlamaConfig, PretrainedConfig, T5Config

from rltf.evaluation.capacity import cache_bytes_per_token, sized_for_cpus
from rltf.settings import Dtype, GeneratorSettings, ModelSettings

BLOCK = 32


@pytest.mark.parametrize(
    ("config", "dtype", "expected"),
    [
        # Keys and values: 2 x layers x heads that are cached x size of a head x bytes of a number.
        (LlamaConfig(num_hidden_layers=3, hidden_size=64, num_attention_heads=4), Dtype.FLOAT32, 2 * 3 * 4 * 16 * 4),
        (
            LlamaConfig(num_hidden_layers=3, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=8),
            Dtype.BFLOAT16,
            2 * 3 * 2 * 8 * 2,
        ),
        (GPT2Config(n_layer=2, n_embd=48, n_head=3), Dtype.FLOAT32, 2 * 2 * 3 * 16 * 4),
        (T5Config(), Dtype.FLOAT32, None),
    ],
)
def test_size_of_a_token_in_the_cache(
    tmp_path: Path, config: PretrainedConfig, dtype: Dtype, expected: int | None
) -> None:
    config.save_pretrained(tmp_path)
    assert cache_bytes_per_token(tmp_path, dtype) == expected


@pytest.mark.parametrize("content", [{"model_type": "known-only-to-vllm"}, {"model_type": "mamba"}])
def test_a_model_whose_cache_is_unknown(tmp_path: Path, content: dict[str, str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert cache_bytes_per_token(tmp_path, Dtype.FLOAT32) is None


def sized(num_tokens: int, num_cores: int, token_bytes: int | None, max_model_len: int = 2048) -> GeneratorSettings:
    model = ModelSettings(name="any", max_model_len=max_model_len)
    return sized_for_cpus(GeneratorSettings(), model, token_bytes, num_tokens, num_cores)


def test_the_cache_holds_every_sequence() -> None:
    found = sized(num_tokens=100, num_cores=2, token_bytes=1000)
    assert found.max_num_seqs == 64
    assert found.kv_cache_bytes == (64 * 4 + 1) * BLOCK * 1000


def test_the_cache_holds_the_longest_sequence_of_the_model() -> None:
    found = sized(num_tokens=1, num_cores=1, token_bytes=1000, max_model_len=5000)
    assert found.kv_cache_bytes == (157 + 1) * BLOCK * 1000


def test_a_cache_of_unknown_size_stays_as_it_is() -> None:
    found = sized(num_tokens=100, num_cores=3, token_bytes=None)
    assert (found.max_num_seqs, found.kv_cache_bytes) == (96, GeneratorSettings().kv_cache_bytes)


@given(st.integers(1, 2048), st.integers(1, 256), st.integers(1, 10**6))
def test_the_cache_is_never_larger_than_the_default(num_tokens: int, num_cores: int, token_bytes: int) -> None:
    found = sized(num_tokens, num_cores, token_bytes)
    limit = GeneratorSettings().kv_cache_bytes
    assert found.kv_cache_bytes <= limit
    holds_all = found.kv_cache_bytes >= num_tokens * found.max_num_seqs * token_bytes
    assert holds_all or found.kv_cache_bytes == limit

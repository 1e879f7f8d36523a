"""How much an engine may do at a time on a machine without a GPU."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig

from rltf.settings import Dtype, GeneratorSettings, ModelSettings

_SEQUENCES_PER_CORE = 32
_BLOCK_TOKENS = 32
"""vLLM divides the cache into blocks of so many tokens on CPUs, and keeps one of them for itself."""


def sized_for_cpus(
    settings: GeneratorSettings, model: ModelSettings, token_bytes: int | None, num_tokens: int, num_cores: int
) -> GeneratorSettings:
    """`settings` with as many sequences at a time as `num_cores` cores can work on, and a cache that holds them.

    `num_tokens` is the most that a prompt and its completion can have, and `token_bytes` is the size of a token in the
    cache. The cache is never larger than that of `settings`, and the same if `token_bytes` is None. It holds at least
    one sequence of `model.max_model_len` tokens, because vLLM does not start otherwise.
    """
    num_sequences = _SEQUENCES_PER_CORE * num_cores
    num_blocks = 1 + max(num_sequences * -(-num_tokens // _BLOCK_TOKENS), -(-model.max_model_len // _BLOCK_TOKENS))
    needed = settings.kv_cache_bytes if token_bytes is None else num_blocks * _BLOCK_TOKENS * token_bytes
    return settings.model_copy(
        update={"max_num_seqs": num_sequences, "kv_cache_bytes": min(needed, settings.kv_cache_bytes)}
    )


def cache_bytes_per_token(model: Path, dtype: Dtype) -> int | None:
    """Size of a token's keys and values in all layers of the model in a folder.

    This is an upper bound, because some kinds of attention need less. None if the folder's configuration does not say,
    or if the model has an encoder.
    """
    try:
        config = AutoConfig.from_pretrained(model)
    except ValueError:  # vLLM knows kinds of model that transformers does not
        return None
    if config.is_encoder_decoder:
        return None
    config = config.get_text_config()
    if not all(hasattr(config, name) for name in ("num_hidden_layers", "num_attention_heads", "hidden_size")):
        return None
    num_cached_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * num_cached_heads * head_size * getattr(torch, dtype).itemsize)

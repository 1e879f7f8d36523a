"""How much memory a generator needs, from the architecture of its model and the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig

from rltf.settings import Dtype, Engine, Settings
from rltf.transport.model_folder import hollow_model

# vLLM's default on a GPU.
GPU_BLOCK_SIZE = 16
# What `vllm.LLM` and our engine put into one step on a card of 70 GiB or more.
GPU_BATCHED_TOKENS = 16384
# The sampler's copies of the logits: as computed, scaled in float32, as probabilities, sorted for the nucleus.
_LOGITS_BYTES = 2 + 4 + 4 + 4


@dataclass(frozen=True, slots=True)
class GeneratorMemory:
    """Bytes in the memory of a generator's device, or of each of them if there are several.

    `weights`: the parameters in the type that the model computes in. Workers have equal parts of them, apart from a few
    small ones. `cache`: keys and values. `working`: the widest
    layer and the logits of one step, an estimate. `cache_needed`: what the cache would need so that
    `generator.max_num_seqs` completions of full length fit at once; with less, vLLM lets some wait.
    """

    weights: int
    cache: int
    working: int
    cache_needed: int

    @property
    def total(self) -> int:
        """The peak."""
        return self.weights + self.cache + self.working


@dataclass(frozen=True, slots=True)
class Attention:
    """What one layer keeps of a token: `num_values` numbers; of the last `window` tokens only, unless that is None."""

    num_values: int
    window: int | None


def generator_memory(config: PreTrainedConfig, settings: Settings) -> GeneratorMemory:
    """The memory of a generator of a model with `config`, on each of its GPUs."""
    size = settings.generator.tensor_parallel_size
    generator, max_model_len = settings.generator, settings.model.max_model_len
    dtype = torch.float32 if settings.model.dtype is Dtype.FLOAT32 else torch.bfloat16
    model = hollow_model(config, dtype)
    batched_tokens = min(GPU_BATCHED_TOKENS, generator.max_num_seqs * max_model_len)
    needed = generator.max_num_seqs * cache_bytes(
        attentions(config, size), max_model_len, itemsize=dtype.itemsize, batched_tokens=batched_tokens
    )
    return GeneratorMemory(
        weights=sum(parameter.nbytes for parameter in model.parameters()) // size,
        # The transformers engine keeps keys and values of exactly the tokens that there are.
        cache=generator.kv_cache_bytes // size if generator.engine is Engine.VLLM else needed,
        working=batched_tokens * _widest(model, size) * dtype.itemsize
        + generator.max_num_seqs * config.get_text_config().vocab_size * _LOGITS_BYTES,
        cache_needed=needed,
    )


def cache_bytes(
    layers: list[Attention], num_tokens: int, *, itemsize: int, batched_tokens: int, block_size: int = GPU_BLOCK_SIZE
) -> int:
    """The keys and values of a sequence of `num_tokens`, as vLLM allocates them: whole blocks.

    A layer holds ceil(n / block_size) blocks of block_size x `num_values` x itemsize bytes. With a sliding window, n is
    window - 1 and the tokens of a step, but at most num_tokens, and there is one more block, because the window may
    start within one (`max_memory_usage_bytes` in vllm/v1/kv_cache_interface.py).
    """
    total = 0
    for layer in layers:
        num_held = num_tokens if layer.window is None else min(num_tokens, layer.window - 1 + batched_tokens)
        num_blocks = -(-num_held // block_size) + (layer.window is not None)
        total += num_blocks * block_size * layer.num_values * itemsize
    return total


def attentions(config: PreTrainedConfig, num_workers: int = 1) -> list[Attention]:
    """What each layer of a decoder keeps of a token, in each of so many workers.

    With grouped queries, that is a key and a value for each key-value head: 2 x heads x head size. Workers have equal
    numbers of heads, at least one. With latent attention (MLA), it is one vector of kv_lora_rank + qk_rope_head_dim
    numbers for all heads, in every worker. A decoder beside an encoder keeps as much of each token of the prompt, for
    cross-attention, and of the completion, for its own.
    """
    text = config.get_text_config(decoder=True)
    num_heads = text.num_attention_heads
    if getattr(text, "kv_lora_rank", None):
        num_values = text.kv_lora_rank + text.qk_rope_head_dim
    else:
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // num_heads
        num_kept = max(1, (getattr(text, "num_key_value_heads", None) or num_heads) // num_workers)
        num_values = 2 * num_kept * head_dim
    return [Attention(num_values, window) for window in _windows(text)]


def _windows(text: PreTrainedConfig) -> list[int | None]:
    """The sliding window of each layer."""
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"] * text.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _widest(model: Any, num_workers: int) -> int:
    """Numbers for each token while the widest layer works: what goes in, twice what it makes, and the residual.

    (Engines fuse the two matrices of a gated layer, and its activation is a third tensor.) Workers split what it makes.
    """
    head = model.get_output_embeddings()
    layers = [part for part in model.modules() if part is not head and not isinstance(part, torch.nn.Embedding)]
    matrices = [weight for part in layers for weight in part.parameters(recurse=False) if weight.ndim == 2]
    widths: list[int] = [2 * min(matrix.shape) + 3 * max(matrix.shape) // num_workers for matrix in matrices]
    return max(widths)

"""CodeGen through vLLM, which has no such model: its weights map one-to-one onto those of GPT-J, which vLLM has.

Both are the same network (parallel attention and feed-forward, rotary embedding of the first dimensions of each head,
a biased output head). CodeGen's attention keeps queries, values and keys in one matrix of four blocks, one for each of
the devices it was once trained on: block b holds the queries, the values and the keys (in this order) of the b-th
quarter of the heads. GPT-J has three matrices. The renaming happens where vLLM loads weights, at the start and at every
update by whatever transport, so learner and checkpoints know CodeGen only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from vllm.model_executor.models.gpt_j import GPTJForCausalLM

_FUSED = ".attn.qkv_proj.weight"
_NUM_BLOCKS = 4
# Constants that checkpoints of 2022 carry along.
_BUFFERS = (".attn.causal_mask", ".attn.bias", ".attn.masked_bias")


class CodeGenForCausalLM(GPTJForCausalLM):  # type: ignore[misc]  # vLLM has no types here
    """vLLM's GPT-J, loading CodeGen's weights."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load CodeGen's parameters, by their Hugging Face names; returns vLLM's names of those loaded."""
        loaded: set[str] = super().load_weights(gptj_weights(weights))
        return loaded


def gptj_weights(weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """CodeGen's named parameters as GPT-J's; tensors but for queries, keys and values pass as they are."""
    for name, tensor in weights:
        if name.endswith(_FUSED):
            layer = name.removesuffix(_FUSED)
            for projection, part in zip("qvk", _unfuse(tensor), strict=True):
                yield f"{layer}.attn.{projection}_proj.weight", part
        elif not name.endswith(_BUFFERS):
            yield name, tensor


def _unfuse(fused: torch.Tensor) -> Iterator[torch.Tensor]:
    """Queries, values and keys, each [H, H], of a fused matrix [3 H, H]."""
    width = fused.shape[1]
    blocks = fused.reshape(_NUM_BLOCKS, 3, width // _NUM_BLOCKS, width)
    return (blocks[:, part].reshape(width, width) for part in range(3))

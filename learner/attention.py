"""Attention within packed rows: SDPA with a dense mask, or FlexAttention with the same tree as a block mask.

FlexAttention computes only the blocks of 128 x 128 tokens in which some query sees some key, and no mask of [L, L] is
in memory. Both give the same numbers. On a CPU it has no backward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward

from rltf.errors import UserError
from rltf.learner.packing import MicroBatch
from rltf.settings import AttnImplementation

# The side of a block. Rows are padded to a multiple of it.
BLOCK_TOKENS = 128
_NAME = "rltf_flex_attention"
# Forward and backward pass, one row or several, first static and then dynamic shapes, a critic of another size: each is
# a kernel of its own. Beyond the limit (by default 8), torch would silently compute the whole matrix of scores.
_MAX_KERNELS = 64


def uses_flex(model: Any, asked: AttnImplementation, device_type: str) -> bool:
    """Whether a Hugging Face `model` computes with FlexAttention on such a device. Raises UserError if it cannot."""
    is_supported = not model.config.is_encoder_decoder and bool(model._supports_flex_attn)
    if asked is AttnImplementation.FLEX_ATTENTION and not is_supported:
        raise UserError(
            f"learner.attn_implementation: {model.config.model_type} models do not support FlexAttention; set it to "
            "auto or sdpa"
        )
    if asked is AttnImplementation.AUTO:
        return is_supported and device_type == "cuda"
    return asked is AttnImplementation.FLEX_ATTENTION


def set_flex(model: Any) -> None:
    """Let `model` attend by FlexAttention. Its attention mask is then a `BlockMask`."""
    torch._dynamo.config.recompile_limit = _MAX_KERNELS
    model.set_attn_implementation(_NAME)


@contextmanager
def own_attention(model: Any, flex: bool) -> Iterator[None]:
    """Let a model that attends by FlexAttention use its own code, which defines what is right, in this context."""
    if flex:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if flex:
            set_flex(model)


def block_mask(batch: MicroBatch) -> BlockMask:
    """What `MicroBatch.attention_mask` says, as blocks: [R, 1, L, L], not in memory."""
    tree, branch = batch.tree, batch.branch

    def is_visible(row: torch.Tensor, _: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        same_tree = tree[row, query] == tree[row, key]
        visible_branch = (branch[row, key] == 0) | (branch[row, query] == branch[row, key])
        return (key <= query) & same_tree & visible_branch

    num_rows, length = tree.shape
    make = _compiled_mask() if tree.is_cuda else create_block_mask
    return make(is_visible, num_rows, None, length, length, device=tree.device, BLOCK_SIZE=BLOCK_TOKENS)


@functools.cache
def _compiled_mask() -> Any:
    """Otherwise, making the mask would take several copies of it in memory."""
    return torch.compile(create_block_mask)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: BlockMask,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """transformers' own function. Autocast, which makes the types of SDPA's inputs equal, does not know it."""
    dtype = value.dtype
    return flex_attention_forward(module, query.to(dtype), key.to(dtype), value, attention_mask, **options)


AttentionInterface.register(_NAME, _attend)

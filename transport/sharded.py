"""Tensors of which each rank of the learner holds a part (`learner.sharding`). A plain tensor is its own whole."""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor. If it is sharded, every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def assign(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Give `tensor` the values of the whole `value`. Each rank of a sharded one must have it, and takes its part."""
    if isinstance(tensor, DTensor):
        value = distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)
    tensor.copy_(value)

"""A model whose parameters are spread over the ranks, each gathered only while it computes (FSDP2).

Every decoder layer is gathered for its forward and its backward pass and freed after it, and so is everything outside
the layers (embeddings, output layer) for the whole pass. Gradients are summed over the ranks in float32, not averaged,
because the divisors of the loss count the whole update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from rltf.learner.ranks import Ranks
from rltf.transport.sharded import whole

F = TypeVar("F", bound=Callable[..., Any])


def layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The decoder layers of a Hugging Face model, and those of its encoder. Raises ValueError if it has none."""
    types = set(getattr(model, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in types]
    if not found:
        raise ValueError("transformers does not say what the layers of these models are (_no_split_modules)")
    return found


def shard(
    model: torch.nn.Module, mesh: DeviceMesh, compute_dtype: torch.dtype, parts: Sequence[torch.nn.Module] = ()
) -> None:
    """Move `model` to the devices of `mesh`, each of which gets a share. It is gathered in `compute_dtype`.

    Each of its `parts` is gathered by itself, and the rest together.
    """
    # Inputs keep their type: a temperature in bfloat16 would be another temperature.
    policy = MixedPrecisionPolicy(compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in [*parts, model]:
        # By default, the rest stays gathered after a forward pass, and would not follow a change of the shards.
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # only NCCL can divide while it adds


def as_forward(model: torch.nn.Module, function: F) -> F:
    """`function`, with the parameters of a sharded `model` gathered as for its own forward pass.

    It must return a tensor or a tuple of tensors.
    """
    name = f"forward_{function.__name__.strip('_')}"
    setattr(model, name, function)
    register_fsdp_forward_method(model, name)
    found: F = getattr(model, name)
    return found


def load_from_leader(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give a sharded `model` the weights `state` of rank 0, tensor by tensor. The others may give an empty one."""
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, dict(state), options=options)


def gathered(model: torch.nn.Module, state: Mapping[str, torch.Tensor], ranks: Ranks) -> dict[str, torch.Tensor]:
    """The `state` of a sharded `model` on the host of rank 0, tied tensors once; on the others, nothing."""
    again = dict(model.named_parameters(remove_duplicate=False)).keys() - dict(model.named_parameters()).keys()
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if name not in again:
            tensor = whole(value)
            if ranks.leads:
                found[name] = tensor.cpu()
    return found

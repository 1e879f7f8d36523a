"""The optimizer, and its learning-rate schedule."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch

from rltf.errors import UserError
from rltf.learner.compiling import check_compiler
from rltf.settings import OptimizerName, OptimSettings

# What torchao keeps in 8 bits: tensors of at least so many numbers, in whole blocks that share a scale. Each tensor has
# a table of the 256 values besides.
_MIN_QUANTIZED = 4096
_BLOCK = 256
_TABLE_BYTES = 256 * 4
_STEP_BYTES = 4


def learning_rate(settings: OptimSettings, step: int) -> float:
    """The rate after `step` updates: a linear rise over `warmup_steps`, a linear fall to 0 at `decay_steps` if set."""
    rise = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    fall = max(0.0, 1.0 - step / settings.decay_steps) if settings.decay_steps else 1.0
    return settings.learning_rate * rise * fall


def make_optimizer(trained: Mapping[str, torch.nn.Parameter], settings: OptimSettings) -> torch.optim.Optimizer:
    """AdamW without decay of biases and normalization gains, the parameters with fewer than two dimensions.

    Its learning rate is 0. Raises UserError as `check_optimizer`, and without a compiler, which 8 bits need.
    """
    parameters = list(trained.values())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.name is OptimizerName.ADAMW:
        return torch.optim.AdamW(groups, lr=0.0, fused=True)
    check_optimizer(settings)
    check_compiler("learner.optim.name adamw_8bit", parameters[0].device.type)
    from torchao.optim import AdamW8bit  # an extra that few need

    optimizer: torch.optim.Optimizer = AdamW8bit(groups, lr=0.0, block_size=_BLOCK)
    return optimizer


def check_optimizer(settings: OptimSettings) -> None:
    """Raise UserError if the package of the optimizer is missing."""
    if settings.name is OptimizerName.ADAMW_8BIT and importlib.util.find_spec("torchao") is None:
        raise UserError(
            "learner.optim.name adamw_8bit needs the package torchao: pip install 'torchao>=0.18', or set it to adamw"
        )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Make the next updates with this rate."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):  # part of a compiled function, which a number would be too
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def blank_state(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
    """The state of a parameter before its first update, to load another into."""
    if isinstance(optimizer, torch.optim.AdamW):
        moments = {key: torch.zeros_like(parameter, requires_grad=False) for key in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.zeros((), device=parameter.device), **moments}
    eight_bit: Any = optimizer
    signed = {"exp_avg": True, "exp_avg_sq": False}
    return {
        "step": torch.tensor(0.0),
        **{key: eight_bit._new_buffer(parameter, value) for key, value in signed.items()},
    }


def state_bytes(trained: Mapping[str, torch.nn.Parameter], settings: OptimSettings, num_workers: int = 1) -> int:
    """The size of the optimizer's state on each of `num_workers` that share the parameters."""
    return sum(_moment_bytes(p.numel() // num_workers, settings.name) + _STEP_BYTES for p in trained.values())


def _moment_bytes(count: int, name: OptimizerName) -> int:
    """The size of two moments of `count` numbers."""
    if name is OptimizerName.ADAMW or count < _MIN_QUANTIZED or count % _BLOCK:
        return 2 * 4 * count
    return 2 * (count + 4 * count // _BLOCK + _TABLE_BYTES)

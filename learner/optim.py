"""The optimizer, and its learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from rltf.settings import OptimSettings


def learning_rate(settings: OptimSettings, step: int) -> float:
    """The rate after `step` updates: a linear rise over `warmup_steps`, a linear fall to 0 at `decay_steps` if set."""
    rise = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    fall = max(0.0, 1.0 - step / settings.decay_steps) if settings.decay_steps else 1.0
    return settings.learning_rate * rise * fall


def make_optimizer(trained: Mapping[str, torch.nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """AdamW without decay of biases and normalization gains, the parameters with fewer than two dimensions."""
    parameters = list(trained.values())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, fused=True)

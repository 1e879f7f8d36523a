"""An objective: Tapered Off-Policy REINFORCE (Le Roux et al. 2025) on advantages relative to the mean of the update."""

from __future__ import annotations

import torch

from rltf.learner.advantages import RewardedTokens
from rltf.learner.policy_losses import TokenInputs
from rltf.settings import PRESETS, AdvantageSettings, Algorithm, LossSettings, Preset


def policy_loss(inputs: TokenInputs, settings: LossSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """`log p`; for negative advantages `sg(min(p / q, 1)) log p`, with `q` under the weights that sampled the token."""
    ratio = (inputs.logprobs - inputs.behavior).detach().exp()
    is_negative = inputs.advantage < 0
    weight = torch.where(is_negative, ratio.clamp(max=1.0), torch.ones_like(ratio))
    return weight * inputs.logprobs, is_negative & (ratio > 1)


def advantages(inputs: RewardedTokens, settings: AdvantageSettings) -> torch.Tensor:
    """The reward of each program, minus the mean of all programs of the update, on all of its tokens."""
    num_programs = int(inputs.sequence.max()) + 1
    rewards = inputs.rewards.new_zeros(num_programs).index_add(0, inputs.sequence, inputs.rewards)
    return (rewards - rewards.mean())[inputs.sequence]


_RLOO = PRESETS[Algorithm.RLOO]
PRESET = Preset(
    rewards={**_RLOO.rewards, "outcome": "sign", "baseline": "none", "placement": "last"},
    loss={**_RLOO.loss, "policy_loss": "topr:policy_loss", "rollout_is_threshold": None},
    advantage={**_RLOO.advantage, "estimator": "topr:advantages"},
)

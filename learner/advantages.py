"""From the rewards on tokens to their advantages, one completion after the other.

With rewards `R_t`, values `V_t` of the state that predicts token `t`, and `V` 0 after the last token:

    return      A_t = sum over s >= t of gamma^(s - t) R_s
    gae         d_t = R_t + gamma V_(t+1) - V_t,  A_t = d_t + gamma lam A_(t+1)    (Schulman et al. 2016, equation 16)

The value head learns `A_t + V_t`. Whitening shifts and scales the advantages of a whole update, never those of a
micro-batch. A function of the user, `package.module:name`, has the type `EstimatorFunction`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from rltf.errors import UserError
from rltf.learner.custom import call, check_column
from rltf.settings import AdvantageSettings

WHITEN_EPSILON = 1e-8
SETTING = "learner.advantage.estimator"


@dataclass(frozen=True, slots=True, eq=False)
class RewardedTokens:
    """The `M` sampled tokens of an update, completion after completion.

    `rewards` [M] are the token weights, less the KL penalty of `kl_reward_coef`. `logprobs` [M] are those of the old
    policy, and `sequence` [M] numbers the completions from 0.
    """

    rewards: torch.Tensor
    logprobs: torch.Tensor
    sequence: torch.Tensor


EstimatorFunction = Callable[[RewardedTokens, AdvantageSettings], torch.Tensor]
"""The advantage of each token [M], a pure function."""


def custom_advantages(name: str, inputs: RewardedTokens, settings: AdvantageSettings) -> torch.Tensor:
    """What the user's function returns [M]. Raises UserError if it fails."""
    return check_column(call(name, SETTING, inputs, settings), inputs.rewards, f"{SETTING} {name}").detach()


def check_estimator(name: str, settings: AdvantageSettings) -> None:
    """Call the user's function on made-up tokens. Raises UserError if it fails or returns a number that is not finite.

    One of the completions has one token, and one earns nothing.
    """
    rewards = torch.tensor([0.0, 0.0, 1.0, -0.5, 0.0, 0.0])
    sequence = torch.tensor([0, 0, 0, 1, 2, 2])
    found = custom_advantages(name, RewardedTokens(rewards, torch.full((6,), -0.5), sequence), settings)
    if not found.isfinite().all():
        raise UserError(f"{SETTING} {name}: an advantage is not finite on made-up tokens")


def discounted_returns(rewards: torch.Tensor, lengths: Sequence[int], gamma: float) -> torch.Tensor:
    """The return from each token on [M], of completions of `lengths` tokens with `rewards` [M]."""
    return generalized_advantages(rewards, torch.zeros_like(rewards), lengths, gamma=gamma, lam=1.0)


def generalized_advantages(
    rewards: torch.Tensor, values: torch.Tensor, lengths: Sequence[int], *, gamma: float, lam: float
) -> torch.Tensor:
    """The advantage of each token [M], of completions of `lengths` tokens with `rewards` [M] and `values` [M]."""
    advantages = torch.empty_like(rewards)
    ends = list(accumulate(lengths))
    for start, end in zip([0, *ends], ends, strict=False):
        following = advantage = 0.0
        own_rewards, own_values = rewards[start:end].tolist(), values[start:end].tolist()
        for t in range(end - start - 1, -1, -1):
            advantage = own_rewards[t] + gamma * following - own_values[t] + gamma * lam * advantage
            following = own_values[t]
            advantages[start + t] = advantage
    return advantages


def whitened(advantages: torch.Tensor) -> torch.Tensor:
    """`advantages` [M] with mean 0 and variance 1; a single one becomes 0."""
    if len(advantages) < 2:
        return torch.zeros_like(advantages)
    variance, mean = torch.var_mean(advantages, correction=1)
    return (advantages - mean) * torch.rsqrt(variance + WHITEN_EPSILON)


def value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip_range: float | None
) -> torch.Tensor:
    """Half the squared error of each value [N].

    With a `clip_range`, the larger of two errors: that of the value, and that of the value moved by at most the range.
    """
    error = (values - returns).square()
    if clip_range is not None:
        moved = old_values + (values - old_values).clamp(-clip_range, clip_range)
        error = torch.maximum(error, (moved - returns).square())
    return 0.5 * error

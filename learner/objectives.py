"""The loss of one update, from the log-probabilities of its tokens.

    L = supervised_weight * L_sl + rl_weight * (L_coarse + L_fine + L_adaptive + L_static) + kl_loss_coef * L_kl

Every term is a weighted sum over tokens. A sampled token `t` has log-probability `l_t` under the policy and `b_t` under
the weights that sampled it. Its token weight `a_t`, one per granularity, is the reward minus its baseline, times alpha
(Liu et al. 2023, equations 4 to 9):

    without correction          -a_t * l_t
    importance correction       -a_t * min(r_t, cap) * l_t,   r_t = exp(l_t - b_t) held constant
    with a clip range as well   max(-a_t * r'_t, -a_t * clip(r'_t, 1 - low, 1 + high)),   r'_t = min(r_t, cap)  (PPO)

Reference programs contribute `-l_t`. The divisors of `LossAggMode` count the whole update, not a micro-batch, which
makes gradient accumulation exact. RLTF's released code alternates supervised and reinforcement micro-steps and sums
their gradients. That is the same update up to a constant factor, to which AdamW is invariant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from learner.data import Experience, TokenSequence
from rewards import Granularity
from settings import LossAggMode, LossSettings


@dataclass(frozen=True, slots=True, eq=False)
class TokenTable:
    """What the objective needs to know about the `M` completion tokens of an update, in the order of its sequences.

    `weights` [G, M] are token weights, `behavior` [M] log-probabilities at sampling, `temperature` [M] that at which
    the policy is evaluated (1 for reference programs). `sampled` [M] is false for reference programs. `scale` [M] is 1
    over the divisor of `LossAggMode`.
    """

    weights: torch.Tensor
    behavior: torch.Tensor
    temperature: torch.Tensor
    sampled: torch.Tensor
    scale: torch.Tensor

    def to(self, device: torch.device) -> TokenTable:
        """The same table on `device`."""
        return TokenTable(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))

    def select(self, source: torch.Tensor) -> TokenTable:
        """The tokens of one micro-batch."""
        return TokenTable(*(getattr(self, name)[..., source] for name in self.__slots__))


def contributing(experiences: Sequence[Experience], objective: LossSettings) -> list[Experience]:
    """The experiences with a gradient; samples of a rollout with equal rewards often have only token weights of 0.

    Raises ValueError for an experience whose arrays do not fit together or hold a number that is not finite.
    """
    for experience in experiences:
        _check(experience)
    if objective.kl_loss_coef:
        return list(experiences)
    return [e for e in experiences if objective.rl_weight and e.token_weights.any()]


def token_table(
    experiences: Sequence[Experience],
    references: Sequence[TokenSequence],
    *,
    num_sampled_sequences: int,
    num_sampled_tokens: int,
    temperature: float,
    loss_agg_mode: LossAggMode,
    dtype: torch.dtype = torch.float32,
) -> TokenTable:
    """The table of `experiences` followed by `references`.

    `temperature` is the one at which experiences were sampled. `num_sampled_*` include the experiences of the update
    that have no gradient, because the divisors do.
    """
    lengths = np.array([len(e.token_ids) for e in experiences] + [len(r.token_ids) for r in references])
    num_sampled = sum(len(e.token_ids) for e in experiences)
    num_supervised = int(lengths.sum()) - num_sampled
    sampled = np.arange(num_sampled + num_supervised) < num_sampled
    weights = np.zeros((len(Granularity), len(sampled)))
    behavior = np.zeros(len(sampled))
    if experiences:
        weights[:, :num_sampled] = np.concatenate([e.token_weights for e in experiences], axis=1)
        behavior[:num_sampled] = np.concatenate([e.logprobs for e in experiences])
    num_tokens = np.where(sampled, num_sampled_tokens, num_supervised)
    num_sequences = np.where(sampled, num_sampled_sequences, len(references))
    match loss_agg_mode:
        case LossAggMode.TOKEN_MEAN:
            scale = 1 / num_tokens
        case LossAggMode.SEQ_MEAN_TOKEN_MEAN:
            scale = 1 / (num_sequences * np.repeat(lengths, lengths))
        case LossAggMode.SEQ_MEAN_TOKEN_SUM:
            scale = 1 / num_sequences
    return TokenTable(
        weights=torch.from_numpy(weights).to(dtype),
        behavior=torch.from_numpy(behavior).to(dtype),
        temperature=torch.from_numpy(np.where(sampled, temperature, 1.0)).to(dtype),
        sampled=torch.from_numpy(sampled),
        scale=torch.from_numpy(scale).to(dtype),
    )


def _check(experience: Experience) -> None:
    num_tokens = len(experience.token_ids)
    expected = (len(Granularity), num_tokens)
    if experience.token_weights.shape != expected or experience.logprobs.shape != (num_tokens,):
        raise ValueError(
            f"experience {experience.completion_id}: token_weights {experience.token_weights.shape} or logprobs "
            f"{experience.logprobs.shape} do not match {num_tokens} tokens and {len(Granularity)} granularities"
        )
    if not (np.isfinite(experience.token_weights).all() and np.isfinite(experience.logprobs).all()):
        raise ValueError(f"experience {experience.completion_id}: a token weight or log-probability is not finite")


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """Unweighted terms of the loss of one micro-batch. `rl` [G] holds one per granularity."""

    supervised: torch.Tensor
    rl: torch.Tensor
    kl: torch.Tensor


def loss(
    logprobs: torch.Tensor, table: TokenTable, objective: LossSettings, reference_logprobs: torch.Tensor | None = None
) -> tuple[torch.Tensor, Terms]:
    """The loss of the `N` tokens of a micro-batch, and its terms. The loss of an update is the sum over micro-batches.

    `logprobs` [N] are the policy's, `table` is that of the same tokens. `reference_logprobs` [N] are those of the
    policy that RL started from; they are needed if `objective.kl_loss_coef` is not 0.
    """
    zero = torch.zeros_like(logprobs)
    sampled_scale = torch.where(table.sampled, table.scale, zero)
    supervised = -((table.scale - sampled_scale) * logprobs).sum()
    rl = ((table.weights * sampled_scale) * _policy_gradient(logprobs, table, objective)).sum(-1)
    if objective.kl_loss_coef:
        if reference_logprobs is None:
            raise ValueError("the KL term needs the reference policy's log-probabilities")
        # An unbiased, never negative estimate of KL(policy || reference) on sampled tokens (Schulman 2020, "k3").
        difference = torch.where(table.sampled, reference_logprobs - logprobs, zero)
        kl = (sampled_scale * (difference.exp() - difference - 1)).sum()
    else:
        kl = zero.sum()
    total = objective.supervised_weight * supervised + objective.rl_weight * rl.sum() + objective.kl_loss_coef * kl
    return total, Terms(supervised.detach(), rl.detach(), kl.detach())


def _policy_gradient(logprobs: torch.Tensor, table: TokenTable, objective: LossSettings) -> torch.Tensor:
    """The factor [G or 1, N] of the token weights."""
    if objective.rollout_is_threshold is None:
        return -logprobs[None]
    log_ratio = torch.where(table.sampled, logprobs - table.behavior, torch.zeros_like(logprobs))
    if objective.clip_ratio_low is None or objective.clip_ratio_high is None:
        weight = log_ratio.detach().exp().clamp(max=objective.rollout_is_threshold)
        return -(weight * logprobs)[None]
    ratio = log_ratio.exp().clamp(max=objective.rollout_is_threshold)
    clipped = ratio.clamp(1 - objective.clip_ratio_low, 1 + objective.clip_ratio_high)
    # max(-a r, -a clip(r)) is -a min(r, clip(r)) for a >= 0, and -a max(r, clip(r)) for a < 0.
    return -torch.where(table.weights >= 0, torch.minimum(ratio, clipped), torch.maximum(ratio, clipped))

"""The loss of one update, from the log-probabilities of its tokens.

    L = supervised_weight * L_sl + rl_weight * (L_coarse + L_fine + L_adaptive + L_static) + kl_loss_coef * L_kl

Every term is a weighted sum over tokens. For a sampled token `t` with log-probability `l_t` under the policy, `b_t`
under the weights that sampled it, and token weight `a_t` (one row a granularity, the reward minus its baseline times
alpha; Liu et al. 2023, equations 4 to 9):

    without correction          -a_t * l_t
    importance correction       -a_t * min(r_t, cap) * l_t,   r_t = exp(l_t - b_t) held constant
    with a clip range as well   max(-a_t * r'_t, -a_t * clip(r'_t, 1 - low, 1 + high)),   r'_t = min(r_t, cap)  (PPO)

Reference programs contribute `-l_t`. The divisors of `LossAggMode` are those of the whole update, not of a
micro-batch, so that gradient accumulation is exact. RLTF's released code alternates supervised and reinforcement
micro-steps and sums their gradients: the same update up to a constant factor, which AdamW does not see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from learner.experience import Experience
from learner.packing import TokenSequence
from rewards import Granularity
from settings import LossAggMode, LossSettings


@dataclass(frozen=True, slots=True, eq=False)
class TokenTable:
    """What the objective knows of the `M` completion tokens of an update, in the order of its sequences.

    `weights` [G, M], `behaviour` [M] log-probabilities when sampled, `temperature` [M] at which the policy is evaluated
    (1 for reference programs), `sampled` [M] bool, `scale` [M] one over the divisor of the normalisation.
    """

    weights: torch.Tensor
    behaviour: torch.Tensor
    temperature: torch.Tensor
    sampled: torch.Tensor
    scale: torch.Tensor

    def to(self, device: torch.device) -> TokenTable:
        """The same table on `device`."""
        return TokenTable(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))

    def select(self, source: torch.Tensor) -> TokenTable:
        """The tokens of one micro-batch."""
        return TokenTable(
            self.weights[:, source],
            self.behaviour[source],
            self.temperature[source],
            self.sampled[source],
            self.scale[source],
        )


def contributing(experiences: Sequence[Experience], objective: LossSettings) -> list[Experience]:
    """Those with a gradient: a group whose samples all have the same reward often leaves token weights of 0 only.

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

    `temperature` is the one at which experiences were sampled; `num_sampled_*` count those of the update that do not
    contribute as well, since the normalisation does.
    """
    lengths = np.array([len(e.token_ids) for e in experiences] + [len(r.token_ids) for r in references])
    num_sampled = sum(len(e.token_ids) for e in experiences)
    num_supervised = int(lengths.sum()) - num_sampled
    sampled = np.arange(num_sampled + num_supervised) < num_sampled
    weights = np.zeros((len(Granularity), len(sampled)))
    behaviour = np.zeros(len(sampled))
    if experiences:
        weights[:, :num_sampled] = np.concatenate([e.token_weights for e in experiences], axis=1)
        behaviour[:num_sampled] = np.concatenate([e.logprobs for e in experiences])
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
        behaviour=torch.from_numpy(behaviour).to(dtype),
        temperature=torch.from_numpy(np.where(sampled, temperature, 1.0)).to(dtype),
        sampled=torch.from_numpy(sampled),
        scale=torch.from_numpy(scale).to(dtype),
    )


def _check(experience: Experience) -> None:
    num_tokens = len(experience.token_ids)
    expected = (len(Granularity), num_tokens)
    if experience.token_weights.shape != expected or experience.logprobs.shape != (num_tokens,):
        raise ValueError(
            f"experience {experience.completion_id}: token_weights {experience.token_weights.shape} and logprobs "
            f"{experience.logprobs.shape} do not fit {num_tokens} tokens and {len(Granularity)} granularities"
        )
    if not (np.isfinite(experience.token_weights).all() and np.isfinite(experience.logprobs).all()):
        raise ValueError(f"experience {experience.completion_id}: a token weight or log-probability is not finite")


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """Parts of the loss of one micro-batch, unweighted. `rl` [G] holds one term a granularity."""

    supervised: torch.Tensor
    rl: torch.Tensor
    kl: torch.Tensor


def loss(
    logprobs: torch.Tensor, table: TokenTable, objective: LossSettings, reference_logprobs: torch.Tensor | None = None
) -> tuple[torch.Tensor, Terms]:
    """The share of the update's loss that the `N` tokens of a micro-batch have, and its terms.

    `logprobs` [N] of the policy, `table` of the same tokens, `reference_logprobs` [N] of the policy that RL started
    from, needed where `objective.kl_loss_coef` is not 0. The loss of an update is the sum over its micro-batches.
    """
    zero = torch.zeros_like(logprobs)
    sampled_scale = torch.where(table.sampled, table.scale, zero)
    supervised = -((table.scale - sampled_scale) * logprobs).sum()
    rl = ((table.weights * sampled_scale) * _policy_gradient(logprobs, table, objective)).sum(-1)
    if objective.kl_loss_coef:
        if reference_logprobs is None:
            raise ValueError("the KL term needs the reference policy's log-probabilities")
        # Unbiased, never negative estimate of KL(policy || reference) on sampled tokens (Schulman 2020, "k3").
        difference = torch.where(table.sampled, reference_logprobs - logprobs, zero)
        kl = (sampled_scale * (difference.exp() - difference - 1)).sum()
    else:
        kl = zero.sum()
    total = objective.supervised_weight * supervised + objective.rl_weight * rl.sum() + objective.kl_loss_coef * kl
    return total, Terms(supervised.detach(), rl.detach(), kl.detach())


def _policy_gradient(logprobs: torch.Tensor, table: TokenTable, objective: LossSettings) -> torch.Tensor:
    """The factor [G or 1, N] that token weights multiply."""
    if objective.rollout_is_threshold is None:
        return -logprobs[None]
    log_ratio = torch.where(table.sampled, logprobs - table.behaviour, torch.zeros_like(logprobs))
    if objective.clip_ratio_low is None or objective.clip_ratio_high is None:
        weight = log_ratio.detach().exp().clamp(max=objective.rollout_is_threshold)
        return -(weight * logprobs)[None]
    ratio = log_ratio.exp().clamp(max=objective.rollout_is_threshold)
    clipped = ratio.clamp(1 - objective.clip_ratio_low, 1 + objective.clip_ratio_high)
    # max(-a r, -a clip(r)) = -a min(r, clip(r)) where a >= 0, and -a max(r, clip(r)) where a < 0.
    return -torch.where(table.weights >= 0, torch.minimum(ratio, clipped), torch.maximum(ratio, clipped))

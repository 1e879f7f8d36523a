"""The loss of one update, from the log-probabilities of its tokens.

    L = supervised_weight * L_sl + rl_weight * L_rl + kl_loss_coef * L_kl + vf_coef * L_value

Every term is a weighted sum over tokens. A sampled token has log-probability `l` under the policy, `b` under the
weights that sampled it, `f` under the policy that RL started from, and an advantage `A`:

    L_rl        -A rho, with rho of the policy loss (`learner.policy_losses`)
    L_kl        k2 = (l - f)^2 / 2 or k3 = exp(f - l) - (f - l) - 1 (Schulman 2020), times sg(min(exp(l - b), C))
    L_value     (V - return)^2 / 2, clipped (`learner.advantages`)

In RLTF, `A` is the sum of token weights, one per granularity: the reward minus its baseline, times alpha (Liu et al.
2023, equations 4 to 9). Reference programs contribute `-l`. The divisors of `LossAggMode` count the whole update, not a
micro-batch, which makes gradient accumulation exact. RLTF's released code alternates supervised and reinforcement
micro-steps and sums their gradients. That is the same update up to a constant factor, to which AdamW is invariant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rltf.learner.advantages import value_loss
from rltf.learner.data import Experience, TokenSequence
from rltf.learner.error_classes import error_class
from rltf.learner.policy_losses import TokenInputs, policy_factor
from rltf.rewards import Granularity
from rltf.sandbox.verdict import Outcome
from rltf.settings import AdvantageEstimator, AdvantageSettings, KlLossType, LossAggMode, LossSettings


@dataclass(frozen=True, slots=True, eq=False)
class TokenTable:
    """What the objective needs to know about the `M` completion tokens of an update, in the order of its sequences.

    `weights` [R, M] are what `-rho` of a token is multiplied by, in rows that are summed: the token weights of each
    granularity, or one row of estimated advantages. `behavior` [M] are log-probabilities at sampling, `temperature` [M]
    that at which the policy is evaluated (1 for reference programs). `sampled` [M] is false for reference programs.
    `scale` [M] is 1 over the divisor of `LossAggMode`, `sequence` [M] numbers the sequences, and `error_class` [M] is
    that of the outcome of a token's program (`learner.error_classes`); reference programs count as passed.

    The others come from forward passes before the update (`learner.estimates`), if the objective needs them: log-
    probabilities under the `old` policy and under the `reference` that RL started from, the `values` of the value head
    before the update, the `returns` that it learns, and the probability that the `critic` gives the `error_class`, all
    [M].
    """

    weights: torch.Tensor
    behavior: torch.Tensor
    temperature: torch.Tensor
    sampled: torch.Tensor
    scale: torch.Tensor
    sequence: torch.Tensor
    error_class: torch.Tensor
    old: torch.Tensor | None = None
    reference: torch.Tensor | None = None
    values: torch.Tensor | None = None
    returns: torch.Tensor | None = None
    critic: torch.Tensor | None = None

    def to(self, device: torch.device) -> TokenTable:
        """The same table on `device`."""
        return self._map(lambda column: column.to(device, non_blocking=True))

    def select(self, source: torch.Tensor) -> TokenTable:
        """The tokens of one micro-batch."""
        return self._map(lambda column: column[..., source])

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> TokenTable:
        columns = {name: getattr(self, name) for name in self.__slots__}
        changed: Any = {name: None if column is None else change(column) for name, column in columns.items()}
        return TokenTable(**changed)


def contributing(
    experiences: Sequence[Experience], objective: LossSettings, advantage: AdvantageSettings
) -> list[Experience]:
    """The experiences with a gradient; samples of a rollout with equal rewards often have only token weights of 0.

    With an estimator other than `outcome`, token weights of 0 are rewards like any other, and whitening shifts them.

    Raises ValueError for an experience whose arrays do not fit together or hold a number that is not finite.
    """
    for experience in experiences:
        _check(experience)
    if objective.kl_loss_coef:
        return list(experiences)
    if advantage.estimator is not AdvantageEstimator.OUTCOME or advantage.whiten:
        return list(experiences) if objective.rl_weight else []
    return [e for e in experiences if objective.rl_weight and e.token_weights.any()]


def token_table(
    experiences: Sequence[Experience],
    references: Sequence[TokenSequence],
    *,
    num_sampled_sequences: int,
    num_sampled_tokens: int,
    temperature: float,
    loss_agg_mode: LossAggMode,
    max_tokens: int,
    dtype: torch.dtype = torch.float32,
) -> TokenTable:
    """The table of `experiences` followed by `references`.

    `temperature` is the one at which experiences were sampled. `num_sampled_*` include the experiences of the update
    that have no gradient, because the divisors do. `max_tokens` is the limit of a completion.
    """
    lengths = np.array([e.num_sampled for e in experiences] + [len(r.token_ids) for r in references], np.int64)
    num_sampled = sum(e.num_sampled for e in experiences)
    num_supervised = int(lengths.sum()) - num_sampled
    sampled = np.arange(num_sampled + num_supervised) < num_sampled
    weights = np.zeros((len(Granularity), len(sampled)))
    behavior = np.zeros(len(sampled))
    if experiences:
        weights[:, :num_sampled] = np.concatenate([e.token_weights for e in experiences], axis=1)
        behavior[:num_sampled] = np.concatenate([e.logprobs for e in experiences])
    classes = [error_class(e.outcome) for e in experiences] + [error_class(Outcome.PASSED)] * len(references)
    num_tokens = np.where(sampled, num_sampled_tokens, num_supervised)
    num_sequences = np.where(sampled, num_sampled_sequences, len(references))
    match loss_agg_mode:
        case LossAggMode.TOKEN_MEAN:
            scale = 1 / num_tokens
        case LossAggMode.SEQ_MEAN_TOKEN_MEAN:
            scale = 1 / (num_sequences * np.repeat(lengths, lengths))
        case LossAggMode.SEQ_MEAN_TOKEN_SUM:
            scale = 1 / num_sequences
        case LossAggMode.SEQ_MEAN_TOKEN_SUM_NORM:
            scale = 1 / (num_sequences * max_tokens)
    return TokenTable(
        weights=torch.from_numpy(weights).to(dtype),
        behavior=torch.from_numpy(behavior).to(dtype),
        temperature=torch.from_numpy(np.where(sampled, temperature, 1.0)).to(dtype),
        sampled=torch.from_numpy(sampled),
        scale=torch.from_numpy(scale).to(dtype),
        sequence=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)),
        error_class=torch.from_numpy(np.repeat(np.array(classes, np.int64), lengths)),
    )


def _check(experience: Experience) -> None:
    num_tokens = len(experience.sequence.learned)
    expected = (len(Granularity), num_tokens)
    if experience.token_weights.shape != expected or experience.logprobs.shape != (num_tokens,):
        raise ValueError(
            f"experience {experience.completion_id}: token_weights {experience.token_weights.shape} or logprobs "
            f"{experience.logprobs.shape} do not match {num_tokens} sampled tokens and {len(Granularity)} granularities"
        )
    if not (np.isfinite(experience.token_weights).all() and np.isfinite(experience.logprobs).all()):
        raise ValueError(f"experience {experience.completion_id}: a token weight or log-probability is not finite")


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """Unweighted terms of the loss of one micro-batch, and the number of tokens that the clip range holds back.

    `rl` [G] holds one per granularity. Estimated advantages, which mix the granularities, are all under the first.
    """

    supervised: torch.Tensor
    rl: torch.Tensor
    kl: torch.Tensor
    value: torch.Tensor
    num_clipped: torch.Tensor


def loss(
    logprobs: torch.Tensor,
    table: TokenTable,
    objective: LossSettings,
    advantage: AdvantageSettings,
    values: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Terms]:
    """The loss of the `N` tokens of a micro-batch, and its terms. The loss of an update is the sum over micro-batches.

    `logprobs` [N] are the policy's, `table` is that of the same tokens. `values` [N] are those of the value head, which
    the estimator `gae` needs.
    """
    zero = torch.zeros_like(logprobs)
    sampled_scale = torch.where(table.sampled, table.scale, zero)
    supervised = -((table.scale - sampled_scale) * logprobs).sum()
    inputs = TokenInputs(
        logprobs,
        old=torch.where(table.sampled, table.behavior if table.old is None else table.old, logprobs.detach()),
        behavior=torch.where(table.sampled, table.behavior, logprobs.detach()),
        advantage=table.weights.sum(0),
        sequence=table.sequence,
    )
    factor, is_clipped = policy_factor(inputs, objective)
    rl = ((table.weights * sampled_scale) * -factor[None]).sum(-1)
    kl = _kl(inputs, table, sampled_scale, objective) if objective.kl_loss_coef else zero.sum()
    value = zero.sum()
    if values is not None:
        value = (sampled_scale * _value_loss(values, table, advantage)).sum()
    total = objective.supervised_weight * supervised + objective.rl_weight * rl.sum() + objective.kl_loss_coef * kl
    if values is not None:
        total = total + advantage.vf_coef * value
    rows = torch.nn.functional.pad(rl.detach(), (0, len(Granularity) - len(rl)))
    return total, Terms(supervised.detach(), rows, kl.detach(), value.detach(), is_clipped.sum())


def _value_loss(values: torch.Tensor, table: TokenTable, advantage: AdvantageSettings) -> torch.Tensor:
    if table.values is None or table.returns is None:
        raise ValueError("the value head needs the returns that it learns")
    return value_loss(values, table.values, table.returns, advantage.cliprange_value)


def _kl(inputs: TokenInputs, table: TokenTable, sampled_scale: torch.Tensor, objective: LossSettings) -> torch.Tensor:
    if table.reference is None:
        raise ValueError("the KL term needs the reference policy's log-probabilities")
    difference = torch.where(table.sampled, table.reference - inputs.logprobs, torch.zeros_like(inputs.logprobs))
    match objective.kl_loss_type:
        case KlLossType.K2:
            estimate = 0.5 * difference.square()
        case KlLossType.K3:
            estimate = difference.exp() - difference - 1
    if objective.rollout_is_threshold is not None:
        ratio = (inputs.logprobs - inputs.behavior).detach().exp()
        estimate = estimate * ratio.clamp(max=objective.rollout_is_threshold)
    return (sampled_scale * estimate).sum()

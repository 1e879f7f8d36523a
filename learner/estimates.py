"""What an objective needs to know about the tokens of an update before its gradient: one more forward pass.

Log-probabilities under the old policy and under the policy that RL started from, the values of the value head, what the
critic says about each token, and the advantages that come from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from rltf.learner.advantages import (
    RewardedTokens,
    custom_advantages,
    discounted_returns,
    generalized_advantages,
    whitened,
)
from rltf.learner.critic import ErrorCritic, true_class_probabilities
from rltf.learner.encoder_decoder import EncoderDecoderBatch
from rltf.learner.objectives import TokenTable
from rltf.learner.packing import MicroBatch
from rltf.learner.policy import Policy
from rltf.learner.ranks import ALONE, Ranks
from rltf.settings import AdvantageEstimator, AdvantageSettings

Batches = Sequence[MicroBatch] | Sequence[EncoderDecoderBatch]
_Pass = Callable[[MicroBatch | EncoderDecoderBatch, TokenTable], torch.Tensor]
"""A forward pass: one number [N] for each token of a micro-batch with its part of the table."""


@torch.no_grad()
def look_up(
    table: TokenTable,
    batches: Batches,
    policy: Policy,
    ranks: Ranks = ALONE,
    old: Policy | None = None,
    reference: Policy | None = None,
    critic: ErrorCritic | None = None,
) -> TokenTable:
    """`table` with what the given models say about each token, and the values of `policy`, if it has a value head.

    `batches` are those of this rank. The result is the same on all `ranks`.
    """
    passes: dict[str, _Pass] = {}
    if old is not None:
        passes["old"] = lambda batch, part: old.forward(batch, part.temperature).logprobs
    if reference is not None:
        passes["reference"] = lambda batch, part: reference.forward(batch, part.temperature).logprobs
    if policy.value_head is not None:
        passes["values"] = lambda batch, _: policy.values(policy.hidden_states(batch))
    if critic is not None:
        passes["critic"] = lambda batch, part: true_class_probabilities(critic.token_logits(batch), part.error_class)
    found = {name: torch.zeros_like(table.behavior) for name in passes}
    for batch in batches if found else ():
        moved = batch.to(policy.device)
        part = table.select(moved.source)
        for name, column in found.items():
            column[moved.source] = passes[name](moved, part)
    for column in found.values():
        ranks.add(column)  # each token is in a micro-batch of one rank, and 0 on the others
    return replace(table, **found)


def estimate(table: TokenTable, settings: AdvantageSettings, kl_coef: float) -> TokenTable:
    """`table` with the advantages of sampled tokens in place of their rewards, and the returns for the value head.

    `kl_coef` multiplies the penalty on each token for its log-ratio to the policy that RL started from.
    """
    if table.critic is not None:
        table = replace(table, weights=table.weights * table.critic)
    if settings.estimator is AdvantageEstimator.OUTCOME:
        return whiten(table) if settings.whiten else table
    sampled = table.sampled
    lengths = torch.unique_consecutive(table.sequence[sampled], return_counts=True)[1].tolist()
    rewards = table.weights.sum(0)[sampled]
    if kl_coef:
        rewards = rewards - kl_coef * _log_ratio(table)
    returns = None
    if settings.estimator is AdvantageEstimator.GAE:
        assert table.values is not None
        values = table.values[sampled]
        found = generalized_advantages(rewards, values, lengths, gamma=settings.gamma, lam=settings.lam)
        returns = torch.zeros_like(table.behavior)
        returns[sampled] = found + values
    elif settings.estimator is AdvantageEstimator.RETURN:
        found = discounted_returns(rewards, lengths, settings.gamma)
    else:
        old = table.behavior if table.old is None else table.old
        inputs = RewardedTokens(rewards, old[sampled], table.sequence[sampled])
        found = custom_advantages(settings.estimator, inputs, settings)
    advantages = torch.zeros_like(table.behavior)
    advantages[sampled] = found
    estimated = replace(table, weights=advantages[None], returns=returns)
    return whiten(estimated) if settings.whiten else estimated


def adapted(kl_coef: float, table: TokenTable, settings: AdvantageSettings) -> float:
    """`kl_coef` after the samples of `table`: larger if they are further than `kl_target` from the policy at the start.

    It moves by at most 20 % per `kl_horizon` samples (Ziegler et al. 2019, section 2.2).
    """
    num_samples = len(table.sequence[table.sampled].unique())  # type: ignore[no-untyped-call]
    if settings.kl_target is None or not num_samples:
        return kl_coef
    divergence = _log_ratio(table).sum().item() / num_samples
    error = min(max(divergence / settings.kl_target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * num_samples / settings.kl_horizon)


def _log_ratio(table: TokenTable) -> torch.Tensor:
    """Old policy against the reference, of each sampled token."""
    assert table.reference is not None
    return ((table.behavior if table.old is None else table.old) - table.reference)[table.sampled]


def whiten(table: TokenTable) -> TokenTable:
    """`table` with the advantages of its sampled tokens shifted and scaled to mean 0 and variance 1."""
    advantages = torch.zeros_like(table.behavior)
    advantages[table.sampled] = whitened(table.weights.sum(0)[table.sampled])
    return replace(table, weights=advantages[None])

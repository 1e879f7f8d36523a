"""Policy losses and advantages against values worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rltf.learner.advantages import generalized_advantages, value_loss, whitened
from rltf.learner.estimates import adapted
from rltf.learner.objectives import TokenTable
from rltf.learner.policy_losses import TokenInputs, policy_factor
from rltf.settings import AdvantageSettings, LossSettings

PPO = {"policy_loss": "ppo", "clip_ratio_low": 0.2, "clip_ratio_high": 0.2}
DAPO = {**PPO, "clip_ratio_high": 0.28}
CISPO = {"policy_loss": "cispo", "clip_ratio_high": 0.28}


def one_token(
    settings: dict[str, Any], advantage: float, log_ratio: torch.Tensor, *, old: float = -1.0, behavior: float = -1.0
) -> tuple[float, float]:
    """The loss of a token whose log-probability is `old + log_ratio`, and its derivative."""
    logprobs = (old + log_ratio)[None].double().requires_grad_()
    before, sampler, weight = (torch.tensor([value], dtype=torch.float64) for value in (old, behavior, advantage))
    inputs = TokenInputs(logprobs, before, sampler, weight, torch.zeros(1, dtype=torch.int64))
    factor, _ = policy_factor(inputs, LossSettings.model_validate(settings))
    loss = (-advantage * factor).sum()
    (derivative,) = torch.autograd.grad(loss, logprobs)
    return loss.item(), derivative.item()


@pytest.mark.parametrize(
    ("settings", "advantage", "ratio", "loss", "derivative"),
    [
        (PPO, 1, 1.5, -1.2, 0.0),
        (PPO, 1, 0.5, -0.5, -0.5),
        (PPO, -1, 1.5, 1.5, 1.5),
        (PPO, -1, 0.5, 0.8, 0.0),
        (PPO, -1, 4.0, 4.0, 4.0),
        ({**PPO, "clip_ratio_c": 3.0}, -1, 4.0, 3.0, 0.0),
        (DAPO, 1, 1.5, -1.28, 0.0),
    ],
)
def test_ppo(settings: dict[str, Any], advantage: float, ratio: float, loss: float, derivative: float) -> None:
    found = one_token(settings, advantage, torch.tensor(ratio, dtype=torch.float64).log())
    assert found == pytest.approx((loss, derivative), abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "advantage", "ratio", "derivative"),
    [
        (CISPO, 1, 1.5, -1.28),
        (CISPO, -1, 0.5, 0.5),
        (CISPO, -1, 4.0, 1.28),
        ({"rollout_is_threshold": 2.0}, -1, 4.0, 2.0),
        ({"rollout_is_threshold": None}, -1, 4.0, 1.0),
    ],
)
def test_weighted_log_probabilities(
    settings: dict[str, Any], advantage: float, ratio: float, derivative: float
) -> None:
    found = one_token(settings, advantage, torch.tensor(ratio, dtype=torch.float64).log())
    assert found[1] == pytest.approx(derivative, abs=1e-12)


def test_a_recomputed_old_policy_leaves_the_sampler_to_a_truncated_weight() -> None:
    recompute = {**PPO, "old_logprobs": "recompute", "rollout_is_threshold": 2.0}
    loss, _ = one_token(recompute, 1.0, torch.tensor(0.1, dtype=torch.float64), old=-1.0, behavior=-2.0)
    assert loss == pytest.approx(-2.210342, abs=1e-6)


@pytest.mark.parametrize(("advantage", "loss", "derivative"), [(1.0, -1.0004, 0.0), (-1.0, 1.0010005, 0.2502501)])
def test_gspo_has_one_ratio_per_sequence(advantage: float, loss: float, derivative: float) -> None:
    settings = LossSettings.model_validate(
        {"policy_loss": "gspo", "clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4, "old_logprobs": "recompute"}
    )
    logprobs = torch.tensor([0.0, 0.002, -0.001, 0.003, 0.0], dtype=torch.float64, requires_grad=True)
    old = torch.zeros(5, dtype=torch.float64)
    sequence = torch.tensor([3, 7, 7, 7, 7])  # the first is a completion of its own
    inputs = TokenInputs(logprobs, old, old, torch.full_like(old, advantage), sequence)
    factor, is_clipped = policy_factor(inputs, settings)
    assert (-advantage * factor[1:]).tolist() == pytest.approx([loss] * 4, abs=1e-7)
    (gradient,) = torch.autograd.grad((-advantage * factor[1:]).mean(), logprobs)
    assert gradient.tolist() == pytest.approx([0.0] + [derivative] * 4, abs=1e-7)
    assert is_clipped.tolist() == [False] + [derivative == 0] * 4


def test_generalized_advantages() -> None:
    rewards, values = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.5, 0.4, 0.6])
    found = generalized_advantages(rewards, values, [3], gamma=1.0, lam=0.95)
    assert found.tolist() == pytest.approx([0.451, 0.58, 0.4], abs=1e-6)
    assert (found + values).tolist() == pytest.approx([0.951, 0.98, 1.0], abs=1e-6)
    assert whitened(found).tolist() == pytest.approx([-0.2803, 1.1102, -0.8300], abs=1e-4)
    without = generalized_advantages(torch.tensor([-0.02, 0.01, 0.32]), torch.zeros(3), [3], gamma=1.0, lam=0.95)
    # 0.32 * 0.95 + 0.01 = 0.314, and 0.314 * 0.95 - 0.02 = 0.2783
    assert without.tolist() == pytest.approx([0.2783, 0.314, 0.32], abs=1e-6)


def test_advantages_end_with_their_completion() -> None:
    rewards = torch.tensor([0.0, 1.0, 0.0, 0.0, -0.6])
    found = generalized_advantages(rewards, torch.zeros(5), [2, 3], gamma=0.5, lam=1.0)
    assert found.tolist() == pytest.approx([0.5, 1.0, -0.15, -0.3, -0.6])


def test_whitening_is_over_all_tokens() -> None:
    assert whitened(torch.tensor([1.0, -0.6, -0.6, -0.6])).tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-6)
    assert whitened(torch.tensor([3.0])).tolist() == [0.0]


def test_value_loss_follows_the_larger_error() -> None:
    value, old, target = torch.tensor([0.9]), torch.tensor([0.5]), torch.tensor([1.0])
    assert value_loss(value, old, target, 0.2).item() == pytest.approx(0.045)  # 0.7 is further away than 0.9
    assert value_loss(value, old, target, None).item() == pytest.approx(0.005)


@pytest.mark.parametrize(("divergence", "expected"), [(2.0, 0.100512), (0.9, 0.099744), (1.0, 0.1)])
def test_the_kl_penalty_adapts_to_its_target(divergence: float, expected: float) -> None:
    """256 samples of two tokens, and reference programs, which do not count."""
    sequence = torch.arange(260).repeat_interleave(2)
    sampled = sequence < 256
    old = torch.where(sampled, divergence / 2, 7.0).double()
    zeros = torch.zeros_like(old)
    table = TokenTable(zeros[None], zeros, zeros, sampled, zeros, sequence, sequence, old=old, reference=zeros)
    settings = AdvantageSettings(estimator="gae", kl_reward_coef=0.1, kl_target=1.0)
    assert adapted(0.1, table, settings) == pytest.approx(expected, abs=1e-9)

"""Each objective against a slow, direct computation in float64, one token and one term at a time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learner.data import Experience, TokenSequence
from learner.learner import Learner
from learner.objectives import contributing
from rewards import Granularity
from settings import LossAggMode
from tests.learner.samples import (
    gradients,
    largest_difference,
    make_experiences,
    make_learner,
    make_references,
    plain_logprobs,
    settings,
)

TEMPERATURE = 0.8

CASES: list[tuple[str, dict[str, Any]]] = [
    ("rltf", {}),
    ("rltf-paper", {}),
    ("rltf-code", {}),
    ("rltf", {"loss_agg_mode": "seq-mean-token-mean"}),
    ("rltf", {"loss_agg_mode": "seq-mean-token-sum", "rollout_is_threshold": 0.5}),
    ("rltf", {"rollout_is_threshold": None}),
    ("rltf", {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2}),
    ("rltf", {"clip_ratio_low": 0.1, "clip_ratio_high": 0.3}),
    (
        "rltf",
        {
            "clip_ratio_low": 0.2,
            "clip_ratio_high": 0.2,
            "rollout_is_threshold": 1.1,
            "loss_agg_mode": "seq-mean-token-sum",
        },
    ),
    ("rltf", {"kl_loss_coef": 0.5}),
    ("rltf-paper", {"rl_weight": 0.0}),
    ("rltf", {"supervised_weight": 0.0}),
]


def direct_loss(learner: Learner, experiences: list[Experience], references: list[TokenSequence]) -> torch.Tensor:
    """The formulas of `learner.objectives`, token by token."""
    objective = learner.objective

    def divisor(length: int, all_lengths: list[int]) -> float:
        return {
            LossAggMode.TOKEN_MEAN: sum(all_lengths),
            LossAggMode.SEQ_MEAN_TOKEN_MEAN: len(all_lengths) * length,
            LossAggMode.SEQ_MEAN_TOKEN_SUM: len(all_lengths),
        }[objective.loss_agg_mode]

    total = torch.zeros((), dtype=torch.float64)
    lengths = [len(e.token_ids) for e in experiences]
    for experience in experiences:
        sequence = TokenSequence(experience.prompt_ids, experience.token_ids)
        logprobs = plain_logprobs(learner.policy, sequence, TEMPERATURE)
        by = divisor(len(experience.token_ids), lengths)
        if learner._reference is not None:
            with torch.no_grad():
                reference = plain_logprobs(learner._reference, sequence, TEMPERATURE)
            difference = reference - logprobs
            total = total + objective.kl_loss_coef * (difference.exp() - difference - 1).sum() / by
        for t, logprob in enumerate(logprobs):
            ratio = torch.exp(logprob - float(experience.logprobs[t]))
            for row in experience.token_weights.astype(np.float64):
                weight = float(row[t])
                if objective.rollout_is_threshold is None:
                    term = -weight * logprob
                elif objective.clip_ratio_low is None or objective.clip_ratio_high is None:
                    term = -weight * min(ratio.item(), objective.rollout_is_threshold) * logprob
                else:
                    bounded = torch.clamp(ratio, max=objective.rollout_is_threshold)
                    clipped = torch.clamp(bounded, 1 - objective.clip_ratio_low, 1 + objective.clip_ratio_high)
                    term = torch.maximum(-weight * bounded, -weight * clipped)
                total = total + objective.rl_weight * term / by
    lengths = [len(r.token_ids) for r in references]
    for sequence in references:
        by = divisor(len(sequence.token_ids), lengths)
        total = total - objective.supervised_weight * plain_logprobs(learner.policy, sequence, 1.0).sum() / by
    return total


@pytest.mark.parametrize(("algorithm", "fields"), CASES, ids=lambda value: str(value))
def test_loss_and_gradient_equal_direct_computation(
    tiny_model_dir: Path, algorithm: str, fields: dict[str, Any]
) -> None:
    learner = make_learner(tiny_model_dir, algorithm=algorithm, temperature=TEMPERATURE, **fields)
    learner.policy.model.double()
    if learner._reference is not None:
        # Make the reference differ from the policy, as after the first update.
        learner._reference.model.double()
        with torch.no_grad():
            for parameter in learner._reference.model.parameters():
                parameter.mul_(1.05)
    experiences, references = make_experiences(0), make_references(1)
    experiences[2].token_weights[:] = 0  # no gradient, but counted by the divisors

    expected = direct_loss(learner, experiences, references)
    expected.backward()  # type: ignore[no-untyped-call]
    expected_gradients = gradients(learner.policy)
    stats = learner.update(learner.prepare_with(experiences, references))

    assert stats.loss == pytest.approx(expected.item(), abs=1e-6)
    num_idle = len(experiences) if fields.get("rl_weight") == 0 else 0 if "kl_loss_coef" in fields else 1
    assert stats.num_idle_samples == num_idle
    norm = math.sqrt(sum(g.square().sum().item() for g in expected_gradients))
    # Llama's normalization layers round to float32 even here; the error grows with the gradient.
    assert largest_difference(gradients(learner.policy), expected_gradients) < 1e-6 * max(1.0, norm)
    assert stats.grad_norm == pytest.approx(norm, rel=1e-6)


def test_terms_sum_to_the_loss(tiny_model_dir: Path) -> None:
    learner = make_learner(tiny_model_dir, rl_weight=2.0, supervised_weight=0.5)
    experiences, references = make_experiences(3), make_references(4)
    plain = torch.cat(
        [plain_logprobs(learner.policy, TokenSequence(e.prompt_ids, e.token_ids), 0.8).detach() for e in experiences]
    )
    log_ratio = plain - torch.from_numpy(np.concatenate([e.logprobs for e in experiences]))

    stats = learner.update(learner.prepare_with(experiences, references))

    rl = stats.loss_coarse + stats.loss_fine + stats.loss_adaptive + stats.loss_static
    assert stats.loss == pytest.approx(0.5 * stats.loss_sl + 2.0 * rl, rel=1e-5)
    assert stats.ratio_mean == pytest.approx(log_ratio.exp().mean().item(), rel=1e-4)
    assert stats.ratio_max == pytest.approx(log_ratio.exp().max().item(), rel=1e-4)
    assert stats.mismatch_mean == pytest.approx(log_ratio.abs().mean().item(), rel=1e-4)
    assert stats.num_samples == len(experiences)
    assert stats.num_tokens == sum(len(e.token_ids) for e in experiences) + sum(len(r.token_ids) for r in references)


def test_control_without_rl_equals_supervised_training(tiny_model_dir: Path) -> None:
    control, supervised = (make_learner(tiny_model_dir, rl_weight=0.0) for _ in range(2))
    references = make_references(1)
    control.update(control.prepare_with(make_experiences(0), references))
    supervised.update(supervised.prepare_with([], references))
    difference = largest_difference(list(control.policy.model.parameters()), list(supervised.policy.model.parameters()))
    assert difference == 0


def test_algorithm_sets_the_loss_unless_given() -> None:
    paper = settings("rltf-paper").loss
    assert (paper.loss_agg_mode, paper.rollout_is_threshold) == (LossAggMode.SEQ_MEAN_TOKEN_SUM, None)
    ours = settings().loss
    assert (ours.loss_agg_mode, ours.rollout_is_threshold) == (LossAggMode.TOKEN_MEAN, 2.0)
    mixed = settings("rltf-paper", loss_agg_mode="seq-mean-token-mean", rollout_is_threshold=3.0).loss
    assert (mixed.loss_agg_mode, mixed.rollout_is_threshold) == (LossAggMode.SEQ_MEAN_TOKEN_MEAN, 3.0)


@pytest.mark.parametrize(
    ("algorithm", "fields", "message"),
    [
        ("rltf-paper", {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2}, "set rollout_is_threshold"),
        ("rltf", {"clip_ratio_low": 0.2}, "set both, or neither"),
        ("rltf", {"rl_weight": 0, "supervised_weight": 0}, "nothing to train"),
    ],
)
def test_unusable_loss_is_refused(algorithm: str, fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(algorithm, **fields)


def test_malformed_experiences_are_refused() -> None:
    good = make_experiences(0)[0]
    short = Experience(
        good.task_id,
        good.completion_id,
        good.prompt_ids,
        good.token_ids,
        good.logprobs,
        good.token_weights[: len(Granularity) - 1],
        good.version,
        good.reward,
        good.outcome,
    )
    with pytest.raises(ValueError, match=r"experience r0/0: token_weights .* do not match"):
        contributing([short], settings().loss)
    broken = good.token_weights.copy()
    broken[0, 0] = np.nan
    infinite = Experience(
        good.task_id,
        good.completion_id,
        good.prompt_ids,
        good.token_ids,
        good.logprobs,
        broken,
        good.version,
        good.reward,
        good.outcome,
    )
    with pytest.raises(ValueError, match=r"experience r0/0: .* not finite"):
        contributing([infinite], settings().loss)

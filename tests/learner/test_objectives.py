"""Each objective against a slow, direct computation in float64, one token and one term at a time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rltf.learner.data import Experience, TokenSequence
from rltf.learner.error_classes import error_class
from rltf.learner.learner import Learner
from rltf.learner.objectives import contributing
from rltf.learner.policy import Policy
from rltf.rewards import Granularity
from rltf.settings import Algorithm, LossAggMode
from tests.learner.samples import (
    gradients,
    largest_difference,
    make_critic,
    make_experiences,
    make_learner,
    make_references,
    plain_class_logits,
    plain_logprobs,
    plain_values,
    settings,
)
from tests.tiers import first_fast
from tests.tiny_model import build_tiny_model

TEMPERATURE = 0.8
CRITIC = "the fixture critic_dir"
MAX_TOKENS = 32

CASES: list[tuple[str, dict[str, Any]]] = [
    *((algorithm.value, {}) for algorithm in Algorithm),
    ("rltf", {"loss_agg_mode": "seq-mean-token-mean"}),
    ("rltf", {"loss_agg_mode": "seq-mean-token-sum", "rollout_is_threshold": 0.5}),
    ("rltf", {"rollout_is_threshold": None}),
    ("grpo", {"clip_ratio_low": 0.1, "clip_ratio_high": 0.3, "clip_ratio_c": 3.0}),
    ("grpo", {"old_logprobs": "recompute", "rollout_is_threshold": 1.1}),
    ("ppo", {"gamma": 0.9, "whiten": False, "cliprange_value": None, "kl_reward_coef": 0.2}),
    ("rltf", {"kl_loss_coef": 0.5}),
    ("rltf", {"kl_loss_coef": 0.5, "kl_loss_type": "k3"}),
    ("coderl", {"critic": CRITIC}),
    ("rltf-code", {"critic": CRITIC, "loss_agg_mode": "seq-mean-token-sum"}),
    ("rltf-paper", {"rl_weight": 0.0}),
    ("rltf", {"supervised_weight": 0.0}),
    ("grpo", {"kl_loss_coef": 0.0, "whiten": True}),
]


@pytest.fixture(scope="module")
def critic_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A critic with other weights than the policy."""
    folder = tmp_path_factory.mktemp("critic")
    return make_critic(build_tiny_model(folder / "model", seed=1), folder / "critic")


def doubled(learner: Learner) -> Learner:
    """The learner, computing in float64."""
    policies = [learner.policy, learner._reference, learner._old]
    if learner._critic is not None:
        policies.append(learner._critic.backbone)
        learner._critic.head.double()
    for policy in policies:
        if policy is not None:
            policy.model.double()
    if learner.policy.value_head is not None:
        learner.policy.value_head.double()
    return learner


class Direct:
    """The formulas of `learner.objectives`, `learner.policy_losses` and `learner.advantages`, token by token."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.loss, self.advantage = learner.objective, learner.advantage

    def __call__(self, experiences: list[Experience], references: list[TokenSequence]) -> torch.Tensor:
        sequences = [TokenSequence(e.prompt_ids, e.token_ids) for e in experiences]
        logprobs = [plain_logprobs(self.learner.policy, s, TEMPERATURE) for s in sequences]
        behavior = [e.logprobs.astype(np.float64) for e in experiences]
        with torch.no_grad():
            old = [o.numpy() for o in self.of(self.learner._old, sequences)] or behavior
            reference = [f.numpy() for f in self.of(self.learner._reference, sequences)]
        values = [plain_values(self.learner.policy, s) for s in sequences]
        advantages, returns = self.advantages(experiences, old, reference, values)
        lengths = [len(e.token_ids) for e in experiences]
        total = torch.zeros((), dtype=torch.float64)
        for i, own in enumerate(logprobs):
            ratios = own - torch.from_numpy(old[i])
            for t, logprob in enumerate(own):
                log_ratio = ratios.mean() if self.loss.policy_loss == "gspo" else ratios[t]
                factor = self.factor(logprob, log_ratio, behavior[i][t], advantages[i][t])
                if self.loss.old_logprobs == "recompute" and self.loss.rollout_is_threshold is not None:
                    factor = factor * min(math.exp(old[i][t] - behavior[i][t]), self.loss.rollout_is_threshold)
                term = self.loss.rl_weight * -advantages[i][t] * factor
                if self.loss.kl_loss_coef:
                    term = term + self.loss.kl_loss_coef * self.kl(logprob, reference[i][t], behavior[i][t])
                if self.advantage.estimator == "gae":
                    # The value has not moved yet, so the clip range has no effect.
                    term = term + self.advantage.vf_coef * (values[i][t] - returns[i][t]) ** 2 / 2
                total = total + term / self.divisor(lengths[i], lengths)
        lengths = [len(r.token_ids) for r in references]
        for sequence in references:
            by = self.divisor(len(sequence.token_ids), lengths)
            total = total - self.loss.supervised_weight * plain_logprobs(self.learner.policy, sequence, 1.0).sum() / by
        return total

    def of(self, policy: Policy | None, sequences: list[TokenSequence]) -> list[torch.Tensor]:
        return [] if policy is None else [plain_logprobs(policy, s, TEMPERATURE) for s in sequences]

    def divisor(self, length: int, all_lengths: list[int]) -> float:
        return {
            LossAggMode.TOKEN_MEAN: sum(all_lengths),
            LossAggMode.SEQ_MEAN_TOKEN_MEAN: len(all_lengths) * length,
            LossAggMode.SEQ_MEAN_TOKEN_SUM: len(all_lengths),
            LossAggMode.SEQ_MEAN_TOKEN_SUM_NORM: len(all_lengths) * MAX_TOKENS,
        }[self.loss.loss_agg_mode]

    def advantages(
        self,
        experiences: list[Experience],
        old: list[NDArray[np.float64]],
        reference: list[NDArray[np.float64]],
        values: list[torch.Tensor],
    ) -> tuple[list[list[float]], list[list[float]]]:
        found, returns = [], []
        for i, experience in enumerate(experiences):
            rewards = experience.token_weights.astype(np.float64).sum(0)
            if self.advantage.kl_reward_coef:
                rewards = rewards - self.advantage.kl_reward_coef * (old[i] - reference[i])
            if self.learner._critic is not None:
                sequence = TokenSequence(experience.prompt_ids, experience.token_ids)
                logits = plain_class_logits(self.learner._critic, sequence)
                rewards = rewards * logits.softmax(-1)[:, error_class(experience.outcome)].numpy()
            own = list(rewards)
            if self.advantage.estimator != "outcome":
                gamma = self.advantage.gamma
                lam = self.advantage.lam if self.advantage.estimator == "gae" else 1.0
                value = [v.item() for v in values[i]] if self.advantage.estimator == "gae" else [0.0] * len(own)
                delta = [r + gamma * n - v for r, n, v in zip(rewards, [*value[1:], 0.0], value, strict=True)]
                own = [
                    sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, len(delta))) for t in range(len(delta))
                ]
                returns.append([a + v for a, v in zip(own, value, strict=True)])
            found.append(own)
        if self.advantage.whiten:
            flat = np.concatenate(found)
            deviation = math.sqrt(flat.var(ddof=1) + 1e-8)
            found = [[(a - flat.mean()) / deviation for a in own] for own in found]
        return found, returns

    def factor(
        self, logprob: torch.Tensor, log_ratio: torch.Tensor, behavior: float, advantage: float
    ) -> torch.Tensor | float:
        ratio = torch.exp(log_ratio)
        match self.loss.policy_loss:
            case "reinforce":
                limit = self.loss.rollout_is_threshold
                return logprob if limit is None else min(math.exp(logprob.item() - behavior), limit) * logprob
            case "cispo":
                assert self.loss.clip_ratio_high is not None
                return min(ratio.item(), 1 + self.loss.clip_ratio_high) * logprob
        assert self.loss.clip_ratio_low is not None
        assert self.loss.clip_ratio_high is not None
        clipped = torch.clamp(ratio, 1 - self.loss.clip_ratio_low, 1 + self.loss.clip_ratio_high)
        larger = ratio if (-advantage * ratio).item() >= (-advantage * clipped).item() else clipped
        if self.loss.clip_ratio_c is not None and advantage < 0:
            return torch.clamp(larger, max=self.loss.clip_ratio_c)
        return larger

    def kl(self, logprob: torch.Tensor, reference: float, behavior: float) -> torch.Tensor:
        difference = reference - logprob
        k3 = difference.exp() - difference - 1
        limit = self.loss.rollout_is_threshold
        weight = 1.0 if limit is None else min(math.exp(logprob.item() - behavior), limit)
        return weight * (k3 if self.loss.kl_loss_type == "k3" else difference**2 / 2)


@pytest.mark.parametrize(("algorithm", "fields"), CASES, ids=lambda value: str(value))
def test_loss_and_gradient_equal_direct_computation(
    tiny_model_dir: Path, critic_dir: Path, algorithm: str, fields: dict[str, Any]
) -> None:
    given = fields | ({"critic": critic_dir} if "critic" in fields else {})
    learner = doubled(make_learner(tiny_model_dir, algorithm=algorithm, temperature=TEMPERATURE, **given))
    if learner.policy.value_head is not None:
        torch.nn.init.normal_(learner.policy.value_head.weight)
    for other, factor in ((learner._reference, 1.05), (learner._old, 0.98)):
        if other is not None:  # differs from the policy, as after the first update
            with torch.no_grad():
                for parameter in other.model.parameters():
                    parameter.mul_(factor)
    experiences, references = make_experiences(0), make_references(1)
    experiences[2].token_weights[:] = 0  # no gradient, but counted by the divisors

    expected = Direct(learner)(experiences, references)
    expected.backward()  # type: ignore[no-untyped-call]
    expected_gradients = gradients(learner.policy)
    stats = learner.update(learner.prepare_with(experiences, references))

    assert stats.loss == pytest.approx(expected.item(), abs=1e-6)
    advantage = learner.advantage
    all_count = learner.objective.kl_loss_coef or advantage.estimator != "outcome" or advantage.whiten
    num_idle = len(experiences) if fields.get("rl_weight") == 0 else 0 if all_count else 1
    assert stats.num_idle_samples == num_idle
    norm = math.sqrt(sum(g.square().sum().item() for g in expected_gradients))
    # Llama's normalization layers round to float32 even here; the error grows with the gradient.
    assert largest_difference(gradients(learner.policy), expected_gradients) < 1e-6 * max(1.0, norm)
    assert stats.grad_norm == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("algorithm", first_fast(algorithm.value for algorithm in Algorithm))
def test_micro_batches_make_no_difference(tiny_model_dir: Path, critic_dir: Path, algorithm: str) -> None:
    fields: dict[str, Any] = {"critic": critic_dir} if algorithm == "coderl" else {}
    experiences, references = make_experiences(0), make_references(1)
    results = []
    for micro_batch_tokens in (2048, 64):
        learner = doubled(
            make_learner(
                tiny_model_dir, algorithm=algorithm, micro_batch_tokens=micro_batch_tokens, row_tokens=64, **fields
            )
        )
        prepared = learner.prepare_with(experiences, references)
        results.append((len(prepared.batches), learner.update(prepared), gradients(learner.policy)))
    (one, stats, expected), (many, other_stats, found) = results
    assert one < many
    assert other_stats.loss == pytest.approx(stats.loss, abs=1e-6)
    assert largest_difference(found, expected) < 1e-6 * max(1.0, stats.grad_norm)


def test_terms_sum_to_the_loss(tiny_model_dir: Path) -> None:
    learner = make_learner(tiny_model_dir, rl_weight=2.0, supervised_weight=0.5)
    experiences, references = make_experiences(3), make_references(4)
    plain = torch.cat(
        [plain_logprobs(learner.policy, TokenSequence(e.prompt_ids, e.token_ids), 0.8).detach() for e in experiences]
    )
    log_ratio = plain - torch.from_numpy(np.concatenate([e.logprobs for e in experiences]))

    stats = learner.update(learner.prepare_with(experiences, references))

    rl = sum(getattr(stats, f"loss_{row.name.lower()}") for row in Granularity)
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
        ("rltf", {"clip_ratio_low": 0.2}, "policy_loss reinforce has no clip_ratio_low: set it to null"),
        ("rltf", {"policy_loss": "ppo", "clip_ratio_low": 0.2}, "policy_loss ppo needs clip_ratio_high: set it"),
        ("cispo", {"clip_ratio_low": 0.2}, "policy_loss cispo has no clip_ratio_low"),
        ("gspo", {"clip_ratio_c": 3.0}, "policy_loss gspo has no clip_ratio_c"),
        ("rltf", {"old_logprobs": "recompute"}, "policy_loss reinforce has no likelihood ratios"),
        ("rltf", {"kl_reward_coef": 0.1}, "set estimator to return or gae"),
        ("rltf", {"rl_weight": 0, "supervised_weight": 0}, "nothing to train"),
        ("ppo", {"critic": "folder"}, "estimator gae does not use the token weights that critic multiplies: set"),
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
        contributing([short], settings().loss, settings().advantage)
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
        contributing([infinite], settings().loss, settings().advantage)

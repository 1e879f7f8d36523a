"""What each algorithm sets: one table, with the formula and the source of each.

An objective is an advantage, a policy loss, an aggregation and extra terms (`learner.objectives`). `A` is the advantage
of a token, `r` the likelihood ratio of the policy and the policy that sampled. Every preset, except those of RLTF, sets
every field of `rewards`, `learner.loss` and `learner.advantage`, so that nothing of RLTF leaks into a rival.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from pydantic import ValidationError

from rltf.errors import UserError, nearest
from rltf.plugins import OBJECTIVES, loaded, offered, title
from rltf.settings.base import Section
from rltf.settings.choices import (
    AdaptiveScope,
    AdvantageEstimator,
    Algorithm,
    Baseline,
    FineFallback,
    KlLossType,
    Localize,
    LossAggMode,
    OldLogprobs,
    OutcomeReward,
    Placement,
    PolicyLoss,
    ScaleRewards,
)
from rltf.settings.learning import AdvantageSettings, LossSettings
from rltf.settings.rewards import RewardSettings

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Preset:
    """The fields of `rewards`, `learner.loss` and `learner.advantage` that an algorithm sets."""

    rewards: Fields = field(default_factory=dict)
    loss: Fields = field(default_factory=dict)
    advantage: Fields = field(default_factory=dict)


_OUTCOME_ALONE: Fields = {
    "outcome": OutcomeReward.BINARY,
    "coarse_weight": 1.0,
    "fine_weight": 0.0,
    "adaptive_weight": 0.0,
    "structure_weight": 0.0,
    "static_weight": 0.0,
    "function": None,
    "custom_weight": 1.0,
    "baseline": Baseline.NONE,
    "scale_rewards": ScaleRewards.NONE,
    "placement": Placement.ALL,
    "filter_groups": False,
    "overlong_buffer": 0.0,
    "overlong_penalty": 1.0,
    "overlong_filter": False,
    "turn_weight": 0.0,
    "alpha_cap": 1.0,
    "adaptive_scope": AdaptiveScope.RAN,
    "timeout_category": FineFallback.IGNORE,
    "unlocated_category": FineFallback.IGNORE,
    "failing_never_positive": False,
    "negative_scale": 1.0,
    "localize": Localize.OFF,
    "localize_share": 0.5,
    "localize_cap": 4.0,
    "localize_distance": 0.3,
}
_PLAIN_LOSS: Fields = {
    "rl_weight": 1.0,
    "supervised_weight": 0.0,
    "policy_loss": PolicyLoss.REINFORCE,
    "old_logprobs": OldLogprobs.BEHAVIOR,
    "loss_agg_mode": LossAggMode.TOKEN_MEAN,
    "rollout_is_threshold": None,
    "clip_ratio_low": None,
    "clip_ratio_high": None,
    "clip_ratio_c": None,
    "kl_loss_coef": 0.0,
    "kl_loss_type": KlLossType.K2,
}
_NO_ESTIMATE: Fields = {
    "estimator": AdvantageEstimator.OUTCOME,
    "gamma": 1.0,
    "lam": 1.0,
    "whiten": False,
    "kl_reward_coef": 0.0,
    "kl_target": None,
    "kl_horizon": 10_000,
    "vf_coef": 0.1,
    "cliprange_value": None,
    "critic": None,
}
_GAE: Fields = {
    **_NO_ESTIMATE,
    "estimator": AdvantageEstimator.GAE,
    "lam": 0.95,
    "whiten": True,
    "cliprange_value": 0.2,
}
_GROUP_RELATIVE: Fields = {**_OUTCOME_ALONE, "baseline": Baseline.MEAN, "scale_rewards": ScaleRewards.GROUP}
_LAST_TOKEN: Fields = {**_OUTCOME_ALONE, "placement": Placement.LAST}
_CLIPPED: Fields = {**_PLAIN_LOSS, "policy_loss": PolicyLoss.PPO, "clip_ratio_low": 0.2, "clip_ratio_high": 0.2}
_without_estimate = partial(Preset, advantage=_NO_ESTIMATE)

PRESETS: Mapping[Algorithm, Preset] = {
    # Coarse, fine and adaptive rewards (Liu et al. 2023, equations 4 to 9), each sample against the others of its
    # rollout, with truncated importance weights: -A sg(min(r, 2)) log p. The defaults of the settings.
    Algorithm.RLTF: Preset(),
    # -A log p, summed over each program; the baseline is the best greedy decode so far.
    Algorithm.RLTF_PAPER: Preset(
        rewards={
            "baseline": Baseline.GREEDY_BEST,
            "alpha_cap": math.inf,
            "adaptive_scope": AdaptiveScope.ANSWERED,
            "unlocated_category": FineFallback.IGNORE,
            "failing_never_positive": False,
            "negative_scale": 1.0,
        },
        loss={"loss_agg_mode": LossAggMode.SEQ_MEAN_TOKEN_SUM, "rollout_is_threshold": None},
    ),
    # The released code (Zyq-scut/RLTF): the latest greedy decode, no alpha, and the mean over tokens.
    Algorithm.RLTF_CODE: Preset(
        rewards={
            "baseline": Baseline.GREEDY_LATEST,
            "alpha_cap": 1.0,
            "adaptive_scope": AdaptiveScope.REPLACE_COARSE,
            "timeout_category": FineFallback.IGNORE,
            "unlocated_category": FineFallback.IGNORE,
            "failing_never_positive": False,
            "negative_scale": 1.0,
        },
        loss={"loss_agg_mode": LossAggMode.TOKEN_MEAN, "rollout_is_threshold": None},
    ),
    # PPO on the last token's reward, coarse + AST match + data-flow match, with an adaptive KL penalty on every token
    # (Shojaee et al. 2023). The paper's learning rate is 1e-6.
    Algorithm.PPOCODER: Preset(
        rewards={**_LAST_TOKEN, "outcome": OutcomeReward.COARSE, "structure_weight": 1.0},
        loss=_CLIPPED,
        advantage={**_GAE, "kl_reward_coef": 0.1, "kl_target": 1.0, "vf_coef": 1e-3},
    ),
    # -A q_t log p, with A = R - R of the latest greedy decode, and q_t the probability that a critic gives the outcome
    # at token t (Le et al. 2022, CodeRL, equations 4 to 9; the mean over tokens as in its released code).
    Algorithm.CODERL: _without_estimate(
        rewards={**_OUTCOME_ALONE, "outcome": OutcomeReward.COARSE, "baseline": Baseline.GREEDY_LATEST},
        loss={**_PLAIN_LOSS, "supervised_weight": 1.0},
    ),
    # max(-A r, -A clip(r, 0.8, 1.2)) with A from generalized advantage estimation, whitened (Schulman et al. 2017).
    Algorithm.PPO: Preset(rewards=_LAST_TOKEN, loss=_CLIPPED, advantage=_GAE),
    # A = (R - mean) / std of the rollout, the loss of PPO, and a KL term (Shao et al. 2024, DeepSeekMath).
    Algorithm.GRPO: _without_estimate(
        rewards=_GROUP_RELATIVE,
        loss={
            **_CLIPPED,
            "loss_agg_mode": LossAggMode.SEQ_MEAN_TOKEN_MEAN,
            "kl_loss_coef": 0.04,
            "kl_loss_type": KlLossType.K3,
        },
    ),
    # A = R - mean, and a constant divisor (Liu et al. 2025, "Understanding R1-Zero-Like Training").
    Algorithm.DR_GRPO: _without_estimate(
        rewards={**_GROUP_RELATIVE, "scale_rewards": ScaleRewards.NONE},
        loss={**_CLIPPED, "loss_agg_mode": LossAggMode.SEQ_MEAN_TOKEN_SUM_NORM},
    ),
    # Clip-higher, the mean over tokens, no silent groups, soft overlong punishment (Yu et al. 2025). Its authors made
    # their best run without the overlong filter, as the README of their released code says.
    Algorithm.DAPO: _without_estimate(
        rewards={**_GROUP_RELATIVE, "outcome": OutcomeReward.SIGN, "filter_groups": True, "overlong_buffer": 0.25},
        loss={**_CLIPPED, "clip_ratio_high": 0.28},
    ),
    # A = R - mean of the others, and -A log p summed over each program (Ahmadian et al. 2024), without its KL term. The
    # importance weights are for stale samples.
    Algorithm.RLOO: _without_estimate(
        rewards={**_OUTCOME_ALONE, "baseline": Baseline.LEAVE_ONE_OUT},
        loss={**_PLAIN_LOSS, "loss_agg_mode": LossAggMode.SEQ_MEAN_TOKEN_SUM, "rollout_is_threshold": 2.0},
    ),
    # Returns with a KL penalty on each token, whitened over the update, and the loss of PPO (Hu et al. 2025).
    Algorithm.REINFORCE_PP: Preset(
        rewards=_LAST_TOKEN,
        loss=_CLIPPED,
        advantage={**_NO_ESTIMATE, "estimator": AdvantageEstimator.RETURN, "whiten": True, "kl_reward_coef": 1e-3},
    ),
    # The loss of PPO on s = exp(mean of log r over the sequence) (Zheng et al. 2025).
    Algorithm.GSPO: _without_estimate(
        rewards=_GROUP_RELATIVE,
        loss={
            **_CLIPPED,
            "policy_loss": PolicyLoss.GSPO,
            "old_logprobs": OldLogprobs.RECOMPUTE,
            "loss_agg_mode": LossAggMode.SEQ_MEAN_TOKEN_MEAN,
            "rollout_is_threshold": 2.0,
            "clip_ratio_low": 3e-4,
            "clip_ratio_high": 4e-4,
        },
    ),
    # -A sg(min(r, 5)) log p (MiniMax 2025; the limit as in Khatri et al. 2025, ScaleRL).
    Algorithm.CISPO: _without_estimate(
        rewards=_GROUP_RELATIVE,
        loss={**_PLAIN_LOSS, "policy_loss": PolicyLoss.CISPO, "clip_ratio_high": 4.0},
    ),
}


def check_algorithm(value: object) -> Algorithm | str:
    """The name of a built-in algorithm, or of one of an installed package. Raises as `preset_of`."""
    preset_of(value)
    name = str(value)
    return Algorithm(name) if name in list(Algorithm) else name


def preset_of(algorithm: object) -> Preset:
    """What the algorithm sets: a built-in one, or the entry point of this name in `rltf.objectives`.

    Raises ValueError for an unknown name, and UserError for an installed package whose preset cannot be used.
    """
    name = str(algorithm)
    return PRESETS[Algorithm(name)] if name in list(Algorithm) else _installed(name)


@cache
def _installed(name: str) -> Preset:
    entries = offered(OBJECTIVES, list(Algorithm))
    if name not in entries:
        names = [*(one.value for one in Algorithm), *entries]
        raise ValueError(f"{name!r}: expected {', '.join(map(repr, names))}{nearest(name, names)}")
    preset = loaded(entries[name])
    if not isinstance(preset, Preset):
        raise UserError(f"{title(entries[name])}: expected a settings.Preset, got {type(preset).__name__}")
    sections: tuple[tuple[str, type[Section], Fields], ...] = (
        ("rewards", RewardSettings, preset.rewards),
        ("loss", LossSettings, preset.loss),
        ("advantage", AdvantageSettings, preset.advantage),
    )
    for part, section, fields in sections:
        try:
            section.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join([part, *map(str, first["loc"])])
            raise UserError(f"{title(entries[name])}: {place}: {first['msg']}") from error
    return preset

"""The section of the rewards."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from rltf.settings.base import FUNCTION_FORM, FunctionName, Section, Weight, as_word
from rltf.settings.choices import (
    AdaptiveScope,
    Baseline,
    FineFallback,
    Localize,
    OutcomeReward,
    Placement,
    ScaleRewards,
)


class RewardSettings(Section):
    """Rewards: from test results to a weight for each token. Fields you don't set come from `algorithm`."""

    outcome: OutcomeReward = Field(
        OutcomeReward.COARSE,
        description="What an outcome is worth: 1 for a program that passes and less for worse errors, 1 or 0, or 1 or "
        "-1.",
    )
    coarse_weight: Weight = Field(1.0, description="Weight of the reward for the program's outcome; 0: off.")
    fine_weight: Weight = Field(1.0, description="Weight of the penalty on the line that raised an error; 0: off.")
    adaptive_weight: Weight = Field(1.0, description="Weight of the reward for the share of tests passed; 0: off.")
    structure_weight: Weight = Field(
        0.0, description="Weight of the reward for the syntax and the data flow of the reference programs; 0: off."
    )
    static_weight: Weight = Field(0.0, description="Weight of the penalty on lines that pyflakes reports; 0: off.")
    function: FunctionName | None = Field(
        None,
        examples=[FUNCTION_FORM],
        description="A function of yours that rewards programs, besides the other terms (docs/extend.md); null: none.",
    )
    custom_weight: Weight = Field(1.0, description="Weight of the reward from `function`; 0: off.")
    baseline: Baseline = Field(
        Baseline.LEAVE_ONE_OUT,
        description="What to subtract from the coarse and the adaptive reward: the reward of the latest or the best "
        "greedy decode, the rollout's mean, or the mean of the rollout's other samples.",
    )
    scale_rewards: ScaleRewards = Field(
        ScaleRewards.NONE,
        description="Divide the advantages of a rollout by the standard deviation of its rewards, or by nothing.",
    )
    placement: Placement = Field(
        Placement.ALL,
        description="Tokens that carry the rewards of the whole program: all, or the last one, for the estimators "
        "return and gae.",
    )
    filter_groups: bool = Field(
        False,
        description="Drop rollouts that teach nothing, because all token weights are 0, and sample another problem "
        "instead.",
    )
    turn_weight: Weight = Field(
        0.0,
        description="Weight of the outcome of each turn before the last, which counts for this turn and the earlier "
        "ones; 0: only the last program earns a reward. For `generator.max_turns`.",
    )
    overlong_buffer: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of `generator.max_tokens` over which the penalty for a long completion rises, up to "
        "`overlong_penalty` at the limit; 0: no penalty.",
    )
    overlong_penalty: Weight = Field(1.0, description="Penalty for a completion of `generator.max_tokens` tokens.")
    overlong_filter: bool = Field(
        False,
        description="Do not train on samples that `generator.max_tokens` cut off. Their rewards still count in the "
        "baseline of the rollout's other samples.",
    )
    alpha_cap: float = Field(
        10.0, ge=1, description="Maximum factor on the fine penalty of a short line; inf: no maximum."
    )
    adaptive_scope: AdaptiveScope = Field(
        AdaptiveScope.RAN,
        description="Which programs get the adaptive reward: all that ran, those whose tests all ran to an answer, or "
        "wrong answers only and in place of their coarse reward.",
    )
    timeout_category: FineFallback = Field(
        FineFallback.GLOBAL, description="Fine penalty for a timeout: on the whole program, or none."
    )
    unlocated_category: FineFallback = Field(
        FineFallback.GLOBAL,
        description="Fine penalty for an error without a line of code: on the whole program, or none.",
    )
    failing_never_positive: bool = Field(
        True, description="Cap the advantage of a program that fails at 0, even if it beats its baseline."
    )
    negative_scale: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Factor on negative advantages and penalties. At 1 they can destroy a small model.",
    )

    localize: Annotated[Localize, BeforeValidator(as_word)] = Field(
        Localize.OFF,
        description="Move the negative weight of a wrong answer to the lines that differ from the nearest program of "
        "the rollout that passes, its sibling.",
    )
    localize_share: float = Field(0.5, gt=0, le=1, description="Share of the weight to move to those lines.")
    localize_cap: float = Field(4.0, ge=1, description="Maximum factor on the weight of their tokens; inf: no maximum.")
    localize_distance: float = Field(
        0.3, ge=0, lt=1, description="Maximum share of statements in which a program and its sibling may differ."
    )

    @property
    def uses_function(self) -> bool:
        """Whether a function of the user rewards programs."""
        return self.function is not None and self.custom_weight > 0

    @property
    def needs_greedy(self) -> bool:
        """Whether the baseline needs a greedy decode in every rollout."""
        return self.baseline in (Baseline.GREEDY_LATEST, Baseline.GREEDY_BEST)

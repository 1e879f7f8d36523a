"""What an algorithm sets, what overrides it, and values that are refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from rltf.settings import PRESETS, AdvantageSettings, Algorithm, LossSettings, RewardSettings, Settings, rewards_of


def test_presets_by_name() -> None:
    paper, code, ours = (rewards_of(p) for p in ("rltf-paper", "rltf-code", "rltf"))
    assert ours == RewardSettings()
    assert (paper.baseline, paper.alpha_cap, paper.adaptive_scope) == ("greedy_best", math.inf, "answered")
    assert (code.baseline, code.alpha_cap, code.adaptive_scope) == ("greedy_latest", 1.0, "replace_coarse")
    assert (paper.timeout_category, code.timeout_category) == ("global", "ignore")
    assert [p.unlocated_category for p in (paper, code, ours)] == ["ignore", "ignore", "global"]
    for preset in (paper, code):
        assert (preset.negative_scale, preset.failing_never_positive) == (1.0, False)
    for preset in (paper, code, ours):
        assert preset.static_weight == 0
        assert preset.localize == "off"
        assert (preset.coarse_weight, preset.fine_weight, preset.adaptive_weight) == (1, 1, 1)


def test_given_fields_override_the_preset_and_survive_a_round_trip() -> None:
    chosen = rewards_of("rltf-paper", alpha_cap=4, baseline="mean")
    assert (chosen.alpha_cap, chosen.baseline, chosen.adaptive_scope) == (4, "mean", "answered")
    assert RewardSettings.model_validate(chosen.model_dump()) == chosen


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fein_weight": 1}, "fein_weight"),
        ({"fine_weight": -1}, "greater than or equal to 0"),
        ({"fine_weight": math.inf}, "finite"),
        ({"alpha_cap": 0.5}, "greater than or equal to 1"),
        ({"alpha_cap": math.nan}, "greater than or equal to 1"),
        ({"baseline": "greedy"}, "'leave_one_out'"),
        ({"negative_scale": 2}, "less than or equal to 1"),
        ({"localize": "sibling"}, "'siblings'"),
        ({"localize_share": 0}, "greater than 0"),
        ({"localize_cap": 0.9}, "greater than or equal to 1"),
        ({"localize_distance": 1}, "less than 1"),
    ],
)
def test_nonsensical_values_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RewardSettings.model_validate(fields)


def test_localize_reads_what_yaml_makes_of_off() -> None:
    assert RewardSettings.model_validate({"localize": False}).localize == "off"


@pytest.mark.parametrize("algorithm", ["rltf-papers", ["rltf"]])
def test_unknown_algorithm_is_refused(algorithm: object) -> None:
    with pytest.raises(ValidationError, match="'rltf', 'rltf-paper', 'rltf-code', "):
        Settings.model_validate({"algorithm": algorithm})


def test_algorithm_sets_rewards_and_loss_alike() -> None:
    settings = Settings.model_validate({"algorithm": "rltf-paper", "rewards": {"alpha_cap": 4}})
    assert (settings.rewards.baseline, settings.rewards.alpha_cap) == ("greedy_best", 4)
    assert (settings.learner.loss.loss_agg_mode, settings.learner.loss.rollout_is_threshold) == (
        "seq-mean-token-sum",
        None,
    )
    assert Settings.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize("algorithm", [one for one in Algorithm if not one.startswith("rltf")])
def test_rivals_set_every_field(algorithm: Algorithm) -> None:
    """A default is a choice of `rltf`."""
    preset = PRESETS[algorithm]
    assert preset.rewards.keys() == RewardSettings.model_fields.keys()
    assert preset.loss.keys() == LossSettings.model_fields.keys()
    assert preset.advantage.keys() == AdvantageSettings.model_fields.keys()
    settings = Settings.model_validate({"algorithm": algorithm, **needs(algorithm)})
    assert settings.rewards.model_dump() == {**settings.rewards.model_dump(), **preset.rewards}
    supervised_weight = 1 if algorithm is Algorithm.CODERL else 0
    assert (settings.rewards.fine_weight, settings.learner.loss.supervised_weight) == (0, supervised_weight)


def needs(algorithm: Algorithm) -> dict[str, object]:
    """The settings without which an algorithm is refused."""
    return {"learner": {"advantage": {"critic": "critic"}}} if algorithm is Algorithm.CODERL else {}


def test_coderl_needs_a_critic() -> None:
    with pytest.raises(ValidationError, match=r"needs learner\.advantage\.critic, .*one with `rltf critic --model"):
        Settings.model_validate({"algorithm": "coderl"})
    without_rl = {"algorithm": "coderl", "learner": {"loss": {"rl_weight": 0}}}
    assert Settings.model_validate(without_rl).learner.advantage.critic is None
    rltf_code = {"algorithm": "rltf-code", "learner": {"advantage": {"critic": "critic"}}}
    assert Settings.model_validate(rltf_code).learner.advantage.critic == Path("critic")


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_likelihood_ratios_need_the_whole_distribution(algorithm: Algorithm) -> None:
    given = {"algorithm": algorithm, "generator": {"top_p": 0.95}, **needs(algorithm)}
    if algorithm in (Algorithm.RLTF_PAPER, Algorithm.RLTF_CODE, Algorithm.CODERL):  # -A log p, without ratios
        assert Settings.model_validate(given).generator.top_p == 0.95
    else:
        with pytest.raises(ValidationError, match=r"generator\.top_p 0\.95 renormalizes .* set it to 1"):
            Settings.model_validate(given)


def test_rewards_stand_on_the_tokens_that_the_estimator_expects() -> None:
    with pytest.raises(
        ValidationError, match=r"rewards\.placement last does not fit learner\.advantage\.estimator outcome"
    ):
        Settings.model_validate({"rewards": {"placement": "last"}})
    with pytest.raises(ValidationError, match=r"rewards\.placement all does not fit learner\.advantage\.estimator gae"):
        Settings.model_validate({"algorithm": "ppo", "rewards": {"placement": "all"}})


@pytest.mark.parametrize(("algorithm", "is_needed"), [("rltf", False), ("rltf-paper", True), ("rltf-code", True)])
def test_greedy_baselines_need_a_greedy_decode(algorithm: str, is_needed: bool) -> None:
    assert Settings.model_validate({"algorithm": algorithm}).rewards.needs_greedy == is_needed

"""The recipes in configs/: what they ask for is shown by a dry run, and they run with a tiny model of their family."""

from __future__ import annotations

import pytest

import launch
from settings import Settings
from settings_sources import STARTER_CONFIG, load_settings

PAPER = ["apps_codet5_large", "apps_codegen_2b", "mbpp_zero_shot"]
RECIPES = [*PAPER, "apps_qwen2.5_coder_1.5b"]


def settings_of(recipe: str) -> Settings:
    return load_settings(["--config", str(STARTER_CONFIG.parent / f"{recipe}.yaml")], {})[0]


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_pass_a_dry_run(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--config", f"configs/{recipe}.yaml", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "apps:codeparrot/apps?split=train" in shown
    assert "GPUs each" in shown


@pytest.mark.parametrize("recipe", PAPER)
def test_the_papers_recipes_have_the_papers_values(recipe: str) -> None:
    settings = settings_of(recipe)
    learner, buffer, generator = settings.learner, settings.buffer, settings.generator
    assert (learner.learning_rate, learner.weight_decay, learner.warmup_steps) == (2e-6, 0.05, 500)
    assert learner.batch_size + learner.supervised_batch_size == 256
    assert (buffer.capacity, buffer.start_samples, buffer.refresh_every) == (6400, 6400, 50)
    assert buffer.capacity == buffer.refresh_every * learner.batch_size
    assert generator.samples_per_problem == (10 if "codegen" in recipe else 20)
    assert (generator.temperature, generator.top_p, generator.max_tokens, generator.greedy) == (1.0, 0.95, 512, True)
    assert (settings.rewards.preset, learner.warm_start.learning_rate) == ("rltf-paper", 2e-5)
    assert 600 <= settings.model.max_length - generator.max_tokens <= 800

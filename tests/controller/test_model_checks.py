"""What a job says about its model before it trains it."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from controller.model_checks import model_warnings
from learner.model_source import model_folder
from problems import load
from settings import Settings
from settings_sources import load_settings
from tests.families import build_family


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_family("llama", tmp_path_factory.mktemp("models") / "pretrained")


def job(*options: str) -> Settings:
    return load_settings(options, {})[0]


def test_rates_that_destroy_pretrained_weights_are_named(pretrained: Path) -> None:
    rl, sft = model_warnings(pretrained, job())
    assert "learner.optim.learning_rate 0.0008 is far too high for pretrained weights" in rl
    assert "--learner.optim.learning_rate 1e-05" in rl
    assert "--learner.sft.learning_rate 0.0001" in sft
    only_rl = job("--learner.sft.num_steps", "0")
    assert model_warnings(pretrained, only_rl) == [rl]
    assert model_warnings(pretrained, job("--model.lora.rank", "8", "--learner.optim.learning_rate", "2e-4")) == []
    fitting = job("--learner.optim.learning_rate", "1e-4", "--learner.sft.learning_rate", "1e-3")
    assert model_warnings(pretrained, fitting) == []


def test_a_model_made_here_may_have_the_rates_of_the_starter_job(tmp_path: Path) -> None:
    tiny = model_folder("tiny", load("starter:train[:5]").problems, tmp_path, seed=0)
    assert model_warnings(tiny, job()) == []
    AutoModelForCausalLM.from_pretrained(tiny).save_pretrained(tmp_path / "checkpoint")
    assert model_warnings(tmp_path / "checkpoint", job()) == []

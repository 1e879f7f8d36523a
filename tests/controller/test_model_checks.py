"""What a job says about its model before it trains it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from rltf.controller.job_checks import check_without_download
from rltf.controller.model_checks import check_model, model_warnings
from rltf.errors import UserError
from rltf.learner.model_source import model_folder
from rltf.problems import load
from rltf.settings import ModelSettings, Settings
from rltf.settings_sources import load_settings
from rltf.transport.model_folder import chat_warning, load_tokenizer, prompt_format
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
    assert "--learner.sft.learning_rate 1e-05" in sft
    only_rl = job("--learner.sft.num_steps", "0")
    assert model_warnings(pretrained, only_rl) == [rl]
    assert model_warnings(pretrained, job("--model.lora.rank", "8", *rates("2e-4"))) == []
    assert model_warnings(pretrained, job(*rates("1e-4"))) == []


def rates(rate: str) -> list[str]:
    return ["--learner.optim.learning_rate", rate, "--learner.sft.learning_rate", rate]


def test_a_dry_run_warns_of_them_too(pretrained: Path) -> None:
    for name in (str(pretrained), "ORG/REPO", "ORG/REPO/NAME.gguf"):
        found = check_without_download(job("--model.name", name, "--learner.sft.num_steps", "0"))
        assert [text for text in found if "0.0008 is far too high" in text], name
    assert not [text for text in check_without_download(job()) if "too high" in text]


def test_a_critic_that_does_not_fit_is_refused(pretrained: Path, tmp_path: Path) -> None:
    settings = job("--algorithm", "coderl", "--learner.advantage.critic", str(tmp_path))
    with pytest.raises(UserError, match=r"learner\.advantage\.critic: .* is not a critic: it has no critic\.json"):
        check_model(pretrained, settings)


def test_a_chat_model_ends_its_answers_with_the_token_that_closes_a_turn(tmp_path: Path) -> None:
    model = build_family("qwen2", tmp_path / "model", chat=True)
    tokenizer = load_tokenizer(model)
    auto, on, off = (ModelSettings(chat_template=word) for word in ("auto", True, "false"))

    def said(settings: ModelSettings) -> str:
        return chat_warning(model, tokenizer, settings) or ""

    assert not prompt_format(model, tokenizer, auto).chat  # a base model that comes with a template
    assert "This is a base model" in said(auto)
    assert "this looks like a base model" in said(on)
    assert said(off) == ""
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    assert prompt_format(model, tokenizer, auto).chat
    assert "This is a chat model" in said(auto)
    assert said(on) == ""
    assert "WARNING: this is a chat model, but model.chat_template is off" in said(off)


def test_what_a_chat_needs_is_refused_without_one(pretrained: Path) -> None:
    tokenizer = load_tokenizer(pretrained)
    for more in ({"system_prompt": "Be brief."}, {"chat_template_kwargs": {"enable_thinking": False}}):
        with pytest.raises(UserError, match=f"model.{next(iter(more))} needs a chat"):
            prompt_format(pretrained, tokenizer, ModelSettings(**more))


def test_a_model_made_here_may_have_the_rates_of_the_starter_job(tmp_path: Path) -> None:
    tiny = model_folder("tiny", load("starter:train[:5]").problems, tmp_path, seed=0)
    assert model_warnings(tiny, job()) == []
    AutoModelForCausalLM.from_pretrained(tiny).save_pretrained(tmp_path / "checkpoint")
    load_tokenizer(tiny).save_pretrained(tmp_path / "checkpoint")
    assert model_warnings(tmp_path / "checkpoint", job()) == []

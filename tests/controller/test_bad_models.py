"""Models that turn out to be unusable when actors load them: one message, exit status 2, and no hang."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.families import CONTEXT, build_family
from tests.jobs import python, small_job

pytestmark = pytest.mark.ray

LONG = pytest.mark.long


def refused(folder: Path, model: str, **settings: str) -> str:
    """The job's message about `model`. The job must exit with status 2 and leave no run behind."""
    options = [word for key, value in settings.items() for word in (f"--{key}", value)]
    done = python("launch.py", *small_job(folder, "job", "--model.name", model, *options), timeout_s=900)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "Traceback" not in said
    assert not (folder / "job").exists()
    return " ".join(said.split())


@LONG
def test_unknown_architecture(tmp_path: Path) -> None:
    config = build_family("llama", tmp_path / "model") / "config.json"
    changed = json.loads(config.read_text()) | {"architectures": ["NoSuchForCausalLM"], "model_type": "nosuch"}
    config.write_text(json.dumps(changed))
    assert "nosuch" in refused(tmp_path, str(tmp_path / "model"))


@LONG
def test_architecture_unknown_to_vllm(tmp_path: Path) -> None:
    config = build_family("llama", tmp_path / "model") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": ["NoSuchForCausalLM"]}))
    said = refused(tmp_path, str(tmp_path / "model"), **{"learner.sft.num_steps": "0"})
    assert "vLLM cannot load" in said
    assert "--generator.engine transformers" in said


@LONG
def test_length_beyond_the_context(tmp_path: Path) -> None:
    model = build_family("gpt2", tmp_path / "model")
    said = refused(tmp_path, str(model), **{"model.max_model_len": str(2 * CONTEXT)})
    assert f"model.max_model_len {2 * CONTEXT} exceeds the {CONTEXT} tokens" in said


@LONG
@pytest.mark.parametrize("sft_steps", [0, 2])
def test_prompts_longer_than_the_context(sft_steps: int, tmp_path: Path) -> None:
    model = build_family("codegen", tmp_path / "model")
    settings = {"model.max_model_len": "40", "generator.max_tokens": "8"}
    if not sft_steps:
        settings["learner.loss.supervised_weight"] = "0"
    settings["learner.sft.num_steps"] = str(sft_steps)
    assert "raise model.max_model_len" in refused(tmp_path, str(model), **settings)


def test_chat_model_without_a_template(tmp_path: Path) -> None:
    model = build_family("qwen2", tmp_path / "model")
    assert "has no chat template" in refused(tmp_path, str(model), **{"model.chat_template": "true"})


@LONG
def test_unreachable_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HF_ENDPOINT", "http://127.0.0.1:9")
    assert "was not found on the Hub" in refused(tmp_path, "Salesforce/codegen-2B-mono")

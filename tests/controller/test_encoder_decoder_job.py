"""Whole jobs with encoder-decoder models and with adapters: SFT, two refreshes, evaluation, saved model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import launch
import rltf.evaluate
from tests.encoder_decoder_models import build_encoder_decoder
from tests.jobs import launch as launch_job
from tests.jobs import python, small_job

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LONG = pytest.mark.long


def encoder_decoder_job(runs: Path, model: Path, *more: str) -> list[str]:
    settings = {
        "model.name": str(model),
        "generator.engine": "transformers",
        "generator.max_num_seqs": "32",
        "generator.max_tokens": "48",
    }
    options = [word for key, value in settings.items() for word in (f"--{key}", value)]
    return small_job(runs, "job", *options, *more, sft_steps=10)


@LONG
@pytest.mark.parametrize("kind", ["codet5", "codet5p", "t5"])
def test_the_saved_model_is_a_plain_one(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = build_encoder_decoder(kind, tmp_path / "model")
    done = launch_job(*encoder_decoder_job(tmp_path, model))
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = [json.loads(line) for line in (tmp_path / "job" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    assert metrics[0]["mismatch_max"] < 1e-4, "sampler and learner disagree on log-probabilities"
    assert len({row["weights_version"] for row in metrics}) == 2
    evaluations = (tmp_path / "job" / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in evaluations] == [0, 2, 4]

    checkpoint = tmp_path / "job" / "checkpoints" / "step-4"
    trained = AutoModelForSeq2SeqLM.from_pretrained(checkpoint, dtype=torch.float32)
    initial = AutoModelForSeq2SeqLM.from_pretrained(model, dtype=torch.float32)
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), initial.parameters(), strict=True))
    prompt = AutoTokenizer.from_pretrained(checkpoint)("Write solve(xs).", return_tensors="pt")
    assert trained.generate(**prompt, max_new_tokens=5).shape[0] == 1

    asked = ["--model", str(checkpoint), "--problems", "starter:test[:4]", "--output", str(tmp_path / "evaluation")]
    sampling = ["--engine", "transformers", "--dtype", "float32", "--max-tokens", "32"]
    evaluated = python("evaluate.py", *asked, *sampling)
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    assert json.loads((tmp_path / "evaluation" / "results.json").read_text())["num_samples"] == 4


def test_vllm_is_refused_and_the_message_says_what_to_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_encoder_decoder("codet5", tmp_path / "model")
    asked = ["--model", str(model), "--problems", "starter:test[:4]", "--output", str(tmp_path / "evaluation")]
    assert rltf.evaluate.main(asked) == 2
    assert "evaluate.py `--engine transformers`" in " ".join(capsys.readouterr().err.split())
    assert launch.main(encoder_decoder_job(tmp_path, model, "--generator.engine", "vllm")) == 2
    assert "`--generator.engine transformers`" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "job").exists()


@LONG
@pytest.mark.parametrize("publish", ["merged", "adapter"])
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_a_job_with_adapters_resumes_and_saves_a_plain_model(publish: str, engine: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    adapters = ["--model.lora.rank", "4", "--model.lora.publish", publish]
    auto: Any
    if engine == "vllm":
        arguments, auto = small_job(tmp_path, "job", *adapters, sft_steps=10), AutoModelForCausalLM
    else:
        model = build_encoder_decoder("codet5", tmp_path / "model")
        arguments, auto = encoder_decoder_job(tmp_path, model, *adapters), AutoModelForSeq2SeqLM
    done = launch_job(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    resumed = launch_job("--resume", str(tmp_path / "job"), "--run.num_steps", "6")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    metrics = [json.loads(line) for line in (tmp_path / "job" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]
    assert metrics[0]["mismatch_max"] < 1e-4, "sampler and learner disagree on log-probabilities"
    checkpoint = tmp_path / "job" / "checkpoints" / "step-6"
    assert not any("lora" in name for name, _ in auto.from_pretrained(checkpoint).named_parameters())
    assert (checkpoint / "trainer_state" / "adapter" / "adapter_config.json").is_file()


@LONG
def test_problems_with_too_long_prompts_are_named_and_left_out(tmp_path: Path) -> None:
    model = build_encoder_decoder("codet5", tmp_path / "model")
    rows = [
        {"task_id": f"p{i}", "statement": statement, "tests": [{"stdin": "1\n", "expected": "1\n"}]}
        for i, statement in enumerate(["short", "also short", "long " * 400])
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = launch_job(*encoder_decoder_job(tmp_path, model, "--problems.train", f"jsonl:{tmp_path}/own.jsonl"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 problems are left out" in done.stdout
    assert "p2" in done.stdout

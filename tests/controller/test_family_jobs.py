"""Whole jobs with a model of every family: SFT, two refreshes of reinforcement learning, evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.families import FAMILIES, WINDOW, build_family
from tests.jobs import python, small_job

pytestmark = pytest.mark.ray


def run_job(folder: Path, family: str, *, chat: bool = False) -> list[dict[str, Any]]:
    """Run a job with a new model of `family` in `folder / "job"`. It must succeed; returns its metrics."""
    model = build_family(family, folder / "model", chat=chat)
    settings = {
        "model.name": str(model),
        "model.max_model_len": str(WINDOW),
        "model.chat_template": str(chat).lower(),
        "problems.evaluation": "starter:test[:3]",
        "generator.max_tokens": "48",
        "evaluation.every": "4",
    }
    options = [word for key, value in settings.items() for word in (f"--{key}", value)]
    done = python("launch.py", *small_job(folder, "job", *options, sft_steps=4), timeout_s=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in (folder / "job" / "metrics.jsonl").read_text().splitlines()]


def assert_learned_and_saved(folder: Path, metrics: list[dict[str, Any]]) -> None:
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    assert len({row["weights_version"] for row in metrics}) == 2
    # For samples from the learner's current weights, sampler and learner agree on log-probabilities.
    assert metrics[0]["mismatch_max"] < 1e-3
    assert all("infrastructure_error" not in row["outcomes"] for row in metrics)
    evaluations = (folder / "job" / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in evaluations] == [0, 4]
    original, trained = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        for path in (folder / "model", folder / "job" / "checkpoints" / "step-4")
    )
    assert type(trained) is type(original)
    moved = [not torch.equal(a, b) for a, b in zip(original.parameters(), trained.parameters(), strict=True)]
    assert all(moved)


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns(family: str, tmp_path: Path) -> None:
    assert_learned_and_saved(tmp_path, run_job(tmp_path, family))


@pytest.mark.long
def test_a_chat_model_learns_through_its_template(tmp_path: Path) -> None:
    assert_learned_and_saved(tmp_path, run_job(tmp_path, "qwen2", chat=True))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "job" / "checkpoints" / "step-4")
    assert tokenizer.chat_template
    evaluated = python(
        *("evaluate.py", "--model", str(tmp_path / "job" / "checkpoints" / "step-4"), "--chat-template"),
        *("--problems", "starter:test[:2]", "--num-samples", "2", "--max-tokens", "32", "--dtype", "float32"),
        *("--output", str(tmp_path / "evaluated")),
    )
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    assert json.loads((tmp_path / "evaluated" / "results.json").read_text())["num_samples"] == 4

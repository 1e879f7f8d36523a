"""The recipes in configs/: they pass a dry run, and they run with a tiny model of their family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import launch
from rltf.problems import load
from rltf.problems.prompts import render_prompt
from rltf.settings import Settings
from rltf.settings_sources import STARTER_CONFIG, load_settings
from tests.benchmark_files import DATA, needs_data
from tests.encoder_decoder_models import build_encoder_decoder
from tests.families import build_family
from tests.jobs import launch as run

PAPER = ["apps_codet5_large", "apps_codegen_2b", "mbpp_zero_shot"]
QWEN = [f"apps_qwen2.5_coder_{size}" for size in ("1.5b", "7b", "14b", "7b_lora")]
RECIPES = [*PAPER, *QWEN]


def settings_of(recipe: str) -> Settings:
    return load_settings(["--config", str(STARTER_CONFIG.parent / f"{recipe}.yaml")], {})[0]


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_pass_a_dry_run(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--config", f"configs/{recipe}.yaml", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "apps:codeparrot/apps?split=train" in shown
    assert "GPUs each" in shown


@pytest.mark.parametrize("recipe", PAPER)
def test_paper_recipes_have_the_values_of_the_paper(recipe: str) -> None:
    settings = settings_of(recipe)
    learner, buffer, generator = settings.learner, settings.buffer, settings.generator
    assert (learner.optim.learning_rate, learner.optim.weight_decay, learner.optim.warmup_steps) == (2e-6, 0.05, 500)
    assert learner.batch_size + learner.supervised_batch_size == 256
    assert (buffer.capacity, buffer.start_samples, buffer.refresh_every) == (6400, 6400, 50)
    assert buffer.capacity == buffer.refresh_every * learner.batch_size
    assert generator.num_generations == (10 if "codegen" in recipe else 20)
    assert (generator.temperature, generator.top_p, generator.max_tokens) == (1.0, 0.95, 512)
    assert (settings.algorithm, learner.sft.learning_rate) == ("rltf-paper", 2e-5)
    assert 600 <= settings.model.max_model_len - generator.max_tokens <= 800


def run_recipe(recipe: str, model: Path, folder: Path, **more: str) -> None:
    """Make two updates of a recipe on APPS rows, with `model` as its model and sizes for two cores."""
    settings = {
        "model.dtype": "float32",
        "problems.train": f"apps:{DATA}/apps/train?difficulty=introductory[-12:]",
        "problems.evaluation": f"apps:{DATA}/apps/test[0:2]",
        "generator.num_cpus": "0.5",
        "generator.num_gpus": "0",
        "generator.num_generations": "4",
        "generator.max_tokens": "24",
        "generator.max_num_seqs": "8",
        "generator.kv_cache_bytes": str(2**27),
        "sandbox.min_workers": "1",
        "sandbox.max_workers": "2",
        "sandbox.num_cpus": "0.25",
        "learner.num_cpus": "0.5",
        "learner.num_gpus": "0",
        "learner.batch_size": "8",
        "learner.supervised_batch_size": "4",
        "learner.sft.num_steps": "2",
        "learner.sft.batch_size": "4",
        "learner.sft.cache_dir": str(folder / "cache"),
        "buffer.start_samples": "8",
        "buffer.capacity": "64",
        "buffer.refresh_every": "1",
        "evaluation.every": "2",
        "evaluation.num_samples": "1",
        "evaluation.ks": "1",
        "cluster.object_store_bytes": str(2**28),
        "cluster.dashboard": "false",
        "run.num_steps": "2",
        "run.dir": str(folder / "run"),
    } | more
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    done = run("--config", f"configs/{recipe}.yaml", "--model", str(model), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2]
    assert all("infrastructure_error" not in row["outcomes"] for row in metrics)
    evaluations = [json.loads(line) for line in (folder / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert [row["num_problems"] for row in evaluations] == [2, 2]
    assert (folder / "run" / "checkpoints" / "step-2" / "config.json").is_file()


def statements() -> tuple[str, ...]:
    """Texts for the vocabulary of a tiny model, so prompts are not encoded byte by byte."""
    return tuple(render_prompt(problem) for problem in load(f"apps:{DATA}/apps/train[0:40]").problems)


@needs_data
@pytest.mark.long
def test_codet5_recipe_makes_two_updates(tmp_path: Path) -> None:
    model = build_encoder_decoder("codet5", tmp_path / "model", texts=statements())
    run_recipe("apps_codet5_large", model, tmp_path)


@needs_data
@pytest.mark.long
def test_mbpp_zero_shot_recipe_makes_two_updates(tmp_path: Path) -> None:
    model = build_encoder_decoder("codet5", tmp_path / "model", texts=statements())
    held_out = f"mbpp:{DATA}/mbpp/mbpp.jsonl?split=test[0:2]"
    run_recipe("mbpp_zero_shot", model, tmp_path, **{"problems.evaluation": held_out})


@needs_data
@pytest.mark.long
@pytest.mark.parametrize(("recipe", "family"), [("apps_codegen_2b", "codegen"), ("apps_qwen2.5_coder_1.5b", "qwen2")])
def test_decoder_recipes_make_two_updates(recipe: str, family: str, tmp_path: Path) -> None:
    # Problems with short statements, because the contexts are tiny.
    model = build_family(family, tmp_path / "model")
    settings = {"model.max_model_len": "512", "problems.evaluation": f"mbpp:{DATA}/mbpp/mbpp.jsonl?split=test[0:2]"}
    if family == "qwen2":
        settings["learner.sft.num_steps"] = "0"
    run_recipe(recipe, model, tmp_path, **settings)

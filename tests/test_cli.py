"""The command `rltf`: help and error messages come at once, and every command reaches its room."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import launch
from rltf import cli
from rltf.settings import PlanOptions, Settings
from rltf.settings.reference import leaf_fields

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "ray", "vllm", "transformers", "datasets"}
JOBS = [name for name, command in cli.COMMANDS.items() if command.function is None]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(arguments) == 0
    return " ".join(capsys.readouterr().out.split())


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(arguments) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, *arguments)
    for name, command in cli.COMMANDS.items():
        assert f"{name} {command.summary}" in text


def test_help_for_a_job_is_folded(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "train", "--help")
    for section in Settings.model_fields:
        assert section in text
    assert "--algorithm {rltf,rltf-paper,rltf-code,coderl," in text
    assert "--learner.optim.weight_decay" not in text


@pytest.mark.parametrize(
    "arguments", [("--help", "learner"), ("train", "--help", "learner"), ("plan", "-h", "learner")]
)
def test_help_unfolds_a_section(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, *arguments)
    for path in leaf_fields(Settings):
        assert (f"--{'.'.join(path)} " in text) == (path[0] == "learner")
    assert "--learner.loss.loss_agg_mode {token-mean,seq-mean-token-mean,seq-mean-token-sum," in text
    assert "--learner.micro_batch_tokens INT > 0, multiple of 8" in text
    assert "--learner.sft.final_learning_rate FLOAT ≥ 0, ≤ 1" in text


def test_help_for_everything_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "train", "--help", "all")
    for path, field in (leaf_fields(Settings) | leaf_fields(PlanOptions, ("plan",))).items():
        assert f"--{'.'.join(path)}" in text
        assert " ".join((field.description or "").split()) in text


def test_help_for_an_unknown_section_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean learner?" in refused(capsys, "train", "--help", "lerner")


def test_mistakes_name_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "trian") == "rltf: unknown command 'trian': did you mean train?"
    assert refused(capsys, "zzz").startswith("rltf: unknown command 'zzz': the commands are train, plan,")
    assert refused(capsys, "train", "--lr", "1").startswith("rltf train: unknown option --lr")
    assert refused(capsys, "replay", "absent").startswith("rltf replay: --replay absent: not a run folder")
    assert launch.main(["--lr", "1"]) == 2
    assert capsys.readouterr().err.startswith("launch.py: unknown option --lr")


def test_help_and_mistakes_import_nothing_heavy() -> None:
    helps, mistakes = [[name, "--help"] for name in JOBS], [[name, "--lr", "1"] for name in JOBS]
    program = f"""
import sys
from rltf import cli
for arguments in {[["--help"], ["--help", "all"], *helps, *mistakes]}:
    cli.main(arguments)
    assert not {HEAVY} & set(sys.modules), arguments
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", ["launch.py", "rltf/cli.py"])
def test_scripts_import_nothing_heavy_before_parsing(script: str) -> None:
    program = f"import runpy, sys; runpy.run_path({script!r}); print('imported:', *{HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "imported:\n"


def test_completion_offers_commands_and_settings() -> None:
    script = """
        eval "$(python -m rltf.cli completion)"
        compgen_of() { complete -p rltf | sed "s/.*-W '\\(.*\\)' rltf/\\1/"; }
        compgen -W "$(compgen_of)" -- tra
        compgen -W "$(compgen_of)" -- --learner.optim.l
    """.replace("python", sys.executable)
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["train", "train-repair", "--learner.optim.learning_rate"]


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name not in [*JOBS, "completion"]])
def test_commands_reach_their_room(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, _, function = str(cli.COMMANDS[name].function).partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: rltf {name}")

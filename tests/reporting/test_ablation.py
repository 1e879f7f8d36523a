"""Tables and figure of the ablation, from run folders with known numbers, and the settings of its rows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest

from rltf.evaluation import command as evaluate
from rltf.evaluation import critic_command
from rltf.reporting.comparisons import interval
from rltf.sandbox.command import limits_of, parse_options
from rltf.settings import PRESETS, Algorithm, Localize
from rltf.settings_sources import load_settings
from scripts.ablation_tables import ROWS, TERMS, is_finished, main
from tests.jobs import python


def write_run(folder: Path, num_passed: dict[str, int], *, step: int = 4) -> None:
    folder.mkdir(parents=True)
    (folder / "settings.yaml").write_text("run:\n  num_steps: 4\n")
    row = {"step": step, "num_samples": 2 * len(num_passed), "num_passed": num_passed}
    (folder / "evaluations.jsonl").write_text(json.dumps(row) + "\n")


def write_samples(folder: Path, *ends: tuple[str, str | None, int | None]) -> None:
    (folder / "samples").mkdir()
    rows = [{"outcome": outcome, "error_type": kind, "error_line": line} for outcome, kind, line in ends]
    (folder / "samples" / "refresh-000001.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_and_paired_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        write_run(tmp_path / f"sl-{seed}", {"a": 0, "b": 1})
        write_run(tmp_path / f"coarse-{seed}", {"a": 1, "b": 2})
        write_run(tmp_path / f"rltf-{seed}", {"a": 1, "b": 2})
    write_samples(
        tmp_path / "rltf-0", ("passed", None, None), ("runtime_error", "NameError", 2), ("failed", None, None)
    )
    assert main([str(tmp_path), "--output", str(tmp_path / "figure.png")]) == 0
    printed = capsys.readouterr().out
    assert "3 seeds, 2 held-out problems" in printed
    assert "| SL only | 25.0 [0.0, 50.0] | 25.0, 25.0, 25.0 |" in printed
    # Every problem gains a half in every seed, so the bootstrap has nothing to vary.
    assert "| + coarse - SL only | 50.0 [50.0, 50.0] | above 0 |" in printed
    assert "33.3 % end in an error with a line number: NameError 33.3 %" in printed
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_rows_are_compared_with_their_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        write_run(tmp_path / f"sl-{seed}", {"a": 0, "b": 2})
        write_run(tmp_path / f"grpo-{seed}", {"a": 1, "b": 1})
        evaluations = tmp_path / f"sl-{seed}" / "evaluations.jsonl"
        before = {"step": 0, "num_samples": 4, "num_passed": {"a": 0, "b": 1}}
        evaluations.write_text(json.dumps(before) + "\n" + evaluations.read_text())
    assert main([str(tmp_path), "--output", str(tmp_path / "figure.png")]) == 0
    printed = capsys.readouterr().out
    assert "| after SFT | 25.0 [0.0, 50.0] | 25.0, 25.0 |" in printed
    assert "| preset `grpo` - after SFT | 25.0 [0.0, 50.0] | not established |" in printed


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: write_run(folder / "coarse-0", {"a": 1}, step=3), "coarse-0 is not finished"),
        (lambda folder: write_run(folder / "coarse-0", {"b": 1}), "evaluated on different problems"),
        (lambda folder: write_run(folder / "coarse-1", {"a": 1}), "row coarse has the seeds 1, but other rows have 0"),
    ],
)
def test_incomparable_runs_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: object, message: str
) -> None:
    write_run(tmp_path / "sl-0", {"a": 1})
    assert callable(spoil)
    spoil(tmp_path)
    assert main([str(tmp_path), "--output", str(tmp_path / "figure.png")]) == 2
    assert message in capsys.readouterr().err


def test_interval_covers_seeds_and_problems() -> None:
    # All problems of a seed agree and only seeds vary: an interval over problems alone would have no width.
    passes = np.repeat([[0.0], [1.0], [0.0], [1.0]], 50, axis=1)
    found = interval(passes)
    assert found.mean == 50.0
    assert found.low < 20
    assert found.high > 80


def commands_of(output: Path, *rows: str, num_seeds: int = 1, more: Sequence[str] = ()) -> dict[str, list[str]]:
    """The words of the commands that an ablation with these rows would run, by name."""
    options = ["--dry-run", "--seeds", str(num_seeds), "--jobs", "1", "--output", str(output), "--rows", *rows, *more]
    done = python("-m", "benchmarks.ablation", *options)
    assert done.returncode == 0, done.stderr
    lines = (line.partition(": ") for line in done.stdout.splitlines())
    return {name: shlex.split(command) for name, _, command in lines}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablation")


@pytest.fixture(scope="module")
def commands(output: Path) -> dict[str, list[str]]:
    return commands_of(output, *ROWS)


@pytest.mark.parametrize("row", TERMS)
def test_every_row_has_valid_settings(row: str, commands: dict[str, list[str]]) -> None:
    script, *arguments = commands[f"{row}-0"]
    assert script == "launch.py"
    settings, _ = load_settings(arguments, {})
    weights = settings.rewards
    assert settings.learner.loss.rl_weight == (0 if row == "sl" else 1)
    assert (weights.fine_weight > 0) == (row != "coarse")
    assert (weights.adaptive_weight > 0) == (row not in ("coarse", "coarse-fine"))
    assert (weights.static_weight > 0) == (row == "static")
    assert (settings.buffer.refresh_every == settings.run.num_steps) == (row == "offline")
    assert settings.algorithm == (row if row.startswith("rltf-") else "rltf")


@pytest.mark.parametrize("row", [row for row in ROWS if row not in TERMS])
def test_rivals_have_their_own_reward_or_that_of_all(row: str, commands: dict[str, list[str]]) -> None:
    settings, _ = load_settings(commands[f"{row}-0"][1:], {})
    algorithm, same, _ = row.partition("-same")
    assert settings.algorithm == algorithm
    expected = ("coarse", 1, 1, 0) if same else (PRESETS[Algorithm(settings.algorithm)].rewards["outcome"], 1, 0, 0)
    rewards = settings.rewards
    assert (rewards.outcome, rewards.coarse_weight, rewards.adaptive_weight, rewards.fine_weight) == expected
    assert (rewards.structure_weight > 0) == (row == "ppocoder")
    # A reward from references needs problems that have some. The others are sampled from those of all rows.
    assert ("starter:pitfalls-train?references=yes" in settings.problems.train) == (row == "ppocoder")


def test_lines_to_blame_are_the_only_difference_of_their_row(commands: dict[str, list[str]]) -> None:
    rltf, siblings = (load_settings(commands[f"{row}-0"][1:], {})[0] for row in ("rltf", "siblings"))
    assert siblings.rewards == rltf.rewards.model_copy(update={"localize": Localize.SIBLINGS})
    assert siblings.learner == rltf.learner


def test_coderl_gets_a_critic_of_the_model_that_all_rows_of_a_seed_start_from(
    output: Path, commands: dict[str, list[str]]
) -> None:
    assert list(commands)[:3] == ["start-0", "graded-0", "critic-0"]  # before any row
    start, coderl, rltf = (load_settings(commands[f"{name}-0"][1:], {})[0] for name in ("start", "coderl", "rltf"))
    assert start.learner.optim.learning_rate == 0
    for shared in ("model", "learner.sft", "problems.train", "problems.supervised", "run.seed"):
        assert len({repr(attrgetter(shared)(settings)) for settings in (start, coderl, rltf)}) == 1, shared
    graded = parse_options(evaluate.parser(), commands["graded-0"][3:])
    critic = parse_options(critic_command._parser(), commands["critic-0"][3:])
    assert graded.model == critic.model == str(start.run.folder / "checkpoints" / f"step-{start.run.num_steps}")
    assert tuple(graded.problems) == coderl.problems.train
    assert (graded.temperature, graded.top_p, graded.max_tokens) == (1.0, 1.0, coderl.generator.max_tokens)
    assert limits_of(graded).cpu_s == coderl.sandbox.cpu_s
    assert critic.samples == [graded.output]
    assert (start.run.folder, graded.output, critic.output) == (
        output / "start-0",
        output / "graded-0",
        output / "critic-0",
    )
    users = [name for name, words in commands.items() if "--learner.advantage.critic" in words]
    assert users == ["coderl-0", "coderl-same-0"]
    assert coderl.learner.advantage.critic == critic.output


def test_rates_are_compared_on_a_seed_that_the_table_does_not_have(tmp_path: Path) -> None:
    tuning = commands_of(tmp_path, "rltf", "coderl", more=["--tune"])
    assert list(tuning) == [
        *("start-9", "graded-9", "critic-9"),
        *("rltf-0.0008-9", "rltf-0.00025-9", "coderl-0.0008-9", "coderl-0.00025-9"),
    ]
    table = commands_of(tmp_path, "rltf", "rloo", "rloo-same")

    def found(commands: dict[str, list[str]], name: str) -> tuple[int, float]:
        settings, _ = load_settings(commands[name][1:], {})
        return settings.run.seed, settings.learner.optim.learning_rate

    assert [found(tuning, name) for name in list(tuning)[3:]] == [(9, 8e-4), (9, 2.5e-4)] * 2
    assert [found(table, f"{row}-0") for row in ("rltf", "rloo", "rloo-same")] == [(0, 8e-4), (0, 2.5e-4), (0, 2.5e-4)]


def test_another_job_with_settings_of_its_own(tmp_path: Path) -> None:
    more = ["--config", "configs/mbpp_smollm2.yaml", "--run.num_steps", "30", "--problems.evaluation", "starter:test"]
    found = commands_of(tmp_path, "rltf", "grpo", "coderl", more=more)
    rltf, grpo, coderl = (load_settings(found[f"{row}-0"][1:], {})[0] for row in ("rltf", "grpo", "coderl"))
    assert rltf.run.num_steps == grpo.run.num_steps == coderl.run.num_steps == 30
    assert rltf.problems.evaluation == grpo.problems.evaluation == ("starter:test",)
    assert rltf.evaluation.initial
    assert not grpo.evaluation.initial
    assert rltf.generator.max_num_seqs == grpo.generator.max_num_seqs == 64  # of the config
    # The config's supervised weight is meant for `rltf`.
    assert [one.learner.loss.supervised_weight for one in (rltf, grpo, coderl)] == [0.1, 0, 1]
    assert [one.learner.optim.learning_rate for one in (rltf, grpo, coderl)] == [3e-5, 9.375e-6, 3e-5]


def test_what_is_there_of_a_critic_is_not_made_again(tmp_path: Path) -> None:
    for seed in (1, 2):
        (tmp_path / f"start-{seed}" / "checkpoints" / "step-1").mkdir(parents=True)
        (tmp_path / f"graded-{seed}").mkdir()
        (tmp_path / f"graded-{seed}" / "samples.jsonl").write_text("")  # it is interrupted, and continues
    (tmp_path / "graded-2" / "results.json").write_text("{}")
    (tmp_path / "critic-3").mkdir()
    assert list(commands_of(tmp_path, "coderl", num_seeds=4)) == [
        *("start-0", "graded-0", "critic-0", "coderl-0"),
        *("graded-1", "critic-1", "coderl-1"),
        *("critic-2", "coderl-2"),
        "coderl-3",
    ]
    assert list(commands_of(tmp_path, "grpo")) == ["grpo-0"]


def test_an_interrupted_run_is_not_finished(tmp_path: Path) -> None:
    assert not is_finished(tmp_path / "absent")
    write_run(tmp_path / "begun", {"a": 1}, step=2)
    assert not is_finished(tmp_path / "begun")
    write_run(tmp_path / "done", {"a": 1})
    assert is_finished(tmp_path / "done")

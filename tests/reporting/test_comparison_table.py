"""The table that compares runs with their controls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rltf.reporting.command import main


def write_run(folder: Path, before: int, after: dict[str, int], **sets: list[str]) -> Path:
    """A run in which each problem has 4 programs; `before` pass at the start and `after[problem]` at the end."""
    folder.mkdir()
    rows = []
    for step, passed in ((0, dict.fromkeys(after, before)), (9, after)):
        groups = {"all": list(passed), **sets}
        shares = {name: sum(passed[task] for task in tasks) / (4 * len(tasks)) for name, tasks in groups.items()}
        rows.append(
            {
                "step": step,
                "problems": "starter:test",
                "pass@1": shares,
                "intervals": {"pass@1": {name: [share - 0.1, share + 0.1] for name, share in shares.items()}},
                "num_samples": 4 * len(passed),
                "num_passed": passed,
                "sets": {name: {"problems": "starter:test", "task_ids": tasks} for name, tasks in sets.items()},
            }
        )
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_table_has_gain_and_paired_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "rl-0", 1, {"a": 4, "b": 2})
    control = write_run(tmp_path / "sl-0", 1, {"a": 2, "b": 0})
    assert main(["compare", "--runs", str(run), "--controls", str(control)]) == 0
    table = capsys.readouterr().out
    assert "| rl-0 | 25.0 % [15.0, 35.0] | 75.0 % [65.0, 85.0] | +50.0 | 25.0 % [15.0, 35.0] |" in table
    # Both problems gain a half, so the bootstrap has nothing to vary.
    assert "Mean gain over the controls, over 1 seeds: 50.0 points (95 % interval 50.0 to 50.0)" in table


def test_without_controls_the_gain_is_over_the_first_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(write_run(tmp_path / f"rl-{seed}", 1, {"a": 4, "b": 4})) for seed in range(2)]
    assert main(["compare", "--runs", *runs]) == 0
    table = capsys.readouterr().out
    assert "| rl-0 | 25.0 % [15.0, 35.0] | 100.0 % [90.0, 110.0] | +75.0 |" in table
    assert "Mean gain from training, over 2 seeds: 75.0 points (95 % interval 75.0 to 75.0)" in table


def test_each_named_set_has_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "rl-0", 1, {"a": 4, "b": 2, "c": 2}, first=["b", "a"], second=["c"])
    control = write_run(tmp_path / "sl-0", 1, {"a": 2, "b": 0, "c": 2}, second=["c"], first=["a", "b"])
    assert main(["compare", "--runs", str(run), "--controls", str(control)]) == 0
    first, second = capsys.readouterr().out.split("**second**")
    assert first.startswith("**first**\n\n| run | before | after | gain | control after |")
    assert "| rl-0 | 25.0 % [15.0, 35.0] | 75.0 % [65.0, 85.0] | +50.0 | 25.0 % [15.0, 35.0] |" in first
    assert "over 1 seeds: 50.0 points (95 % interval 50.0 to 50.0)" in first
    assert "over 1 seeds: 0.0 points (95 % interval 0.0 to 0.0)" in second


def test_runs_with_other_sets_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(write_run(tmp_path / "rl-0", 1, {"a": 4, "b": 2}, first=["a"]))
    other = write_run(tmp_path / "rl-1", 1, {"a": 4, "b": 2}, first=["b"])
    assert main(["compare", "--runs", run, str(other)]) == 2
    assert "rl-1 was evaluated on different problems in first than" in capsys.readouterr().err
    without = write_run(tmp_path / "rl-2", 1, {"a": 4, "b": 2})
    assert main(["compare", "--runs", run, str(without)]) == 2
    assert "rl-2 has no evaluations of pass@1 on first before and after training" in capsys.readouterr().err


def test_different_problems_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "rl-0", 1, {"a": 4})
    control = write_run(tmp_path / "sl-0", 1, {"b": 4})
    assert main(["compare", "--runs", str(run), "--controls", str(control)]) == 2
    assert "sl-0 was evaluated on different problems" in capsys.readouterr().err

"""The table that compares runs with their controls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reporting.command import main


def write_run(folder: Path, before: int, after: dict[str, int]) -> Path:
    """A run in which each problem has 4 programs; `before` pass at the start and `after[problem]` at the end."""
    folder.mkdir()
    rows = []
    for step, passed in ((0, dict.fromkeys(after, before)), (9, after)):
        share = sum(passed.values()) / (4 * len(passed))
        rows.append(
            {
                "step": step,
                "problems": "starter:test",
                "pass@1": {"all": share},
                "intervals": {"pass@1": {"all": [share - 0.1, share + 0.1]}},
                "num_samples": 4 * len(passed),
                "num_passed": passed,
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


def test_different_problems_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "rl-0", 1, {"a": 4})
    control = write_run(tmp_path / "sl-0", 1, {"b": 4})
    assert main(["compare", "--runs", str(run), "--controls", str(control)]) == 2
    assert "sl-0 was evaluated on different problems" in capsys.readouterr().err

"""The functions for verl, called as verl calls them. `with_verl.py` has the tests with verl itself."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from rltf.adapters import verl as adapter
from rltf.adapters.scoring import GraderError
from tests.adapters.cases import ANY, BROKEN_ROW, HALF, PASS_RATIO, RIGHT, ROW

WORKER = {"workers": 1}


def test_scores_and_what_verl_logs() -> None:
    result = adapter.compute_score("any", HALF, ROW, {"split": "train"}, **WORKER)
    assert result == {"score": 0.0, "acc": 0.0, "pass_ratio": 0.5, "grader_error": 0.0}
    results = adapter.compute_score_batch(["any"] * 3, [*PASS_RATIO], [ROW] * 3, score="pass_ratio", **WORKER)
    assert [result["score"] for result in results] == [*PASS_RATIO.values()]


def test_a_failure_of_the_grader_ends_the_run_unless_it_has_a_score() -> None:
    with pytest.raises(GraderError, match="problem broken"):
        adapter.compute_score("any", ANY, BROKEN_ROW, **WORKER)
    with pytest.raises(GraderError, match="problem broken"):
        adapter.compute_score_batch(["any"] * 2, [RIGHT, ANY], [ROW, BROKEN_ROW], **WORKER)
    result = adapter.compute_score("any", ANY, BROKEN_ROW, grader_error_score=0.25, **WORKER)
    assert result == {"score": 0.25, "acc": 0.0, "pass_ratio": 0.0, "grader_error": 1.0}


def test_the_example_writes_rows_that_can_be_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    root, output = Path(__file__).parents[2], tmp_path / "train.parquet"
    rows = root / "examples" / "own_problems.jsonl"
    monkeypatch.setattr(sys, "argv", ["verl_data.py", "--rows", str(rows), "--output", str(output)])
    runpy.run_path(str(root / "examples" / "trainers" / "verl_data.py"), run_name="__main__")
    table = pyarrow.parquet.read_table(output).to_pylist()
    assert len(table) == len(rows.read_text().splitlines())
    assert table[0]["prompt"][0]["content"].endswith("Read two integers from one line and print their sum.")
    program = "print(sum(map(int, input().split())))"
    result = adapter.compute_score(table[0]["data_source"], program, table[0]["reward_model"]["ground_truth"], **WORKER)
    assert result["score"] == 1.0

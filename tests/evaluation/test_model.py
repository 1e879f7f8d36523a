"""A model folder is sampled, graded and counted; an interrupted evaluation gets the programs it would have had."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rltf.evaluate import main
from rltf.evaluation.store import read_samples


def problem_file(folder: Path) -> str:
    rows = [
        {"task_id": name, "statement": statement, "tests": [{"stdin": "", "expected": "1"}]}
        for name, statement in (("first", "Print 1."), ("long", "word " * 400), ("last", "Print one."))
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{folder / 'problems.jsonl'}"


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row | {"seconds": 0} for row in read_samples(folder)]


def by_id(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["completion_id"]: row for row in rows(folder)}


@pytest.mark.ray
def test_a_model_folder_is_evaluated_and_resumed(tmp_path: Path, tiny_model_dir: Path) -> None:
    command = ["--model", str(tiny_model_dir), "--problems", problem_file(tmp_path), "--num-samples", "3"]
    command += ["--max-tokens", "8", "--dtype", "float32", "--k", "1", "3"]
    command += ["--output", str(tmp_path / "out")]
    assert main(command) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (found["num_problems"], found["num_samples"]) == (3, 9)
    whole = rows(tmp_path / "out")
    programs = {name: [row["code"] for row in whole if row["task_id"] == name] for name in ("first", "long", "last")}
    assert programs["long"] == [""] * 3
    assert len(set(programs["first"])) == len(set(programs["last"])) == 3
    lines = (tmp_path / "out" / "samples.jsonl").read_text().splitlines(keepends=True)
    for num_kept in (7, 4, 0):
        (tmp_path / "out" / "samples.jsonl").write_text("".join(lines[:num_kept]))
        assert main(command) == 0
        assert by_id(tmp_path / "out") == {row["completion_id"]: row for row in whole}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "no-such-folder"], "is not a local folder and was not found on the Hub"),
        (["--model", "tiny"], "one of its checkpoints"),
        (["--model", "no-such-folder", "--k", "2"], "--num-samples is 1"),
        (["--model", "no-such-folder", "--temperature", "-1"], "--temperature"),
        (["--model", "no-such-folder", "--temperature", "0", "--num-samples", "2"], "one program per problem"),
    ],
)
def test_unusable_models(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main([*options, "--problems", problem_file(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_a_model_without_a_tokenizer_is_named(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    for file in model.glob("token*"):
        file.unlink()
    options = ["--model", str(model), "--problems", problem_file(tmp_path), "--output", str(tmp_path / "out")]
    assert main(options) == 2
    assert "tokenizer" in capsys.readouterr().err

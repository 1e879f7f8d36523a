"""A job with a mistake prints one message before anything starts, and exits with status 2."""

from __future__ import annotations

from pathlib import Path

import pytest

import launch
from controller.cluster import check_resources
from errors import UserError
from settings import Settings
from tests.families import FAMILIES, build_family
from tests.jobs import small_job


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert launch.main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return " ".join(captured.err.split())


def test_unknown_setting_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "learner.optim.learning_rate" in failing(capsys, "--learner.learning_rat", "1e-3")


def test_wrong_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert "run.num_steps" in failing(capsys, "--run.num_steps", "many")


def test_problem_file_without_usable_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"task_id": 1, "text": "no tests"}\n')
    message = failing(capsys, *small_job(tmp_path, "job", "--problems.train", f"mbpp:{rows}"))
    assert f"{rows}:1" in message
    assert not (tmp_path / "job").exists()


def test_folder_that_already_holds_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    held = tmp_path / "job" / "metrics.jsonl"
    held.parent.mkdir()
    held.write_text("precious\n")
    assert str(held.parent) in failing(capsys, *small_job(tmp_path, "job"))
    assert held.read_text() == "precious\n"
    assert list(held.parent.iterdir()) == [held]


def test_no_bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install bubblewrap"):
        check_resources(Settings())


def test_too_little_memory() -> None:
    settings = Settings.model_validate({"cluster": {"object_store_bytes": 2**50}})
    with pytest.raises(UserError, match=r"cluster\.object_store_bytes"):
        check_resources(settings)


def test_model_folder_without_a_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    message = failing(capsys, *small_job(tmp_path, "job", "--model.name", str(tmp_path / "model")))
    assert "config.json" in message
    assert not (tmp_path / "job").exists()


def test_no_such_gguf_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = failing(capsys, *small_job(tmp_path, "job", "--model.name", str(tmp_path / "NAME.gguf")))
    assert "NAME.gguf; give FOLDER/NAME.gguf" in message
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_model_without_a_tokenizer(capsys: pytest.CaptureFixture[str], tmp_path: Path, family: str) -> None:
    model = build_family(family, tmp_path / "model")
    for file in (*model.glob("tokenizer*"), *model.glob("vocab*"), *model.glob("merges*")):
        file.unlink()
    message = failing(capsys, *small_job(tmp_path, "job", "--model.name", str(model)))
    # Some classes of tokenizers do not load without their files, and others load empty.
    assert (
        f"the tokenizer of {model} does not load" in message or f"{model} has a tokenizer without vocabulary" in message
    )
    assert not (tmp_path / "job").exists()

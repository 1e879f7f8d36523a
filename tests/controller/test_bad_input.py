"""A job with a mistake prints one message before anything starts, and exits with status 2."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import launch
from rltf.controller.cluster import check_resources
from rltf.controller.grading import GradingWorker
from rltf.errors import UserError
from rltf.settings import SandboxSettings, Settings, rewards_of
from tests.families import FAMILIES, build_family
from tests.gguf_files import write_gguf, write_undequantizable
from tests.jobs import small_job
from tests.tiers import first_fast


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


def _unknown_architecture(file: Path, model_dir: Path) -> None:
    write_gguf(file, model_dir, architecture="nonesuch")


def _truncated(file: Path, model_dir: Path) -> None:
    content = write_gguf(file, model_dir).read_bytes()
    file.write_bytes(content[: len(content) // 2])


def _wrong_magic(file: Path, model_dir: Path) -> None:
    file.write_bytes(b"GGML" + write_gguf(file, model_dir).read_bytes()[4:])


def _unsupported_quantization(file: Path, model_dir: Path) -> None:
    write_undequantizable(file)


@pytest.mark.parametrize("dry_run", [("--dry-run",), ()], ids=["dry-run", "run"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_unknown_architecture, "architecture nonesuch is not supported"),
        (_truncated, "truncated or damaged"),
        (_wrong_magic, "GGUF magic invalid"),
        (_unsupported_quantization, "weights of type Q8_1"),
    ],
)
def test_gguf_file_that_cannot_be_used(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_model_dir: Path,
    damage: Callable[[Path, Path], None],
    said: str,
    dry_run: tuple[str, ...],
) -> None:
    damage(tmp_path / "NAME.gguf", tiny_model_dir)
    arguments = small_job(tmp_path, "job", *dry_run)
    monkeypatch.chdir(tmp_path)  # a plain file name is a local file too
    message = failing(capsys, *arguments, "--model.name", "NAME.gguf")
    assert "NAME.gguf" in message
    assert said in message
    assert not (tmp_path / "job").exists()
    assert not list(tmp_path.glob("**/gguf-*"))


def test_no_room_to_dequantize(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model_dir: Path
) -> None:
    file = write_gguf(tmp_path / "NAME.gguf", tiny_model_dir)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    message = failing(capsys, *small_job(tmp_path, "job", "--model.name", str(file)))
    assert "make room, or set learner.sft.cache_dir" in message
    assert not (tmp_path / "job").exists()


def test_no_such_gguf_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = failing(capsys, *small_job(tmp_path, "job", "--model.name", str(tmp_path / "NAME.gguf")))
    assert "NAME.gguf; give FOLDER/NAME.gguf" in message
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize("family", first_fast(FAMILIES))
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


@pytest.mark.parametrize(
    ("setting", "function", "message"),
    [
        ("rewards.function", "return graded.verdict.error.line", "task made-up, completion made-up/0: it raised"),
        ("learner.loss.policy_loss", "return inputs.old", "expected a tuple of rho and whether a token is clipped"),
        ("learner.advantage.estimator", "return inputs.rewards[:2]", "expected one number per token, [6], got [2]"),
    ],
)
def test_a_function_of_the_user_that_does_not_work(
    setting: str,
    function: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users", raising=False)
    first = "graded" if setting == "rewards.function" else "inputs, settings"
    (tmp_path / "users.py").write_text(f"def f({first}):\n    {function}\n")
    shown = failing(capsys, *small_job(tmp_path, "job", f"--{setting}", "users:f"))
    assert f"{setting} users:f" in shown
    assert message in shown
    assert not (tmp_path / "job").exists()


def test_a_worker_without_the_function_does_not_start() -> None:
    worker = GradingWorker({}, SandboxSettings(), rewards_of("rltf", function="only.on_the_head:f"), None, None, 512)
    with pytest.raises(UserError, match=rf"there is no module only on {os.uname().nodename}"):
        worker.start()

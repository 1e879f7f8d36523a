"""A job with a mistake prints one message before anything starts, and exits with status 2."""

from __future__ import annotations

import json
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
from tests.learner.samples import make_critic
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


# A dry run refuses what a run refuses.
dry_or_not = pytest.mark.parametrize("dry_run", [("--dry-run",), ()], ids=["dry-run", "run"])


@dry_or_not
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


@dry_or_not
def test_critic_that_is_missing(capsys: pytest.CaptureFixture[str], tmp_path: Path, dry_run: tuple[str, ...]) -> None:
    job = small_job(tmp_path, "job", "--algorithm", "coderl", "--model.name", "Qwen/Qwen2.5-Coder-7B", *dry_run)
    critic = ["--learner.advantage.critic", str(tmp_path / "critic")]
    assert f"learner.advantage.critic: {critic[1]} is not a critic: it is not a directory" in failing(
        capsys, *job, *critic
    )
    assert not (tmp_path / "job").exists()


@dry_or_not
@pytest.mark.parametrize("model", ["tiny", "another"])
def test_critic_of_another_tokenizer(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model_dir: Path, model: str, dry_run: tuple[str, ...]
) -> None:
    critic = make_critic(tiny_model_dir, tmp_path / "critic")
    if model == "another":
        model = str(build_family("llama", tmp_path / "another"))
    job = small_job(tmp_path, "job", "--algorithm", "coderl", "--model.name", model, *dry_run)
    message = failing(capsys, *job, "--learner.advantage.critic", str(critic))
    assert f"learner.advantage.critic: the tokenizer of {critic} differs from that of the policy" in message
    assert not (tmp_path / "job").exists()


@dry_or_not
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("--algorithm", "ppocoder"), "rewards.structure_weight 1.0 compares programs with reference programs, and no"),
        (("--generator.max_turns", "2"), "generator.max_turns 2: no problem of problems.train has examples"),
    ],
    ids=["no references", "no examples"],
)
def test_problems_without_what_the_job_needs(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    settings: tuple[str, ...],
    message: str,
    dry_run: tuple[str, ...],
) -> None:
    row = {"task_id": "a", "statement": "Square it.", "tests": [{"stdin": "2\n", "expected": "4\n"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    job = small_job(tmp_path, "job", "--problems.train", f"jsonl:{tmp_path / 'rows.jsonl'}", *dry_run)
    assert message in failing(capsys, *job, *settings)
    assert not (tmp_path / "job").exists()


@dry_or_not
def test_optimizer_without_its_package(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    dry_run: tuple[str, ...],
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    message = failing(capsys, *small_job(tmp_path, "job", "--learner.optim.name", "adamw_8bit", *dry_run))
    assert "learner.optim.name adamw_8bit needs the package torchao: pip install" in message
    assert not (tmp_path / "job").exists()


def test_a_dry_run_says_which_problems_it_does_not_load(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    job = small_job(tmp_path, "job", "--dry-run", "--problems.train", "mbpp:google-research-datasets/mbpp?split=train")
    assert launch.main(job) == 0
    shown = capsys.readouterr().out
    assert "not checked, because a start may have to download them: mbpp:google-research-datasets/mbpp?spl" in shown
    assert "starter:test" not in shown.splitlines()[-1]


def test_a_dry_run_shows_what_a_start_would_say_about_its_problems(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = [
        {"task_id": name, "statement": "Square it.", "tests": [{"stdin": "2\n", "expected": "4\n"}], **more}
        for name, more in (("a", {}), ("b", {"references": ["print(int(input()) ** 2)"]}))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = small_job(tmp_path, "job", "--dry-run", "--problems.train", f"jsonl:{tmp_path / 'rows.jsonl'}")
    assert launch.main([*job, "--algorithm", "ppocoder"]) == 0
    assert "1 training problems have no reference program, so their structure reward is 0: a" in capsys.readouterr().out
    assert not (tmp_path / "job").exists()

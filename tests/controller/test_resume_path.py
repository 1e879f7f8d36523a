"""Everything that `--resume` does before Ray starts, on a run folder that the program's own writers have made."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import launch
from rltf.controller.ledger import Ledger
from rltf.controller.problems import ProblemSets
from rltf.controller.state import read_state
from rltf.errors import UserError
from rltf.files import read_rows, read_steps
from rltf.job import opened
from rltf.learner.buffer import BufferServer
from rltf.learner.ranks import ALONE
from rltf.learner.replay import replay
from rltf.lock import LOCK, locked
from rltf.reporting.report import build_report
from rltf.settings_sources import load_settings
from tests.controller.written_run import FUNCTION, ROW, STEPS, kind_of, write_run, write_train
from tests.jobs import small_job
from tests.learner.rank_processes import Pair


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A run folder with the checkpoints of updates 2 and 4, and a recording. Tests work on copies."""
    runs = tmp_path_factory.mktemp("runs")
    arguments = small_job(
        runs, "run", "--problems.train", write_train(runs, ROW), "--model.max_model_len", "256",
        "--rewards.function", FUNCTION, "--run.log_batches", "2", "--learner.loss.kl_loss_coef", "0.1",
    )  # fmt: skip
    write_run(ALONE, arguments, tiny_model_dir)
    return runs / "run"


@pytest.fixture(scope="module")
def run_over_turns(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A run over turns with two learner workers and reference programs of problems that overlap with a benchmark."""
    runs = tmp_path_factory.mktemp("runs")
    arguments = small_job(
        runs, "run", "--model.max_model_len", "256",
        "--generator.max_turns", "3", "--generator.max_tokens", "32", "--learner.num_workers", "2",
        "--problems.evaluation", '{"first": "starter:test[:6]"}',
        "--problems.decontamination.against", "starter:train?references=yes[:2]",
    )  # fmt: skip
    pair = Pair()
    pair.run(write_run, arguments, tiny_model_dir)
    pair.close()
    return runs / "run"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, which has thereby moved."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@dataclass(frozen=True)
class Resumed:
    """What a resumed run would start its actors with."""

    checkpoint: Path | None
    said: str
    problems: ProblemSets
    ledger: Ledger
    num_buffered: int


def resume(path: Path, *arguments: str) -> Resumed:
    """Resume as far as no actor is needed, and load what the actors would load."""
    settings, options = load_settings(["--resume", str(path), *arguments], environ={})
    with opened(settings, options) as found:
        found.folder.close()
        ledger, num_buffered = Ledger(), 0
        if found.checkpoint is not None:
            ledger = read_state(found.checkpoint).ledger
            buffer: Any = BufferServer(settings.buffer, put=lambda experiences: experiences)
            _, items, evicted = buffer.load(found.checkpoint / "trainer_state" / "rollouts.npz")
            assert not evicted
            assert {item.meta.rollout_id for item in items} <= ledger.live.keys()
            num_buffered = len(items)
        return Resumed(found.checkpoint, "\n".join(found.said), found.problems, ledger, num_buffered)


def steps(path: Path) -> list[int]:
    return [row["step"] for row in read_steps(path)]


def test_a_run_continues_from_its_newest_checkpoint_wherever_it_is_now(copy: Path, run: Path) -> None:
    before = (run / "settings.yaml").read_bytes()
    resumed = resume(copy)
    assert resumed.checkpoint == copy / "checkpoints" / "step-4"
    assert resumed.ledger.num_trained == 64
    assert resumed.num_buffered == 4
    assert steps(copy / "metrics.jsonl") == [1, 2, 3, 4]
    assert resumed.said.splitlines()[0] == f"continuing from {resumed.checkpoint}"
    assert "damaged" not in resumed.said
    assert "changed" not in resumed.said
    assert f"dir: {copy}\n" in (copy / "settings.yaml").read_text()
    assert (run / "settings.yaml").read_bytes() == before


@pytest.mark.parametrize("file", ["model.safetensors", "trainer_state/optimizer/.metadata", "SHA256SUMS"])
def test_a_damaged_checkpoint_is_passed_over(copy: Path, file: str) -> None:
    (copy / "checkpoints" / "step-4" / file).write_bytes(b"")
    (copy / "checkpoints" / "step-99").mkdir()
    resumed = resume(copy)
    assert resumed.checkpoint == copy / "checkpoints" / "step-2"
    assert resumed.ledger.num_trained == 32
    assert steps(copy / "metrics.jsonl") == [1, 2]
    assert steps(copy / "evaluations.jsonl") == [2]
    assert f"checkpoint {copy}/checkpoints/step-4 is damaged and is set aside: " in resumed.said
    names = {path.name for path in (copy / "checkpoints").iterdir()}
    assert names == {"step-2", "set-aside-step-3", "set-aside-step-4", "set-aside-step-99"}


def test_a_changed_function_is_said(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rltf.controller.state.source_digest", lambda name: f"another digest of {name}")
    said = f"the source file of rewards.function {FUNCTION} has changed since {copy}/checkpoints/step-4 was written"
    assert said in resume(copy).said.splitlines()


def test_without_a_whole_checkpoint_a_run_starts_again(copy: Path) -> None:
    for step in STEPS:
        (copy / "checkpoints" / f"step-{step}" / "config.json").unlink()
    resumed = resume(copy)
    assert resumed.checkpoint is None
    assert "config.json is missing" in resumed.said
    assert "no checkpoint that is whole: the run starts again from the beginning" in resumed.said
    assert steps(copy / "metrics.jsonl") == steps(copy / "evaluations.jsonl") == []


def test_a_checkpoint_can_be_chosen(copy: Path) -> None:
    folder = copy / "checkpoints"
    with pytest.raises(UserError, match=r"step-3: no such checkpoint; the run has step-2, step-4"):
        resume(folder / "step-3")
    (folder / "step-4" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"is damaged: config.json .*; the newest whole one is .*/checkpoints/step-2"):
        resume(folder / "step-4")
    resumed = resume(folder / "step-2")
    assert resumed.checkpoint == folder / "step-2"
    assert "step-4 is later than step-2 and is set aside" in resumed.said
    assert steps(copy / "metrics.jsonl") == [1, 2]
    assert {path.name for path in folder.iterdir()} == {"step-2", "set-aside-step-3", "set-aside-step-4"}


def test_changed_settings_are_said(copy: Path) -> None:
    said = resume(copy, "--learner.batch_size", "8", "--run.num_steps", "3").said
    assert "have changed since" in said
    assert "run.num_steps 4 -> 3, learner.batch_size 16 -> 8" in said
    assert "run.num_steps 3 is not above the 4 updates" in said
    with pytest.raises(UserError, match=r"run\.seed 0 -> 1"):
        resume(copy, "--run.seed", "1")
    with pytest.raises(UserError, match=r"buffer\.capacity 3 is below the 4 samples of a rollout"):
        resume(copy, "--buffer.capacity", "3", "--learner.batch_size", "1", "--buffer.start_samples", "0")


CHANGES: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "statement": (lambda rows: rows[1].update(statement="Halve it."), r"problems\.train: 1 changed \(1: statement\)"),
    "tests": (lambda rows: rows[2]["tests"][0].update(expected="3"), r"problems\.train: 1 changed \(2: tests\)"),
    "references": (
        lambda rows: rows[3].update(references=["print(2)"]),
        r"problems\.train: 1 changed \(3: references\)",
    ),
    "removed": (lambda rows: rows.pop(), r"problems\.train: 1 removed \(5\)"),
    "order": (lambda rows: rows.reverse(), r"problems\.train: the problems are in a different order"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_problems_are_refused_unless_allowed(copy: Path, run: Path, change: str) -> None:
    work, message = CHANGES[change]
    rows = [json.loads(line) for line in (run.parent / "train.jsonl").read_text().splitlines()]
    work(rows)
    (copy.parent / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--problems.train", f"jsonl:{copy.parent / 'train.jsonl'}"]
    before = contents(copy)
    with pytest.raises(UserError, match=rf"{message}; restore them, or set --problems\.allow_changes true"):
        resume(copy, *options)
    assert contents(copy) == before
    assert "the problems have changed" in resume(copy, *options, "--problems.allow_changes", "true").said


def test_a_set_of_held_out_problems_that_is_new_or_gone_is_a_change(copy: Path) -> None:
    named = ["--problems.evaluation", '{"first": "starter:test[:6]"}']
    with pytest.raises(UserError, match=r"problems\.evaluation: 6 removed .*; problems\.evaluation\.first: 6 added"):
        resume(copy, *named)
    assert "problems.evaluation.first: 6 added" in resume(copy, *named, "--problems.allow_changes", "true").said


def test_a_new_run_lists_what_overlaps(tmp_path: Path) -> None:
    against = ["--problems.decontamination.against", "starter:train?references=no[1:2]"]
    settings, options = load_settings(small_job(tmp_path, "new", *against), environ={})
    with opened(settings, options) as found:
        found.folder.close()
    (row,) = read_rows(tmp_path / "new" / "contamination.jsonl")
    assert row["task_id"] == row["benchmark_task_id"] == found.problems.train[1].task_id


def test_a_run_keeps_what_it_dropped(copy: Path) -> None:
    """A resumed run that would drop other problems is refused; what it drops is in its folder."""
    drop = ["--problems.decontamination.mode", "drop"]
    against = ["--problems.decontamination.against", "starter:train?references=yes[:2]"]
    with pytest.raises(UserError, match=r"problems\.supervised: 2 removed"):
        resume(copy, *drop, *against)
    assert not (copy / "contamination.jsonl").exists()
    said = resume(copy, *drop, *against, "--problems.allow_changes", "true").said
    assert "2 of 70 training problems overlap with a benchmark and are dropped" in said
    assert {row["match"] for row in read_rows(copy / "contamination.jsonl")} == {"statement"}


def test_a_state_of_another_program_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copy / "checkpoints" / "step-4" / "trainer_state" / "run_state.json"
    stored = json.loads(file.read_text())
    for value, message in [
        ({}, "expected format 5, found None"),
        (stored | {"format": 3}, "expected format 5, found 3"),
        (stored | {"batches": 3}, "batches: Input should be a valid list"),
        (stored | {"ledger": stored["ledger"] | {"num_trained": 5}}, "the ledger does not balance"),
        (stored | {"ledger": stored["ledger"] | {"live": [{}]}}, "ledger.live.0.rollout_id: Field required"),
    ]:
        file.write_text(json.dumps(value))
        with pytest.raises(UserError, match=message):
            read_state(file.parents[1])


def test_a_folder_in_use_stays_as_it_is(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(copy)
    with locked(copy):
        assert launch.main(["--resume", str(copy)]) == 2
    assert "is in use by process" in " ".join(capsys.readouterr().err.split())
    assert contents(copy) == before


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a run folder. The lock is not among them: a stale one goes as soon as somebody looks."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def damaged(draw: Callable[..., Any], run: Path, copy: Path) -> str:
    """Copy a run folder, and damage one of its files: cut short anywhere, or with a bit flipped anywhere."""
    shutil.copytree(run, copy)
    names = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file() and path.stat().st_size)
    by_kind: dict[str, list[str]] = {}
    for each in names:
        by_kind.setdefault(kind_of(each), []).append(each)
    # Each kind of file is as likely as any other, however many there are of it.
    name: str = draw(st.sampled_from(by_kind[draw(st.sampled_from(sorted(by_kind)))]), label="file")
    content = bytearray((copy / name).read_bytes())
    place = draw(st.integers(0, len(content) - 1), label="place")
    if draw(st.booleans(), label="flipped"):
        content[place] ^= 1 << draw(st.integers(0, 7))
    else:
        del content[place:]
    (copy / name).write_bytes(bytes(content))
    return name


def check_replay(copy: Path) -> None:
    """What a damaged recording gives is either refused or right."""
    settings, _ = load_settings(["--replay", str(copy)], environ={})
    with contextlib.suppress(UserError):
        assert all(update.is_same for update in replay(copy, settings))


def check_resumed(copy: Path, name: str) -> None:
    """The run continues from the newest whole checkpoint with the right books, or is refused and stays as it was."""
    before = contents(copy)
    try:
        resumed = resume(copy)
    except UserError:
        assert contents(copy) == before
        return
    step = 2 if name.startswith("checkpoints/step-4/") else 4
    assert resumed.checkpoint == copy / "checkpoints" / f"step-{step}"
    assert resumed.ledger.counts().balance == 0
    assert resumed.ledger.num_trained == 16 * step
    assert resumed.num_buffered == step
    assert set(steps(copy / "metrics.jsonl")) <= set(range(1, step + 1))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["run", "run_over_turns"])
@hypothesis_settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_survived_or_named(which: str, data: st.DataObject, request: pytest.FixtureRequest) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        name = damaged(data.draw, request.getfixturevalue(which), copy)
        with contextlib.suppress(UserError):
            build_report([copy], Path(folder) / "report.html")
        if name.startswith("replay/"):
            check_replay(copy)
        check_resumed(copy, name)

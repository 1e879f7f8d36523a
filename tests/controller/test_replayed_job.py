"""The replay of a job's updates: no generators, no sandbox, and the same weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from launch import main
from rltf.transport.weights import checksum, pack
from tests.controller.conftest import FinishedJob

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def run(job: FinishedJob) -> Path:
    return job.folder


@pytest.fixture(autouse=True)
def _wide_terminal_and_threads_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("COLUMNS", "240")
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def test_a_replay_gives_the_same_weights_and_losses_bit_for_bit(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--replay", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "All 4 updates reproduced the weights of the run bit for bit" in shown
    assert " -> " not in shown, "a loss or a norm differs from the run's"
    checkpoint = AutoModelForCausalLM.from_pretrained(run / "checkpoints" / "step-4", dtype=torch.float32)
    about = json.loads((run / "replay" / "update-4" / "update.json").read_text())
    assert checksum(pack(checkpoint.named_parameters())) == about["weights_checksum"]


def test_a_different_objective_is_compared_update_by_update(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--replay", str(run), "--learner.loss.rl_weight", "0"]) == 0
    shown = capsys.readouterr().out
    assert "with a different learner.loss.rl_weight" in shown
    assert "From update 1 of 4 on, the weights differ from those of the run" in shown
    assert " -> " in shown
    assert main(["--replay", str(run), "--generator.temperature", "0.5"]) == 2
    assert "--generator.temperature has no effect on a replay" in capsys.readouterr().err


def test_a_changed_sample_is_noticed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forged = tmp_path / "forged"
    shutil.copytree(run, forged)
    shutil.copy(forged / "replay" / "update-1" / "samples.npz", forged / "replay" / "update-2" / "samples.npz")
    assert main(["--replay", str(forged)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "update-2 is damaged: samples.npz is not as it was written" in said


def test_a_run_without_recorded_updates_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(run / "settings.yaml", tmp_path)
    assert main(["--replay", str(tmp_path)]) == 2
    assert "the run recorded no updates; run the job with --run.log_batches N" in capsys.readouterr().err

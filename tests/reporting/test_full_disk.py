"""A full disk, imitated by a small file system: the error says so, and no half-written file is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rltf.errors import UserError
from rltf.files import checkpoints, read_rows, write_folder
from rltf.reporting.run_folder import RunFolder
from rltf.settings import Settings
from rltf.supervise import EXIT_FAILED, user_message
from tests.reporting.runs import PROBLEMS, failed_sample, step_row


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "rltf-test", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes up all free space."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    assert shutil.disk_usage(folder).free == 0
    return path


def write_rows(folder: RunFolder) -> None:
    for step in range(2, 100):
        folder.metrics(step_row(step))


def write_samples(folder: RunFolder) -> None:
    for refresh in range(20):
        folder.samples(refresh, [failed_sample()])


def write_little(folder: Path) -> None:
    (folder / "weights.pt").write_bytes(b"0" * 1000)


def write_weights(folder: Path) -> None:
    torch.save(torch.zeros(1 << 20), folder / "weights.pt")


def test_a_failed_row_names_its_file(small_disk: Path) -> None:
    folder = RunFolder.create(small_disk / "run", Settings(), PROBLEMS)
    folder.metrics(step_row(1))
    filler = fill(small_disk)
    with pytest.raises(OSError, match=r"metrics\.jsonl|tfevents") as caught:
        write_rows(folder)
    message, status = user_message(caught.value)
    assert status == EXIT_FAILED
    assert message.startswith("the disk is full: ")
    assert "--resume" in message
    filler.unlink()
    folder.close()
    rows = read_rows(small_disk / "run" / "metrics.jsonl")  # earlier rows are complete
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))


def test_failed_samples_and_report_are_named(small_disk: Path) -> None:
    folder = RunFolder.create(small_disk / "run", Settings(), PROBLEMS)
    fill(small_disk)
    with pytest.raises(OSError, match="refresh-00") as caught:
        write_samples(folder)
    assert "the disk is full" in user_message(caught.value)[0]
    with pytest.raises(OSError, match=r"report\.html") as caught:
        folder.close()
    assert "the disk is full" in user_message(caught.value)[0]
    assert not list((small_disk / "run").glob(".report*"))


def test_a_checkpoint_that_does_not_fit_leaves_earlier_ones(small_disk: Path) -> None:
    write_folder(small_disk / "step-1", write_little)
    with pytest.raises(OSError, match="step-2") as caught:
        write_folder(small_disk / "step-2", write_weights)
    assert "the disk is full" in user_message(caught.value)[0]
    assert [path.name for path in checkpoints(small_disk)] == ["step-1"]
    assert sorted(os.listdir(small_disk)) == ["step-1"]


def test_a_run_does_not_start_on_a_full_disk(small_disk: Path) -> None:
    filler = fill(small_disk)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        RunFolder.create(small_disk / "run", Settings(), PROBLEMS)
    filler.unlink()
    RunFolder.create(small_disk / "run", Settings(), PROBLEMS).close()
    fill(small_disk)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        RunFolder.resume(small_disk / "run", Settings(), PROBLEMS, step=0)

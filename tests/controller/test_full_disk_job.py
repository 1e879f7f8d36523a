"""A whole job whose disk is too small for a checkpoint or becomes read-only: it says so, and keeps what it has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.controller.test_interrupts import LONG, output_until, start
from tests.jobs import python, small_job

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(700)]


def test_a_job_on_a_full_disk_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    disk = tmp_path / "runs" / "job"
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=9m", "rltf-test", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        options = small_job(tmp_path / "runs", "job", "--checkpoint.keep", "8")
        done = python("launch.py", *options, timeout_s=600.0)
        output = done.stdout + done.stderr
        assert done.returncode == 1, output
        assert "the disk is full: " in output
        assert "Traceback" not in output
        # The next one did not fit. If the report did not fit first, the learner died with the run while it wrote it.
        names = {path.name for path in (disk / "checkpoints").iterdir()}
        assert names in ({"step-2"}, {"step-2", ".incomplete-step-4"})
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_job_whose_run_folder_becomes_read_only_says_so(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "job"
    process = start(*small_job(tmp_path / "runs", "job", *LONG, "--checkpoint.every", "4", sft_steps=0))
    try:
        output_until(process, "step 5/")
        if subprocess.run(["mount", "--bind", str(run), str(run)], capture_output=True, check=False).returncode != 0:
            pytest.skip("needs the right to mount a file system")
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", str(run)], check=True)
            output, _ = process.communicate(timeout=200)
        finally:
            subprocess.run(["umount", "--lazy", str(run)], check=True)
    finally:
        process.kill()
    assert process.returncode == 1, output
    assert "the disk is read-only: " in output
    assert "Traceback" not in output
    assert (run / "checkpoints" / "step-4" / "SHA256SUMS").is_file()

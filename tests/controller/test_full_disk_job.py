"""A whole job whose disk is too small for a checkpoint: it stops at once, says so, and keeps what it has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

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
        kept = [path.name for path in (disk / "checkpoints").iterdir()]
        assert kept == ["step-2"]  # the next one did not fit and left nothing behind
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)

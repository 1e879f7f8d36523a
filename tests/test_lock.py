"""Only one driver works in a run folder, and the lock of a dead one is no obstacle."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import launch
from rltf.errors import UserError
from rltf.lock import LOCK, locked
from tests.jobs import ROOT, small_job

# Takes the lock, starts a child that inherits whatever it can, says so, and sleeps.
HOLDER = """
import subprocess, sys, time
from pathlib import Path
from rltf.lock import locked
with locked(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_a_second_driver_is_refused_until_the_first_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "job"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        assert launch.main(small_job(tmp_path, "job")) == 2
        message = " ".join(capsys.readouterr().err.split())
        assert re.search(rf"job is in use by process {holder.pid} on \S+ since 20\d\d-.* UTC", message)
        assert [path.name for path in run.iterdir()] == [LOCK]
        holder.kill()
        holder.wait()
        with locked(run):  # although the child still runs
            pass
        assert list(run.iterdir()) == []
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_new_folder_goes_if_nothing_came_of_it(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "run"):
        assert (tmp_path / "a" / "run").is_dir()
    assert not (tmp_path / "a" / "run").exists()
    with locked(tmp_path / "b"):
        (tmp_path / "b" / "settings.yaml").touch()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["settings.yaml"]


def test_a_folder_that_was_removed_can_be_locked_again(tmp_path: Path) -> None:
    """The lock belongs to the file that is there, not to one that has been removed."""
    with locked(tmp_path / "run"):
        (tmp_path / "run" / LOCK).unlink()
        with locked(tmp_path / "run"), pytest.raises(UserError, match="in use"), locked(tmp_path / "run"):
            pass


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(UserError, match="cannot be locked: No locks available"), locked(tmp_path / "run"):
        pass


def test_a_path_that_cannot_be_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), locked(tmp_path / "file" / "run"):
        pass


def test_a_folder_that_becomes_read_only_ends_without_an_error_of_its_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with locked(run):
        if subprocess.run(["mount", "--bind", str(run), str(run)], capture_output=True, check=False).returncode != 0:
            pytest.skip("needs the right to mount a file system")
        subprocess.run(["mount", "-o", "remount,bind,ro", str(run)], check=True)
    assert (run / LOCK).exists()
    subprocess.run(["umount", "--lazy", str(run)], check=True)
    with locked(run):
        pass
    assert not (run / LOCK).exists()

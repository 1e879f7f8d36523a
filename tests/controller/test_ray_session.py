"""What Ray leaves behind is removed: by the driver that started it, or by the next one if that was killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._common.utils import get_default_ray_temp_dir

from rltf.controller.ray_session import _LOCK, _TEMPORARY, ray_running
from rltf.entry import SIGNALS, Interrupted
from rltf.errors import UserError
from rltf.settings import ClusterSettings

LOCAL = ClusterSettings()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray has the folders of its sessions."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "ray").mkdir()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield tmp_path / "ray"
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def daemons(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[psutil.Process]:
    """The daemons of a Ray that does not start: it leaves them and the folder of its session behind."""
    started: list[psutil.Process] = []

    def init(**_: Any) -> None:
        (folder / f"session_now_{os.getpid()}").mkdir()
        started.append(psutil.Process(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE).pid))
        raise RuntimeError("the node timed out")

    monkeypatch.setattr(ray, "init", init)
    return started


def session(folder: Path, name: str) -> Path:
    path = folder / f"session_{name}"
    (path / "logs").mkdir(parents=True)
    return path


def start() -> None:
    with ray_running(LOCAL):
        pytest.fail("Ray started")


def test_a_start_that_fails_says_how_busy_the_machine_is_and_leaves_no_process(
    folder: Path, daemons: list[psutil.Process]
) -> None:
    with pytest.raises(RuntimeError, match=r"^Ray did not start: the node timed out \(load of this machine: \d+, on"):
        start()
    (daemon,) = daemons
    assert not daemon.is_running()


def test_folders_of_drivers_that_ended_are_removed(folder: Path, daemons: list[psutil.Process]) -> None:
    dead, live, foreign = session(folder, "a_1"), session(folder, "b_2"), session(folder, "c_3")
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
    (dead / _LOCK).touch()
    (temporary / _LOCK).touch()
    (live / _LOCK).touch()
    hold = f"import fcntl\nf = open({str(live / _LOCK)!r})\nfcntl.flock(f, fcntl.LOCK_EX)\nprint(flush=True)\ninput()"
    holder = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        with pytest.raises(RuntimeError):
            start()
        assert not dead.exists()
        assert not temporary.exists()
        assert live.is_dir()
        assert foreign.is_dir()  # another program's
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.parametrize(
    ("error", "is_kept"), [(RuntimeError(), True), (UserError(), False), (Interrupted(15), False), (None, False)]
)
def test_the_own_folder_stays_only_after_a_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, is_kept: bool
) -> None:
    own = folder / f"session_now_{os.getpid()}"

    class Context:
        dashboard_url = ""

    temporary: list[Path] = []

    def init(**_: Any) -> Context:
        own.mkdir()
        temporary.append(Path(os.environ["TMPDIR"]))
        sessions = get_default_ray_temp_dir()  # type: ignore[no-untyped-call]
        assert Path(sessions) == folder, "Ray must keep its sessions where others look for them"
        (temporary[0] / "left-by-a-killed-process").touch()
        return Context()

    class Answering:
        def answers(self) -> bool:
            return True

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr("rltf.controller.ray_session.Head", Answering)
    before = session(folder, f"before_{os.getpid()}")  # of an earlier process with the same id
    with contextlib.suppress(RuntimeError, UserError, Interrupted), ray_running(LOCAL):
        if error is not None:
            raise error
    assert own.exists() == is_kept
    assert not temporary[0].exists()
    assert os.environ.get("TMPDIR") != str(temporary[0])
    assert before.is_dir()


def test_sigterm_while_ray_starts_is_an_interrupt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        sys.exit(15)  # what Ray's own handler does

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(Interrupted, match="SIGTERM") as caught:
        start()
    assert caught.value.status == 143

"""Shared memory of processes that were killed has no name for long."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from rltf.actors import shared_names
from rltf.actors.shared_names import FOLDER, remove_orphans

REMOVE_OWN = """
import os, signal
from multiprocessing.shared_memory import SharedMemory
from rltf.actors.shared_names import names_of, remove
memory = SharedMemory(create=True, size=64)
remove(names_of(os.getpid()))
memory.buf[0] = 7  # it can still be used
print(memory.name, memory.buf[0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    """Mapped by this process."""
    memory = SharedMemory(create=True, size=64)
    yield memory
    memory.close()
    if (FOLDER / memory.name).exists():
        memory.unlink()


@pytest.fixture
def orphan() -> Iterator[Path]:
    """Mapped by nobody."""
    path = FOLDER / f"psm_{os.getpid():08x}"
    path.write_bytes(bytes(64))
    yield path
    path.unlink(missing_ok=True)


def test_a_process_removes_the_names_of_what_it_has_mapped(memory: SharedMemory) -> None:
    done = subprocess.run([sys.executable, "-c", REMOVE_OWN], capture_output=True, text=True, check=False)
    name, value = done.stdout.split()
    assert value == "7"
    assert not (FOLDER / name).exists()
    assert (FOLDER / memory.name).exists()


def test_orphans_are_removed_once_they_are_old(
    memory: SharedMemory, orphan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = orphan.with_name(f"other_{os.getpid()}")
    other.write_bytes(bytes(1))
    try:
        remove_orphans()
        assert orphan.exists()  # somebody may be about to map it
        monkeypatch.setattr(shared_names, "_MIN_AGE_S", -1.0)
        remove_orphans()
        assert not orphan.exists()
        assert other.exists()
        assert (FOLDER / memory.name).exists()
    finally:
        other.unlink()

"""Folders between nodes. A server with a different working directory acts as another node with other paths."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import ray

from rltf.files import write_folder
from rltf.transport.folders import PIECE_BYTES, HomeFolders, listing
from tests.transport.elsewhere import Elsewhere


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_session: None) -> HomeFolders:
    """The driver's node works in `tmp_path/driver`, and this node in `tmp_path/here`."""
    for name in ("driver", "here", "user"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    server: Any = ray.remote(Elsewhere)
    return HomeFolders("another node", server.options(num_cpus=0).remote(tmp_path / "driver"))


def write(folder: Path) -> dict[str, bytes]:
    files = {"config.json": b"{}", "empty": b"", "weights/1": random.Random(0).randbytes(PIECE_BYTES + 7)}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return files


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name, _ in listing(folder)}


def test_a_model_is_fetched_once_per_node(tmp_path: Path, home: HomeFolders) -> None:
    files = write(tmp_path / "driver" / "model")
    copy = home.fetch(Path("model"))
    assert contents(copy) == files
    changed = copy / "config.json"
    changed.write_bytes(b"[]")
    assert home.fetch(Path("model")) == copy
    assert changed.read_bytes() == b"[]", "the model was fetched again"


def test_a_folder_that_both_nodes_see_is_not_copied(tmp_path: Path, home: HomeFolders) -> None:
    """For example on a shared file system."""
    folder = tmp_path / "shared"
    write(folder)
    assert home.fetch(folder) == folder
    home.send(folder)
    assert not list((tmp_path / "user").iterdir())


def test_a_checkpoint_arrives_complete_at_the_driver(tmp_path: Path, home: HomeFolders) -> None:
    files = write(tmp_path / "here" / "checkpoints" / "step-1")
    left_over = tmp_path / "driver" / "checkpoints" / ".incomplete-step-1" / "half"
    left_over.parent.mkdir(parents=True)
    left_over.write_bytes(b"left by an interrupted copy")
    home.send(Path("checkpoints/step-1"))
    assert contents(tmp_path / "driver" / "checkpoints" / "step-1") == files
    assert not left_over.parent.exists()
    home.send(Path("checkpoints/step-1"))


def checkpoint(folder: Path, weights: bytes) -> None:
    def write(incomplete: Path) -> None:
        (incomplete / "weights").write_bytes(weights)

    write_folder(folder, write)


def test_a_folder_with_other_content_of_the_same_size_is_fetched(tmp_path: Path, home: HomeFolders) -> None:
    """An earlier run of the same name has left a checkpoint on this node."""
    checkpoint(tmp_path / "here" / "step-1", b"old weights")
    checkpoint(tmp_path / "driver" / "step-1", b"new weights")
    assert (home.fetch(Path("step-1")) / "weights").read_bytes() == b"new weights"


def test_a_damaged_copy_is_fetched_again(tmp_path: Path, home: HomeFolders) -> None:
    checkpoint(tmp_path / "driver" / "step-1", b"weights")
    copy = home.fetch(Path("step-1"))
    (copy / "weights").write_bytes(b"wrights")
    assert home.fetch(Path("step-1")) == copy
    assert (copy / "weights").read_bytes() == b"weights"


def test_a_missing_folder_is_an_error(home: HomeFolders) -> None:
    with pytest.raises(FileNotFoundError, match="not a directory: nothing"):
        home.fetch(Path("nothing"))


def test_paths_stay_the_same_on_the_drivers_node(tmp_path: Path, ray_session: None) -> None:
    assert HomeFolders.here().fetch(tmp_path) == tmp_path

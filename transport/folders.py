"""Folders of the driver's node for actors on other nodes: the policy to start from, and checkpoints.

    home = HomeFolders.of_driver()          # on the driver; passed to actors as an argument
    path = home.fetch(folder)               # in an actor: the driver's folder, on this node
    home.send(checkpoint)                   # in an actor: copy a folder made here to the driver's node

Files are copied in pieces, through Ray's object store and not through the driver's process. A folder is fetched once
per node, whoever asks, and never if the nodes share a file system. On both sides, a folder is complete or absent. The
driver checks the checkpoints on its own node (`files.damage`); a node that keeps a copy checks that itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.actor import ActorProxy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rltf.files import SUMS, damage, sync

T = TypeVar("T")

PIECE_BYTES = 32 << 20
ANSWER_S = 300.0
Listing = list[tuple[str, int]]
# What a folder holds: its listing, and the checksums of its files if it has them.
Contents = tuple[Listing, bytes]
_Call = Callable[..., Any]


def listing(folder: Path) -> Listing:
    """The files below a folder with their sizes in bytes, sorted. Raises FileNotFoundError if there is no folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"not a directory: {folder}")
    return [
        (str(path.relative_to(folder)), path.stat().st_size) for path in sorted(folder.rglob("*")) if path.is_file()
    ]


def contents(folder: Path) -> Contents:
    """What a folder holds. Raises FileNotFoundError if there is no folder."""
    sums = folder / SUMS
    return listing(folder), sums.read_bytes() if sums.is_file() else b""


def _is_same(folder: Path, there: Contents) -> bool:
    """Whether `folder` is on this node, and is a whole copy of the one on another."""
    if not folder.is_dir() or contents(folder) != there:
        return False
    return not there[1] or damage(folder) is None


def _remove(folder: Path) -> None:
    """Remove a folder, or what an interrupted copy has left of it, if there is any."""
    shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(PIECE_BYTES)


def _write(path: Path, offset: int, piece: bytes) -> None:
    """Write a piece of a file at its place. The first piece creates the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        file.write(piece)


def _finish(temporary: Path, folder: Path) -> None:
    """Rename a folder that is written completely. Does nothing if that is done already."""
    if folder.is_dir() and not temporary.is_dir():
        return
    for path in sorted(temporary.rglob("*")):
        sync(path)
    temporary.rename(folder)
    sync(folder.parent)


def _here(work: Callable[..., T], *arguments: Any) -> T:
    return work(*arguments)


def _copy(files: Listing, source: _Call, folder: Path, target: _Call, copy: Path, temporary: Path) -> None:
    """Copy the `files` of `folder` where `source` runs functions to the folder `copy` where `target` runs them."""
    target(_remove, temporary)
    for name, size in files:
        for offset in range(0, max(size, 1), PIECE_BYTES):
            target(_write, temporary / name, offset, source(_read, folder / name, offset))
    target(_finish, temporary, copy)


class FileServer:
    """Calls the functions above on its node. Runs as an actor on the driver's node."""

    @ray.method
    def call(self, work: Callable[[], Any]) -> Any:
        """The result of `work`."""
        return work()


@dataclass(frozen=True, slots=True)
class HomeFolders:
    """The file system of the driver's node, for actors anywhere. `server` is None if they all run on that node."""

    node_id: str
    server: ActorProxy[FileServer] | None

    @classmethod
    def here(cls) -> HomeFolders:
        """The file system of this process's node, for this node only."""
        return cls(ray.get_runtime_context().get_node_id(), None)

    @classmethod
    def of_driver(cls) -> HomeFolders:
        """The file system of this process's node, for all nodes."""
        node_id = ray.get_runtime_context().get_node_id()
        strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
        # Calls may be repeated: writing something twice gives the same file.
        server = ray.remote(FileServer).options(
            name="files", num_cpus=0, scheduling_strategy=strategy, max_restarts=-1, max_task_retries=-1
        )
        return cls(node_id, server.remote())

    @property
    def is_here(self) -> bool:
        """Whether this process runs on the driver's node."""
        return ray.get_runtime_context().get_node_id() == self.node_id

    def fetch(self, folder: Path) -> Path:
        """The driver's `folder` on this node: itself if it is visible here, otherwise a copy, which is kept.

        Raises FileNotFoundError if the driver's node has no such folder.
        """
        if self.is_here:
            return folder
        there = self._call(contents, folder)
        if _is_same(folder, there):
            return folder
        digest = hashlib.sha256(repr((self.node_id, str(folder), there)).encode()).hexdigest()[:16]
        copy = Path.home() / ".cache" / "rltf" / digest / folder.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with (copy.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_same(copy, there):
                _remove(copy)
                _copy(there[0], self._call, folder, _here, copy, copy.with_name(".incomplete"))
        return copy

    def send(self, folder: Path) -> None:
        """Copy `folder`, made on this node, to the same path on the driver's node, unless it is there already."""
        if self.is_here:
            return
        here = contents(folder)
        with contextlib.suppress(FileNotFoundError):
            if self._call(contents, folder) == here:
                return
        _copy(here[0], _here, folder, self._call, folder, folder.with_name(f".incomplete-{folder.name}"))

    def has(self, folder: Path) -> bool:
        """Whether the driver's node has this folder."""
        return folder.is_dir() if self.is_here else self._call(Path.is_dir, folder)

    def remove(self, folder: Path) -> None:
        """Remove the folder from this node and from the driver's."""
        _remove(folder)
        if not self.is_here:
            self._call(_remove, folder)

    def _call(self, work: Callable[..., T], *arguments: Any) -> T:
        """The result of `work` on the driver's node."""
        assert self.server is not None  # only actors on the driver's node have none
        result: T = ray.get(self.server.call.remote(partial(work, *arguments)), timeout=ANSWER_S)
        return result

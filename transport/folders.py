"""Folders of the driver's node for actors that run on other nodes: the policy to start from, and checkpoints.

    home = HomeFolders.of_driver()          # on the driver; goes to actors as an argument
    path = home.fetch(folder)               # in an actor: that folder, on this node
    home.send(checkpoint)                   # in an actor: a folder made here, to the driver's node

Files go from node to node in pieces, through Ray's object store; the driver's process takes no part. A folder is
fetched once per node, whoever asks, and on a shared file system not at all. A folder is complete or absent on both
sides.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from files import sync

PIECE_BYTES = 32 << 20
ANSWER_S = 300.0
Listing = list[tuple[str, int]]


class _FileServer:
    """Reads and writes the files of its node; run as an actor on the driver's."""

    def listing(self, folder: Path) -> Listing:
        """Files below a folder with their sizes, in order. Raises FileNotFoundError where there is no such folder."""
        return listing(folder)

    def remove(self, folder: Path) -> None:
        """Remove a folder, also what an interrupted copy has left of one, where there is any."""
        shutil.rmtree(folder, ignore_errors=True)

    def read(self, path: Path, offset: int) -> bytes:
        """A piece of a file."""
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES)

    def write(self, path: Path, offset: int, piece: bytes) -> None:
        """Put a piece at its place in a file, which is made where it is missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(piece)

    def finish(self, temporary: Path, folder: Path) -> None:
        """Give a folder that was written its name; nothing is left to do where it has it already."""
        if folder.is_dir() and not temporary.is_dir():
            return
        for path in sorted(temporary.rglob("*")):
            sync(path)
        temporary.rename(folder)
        sync(folder.parent)


@dataclass(frozen=True, slots=True)
class HomeFolders:
    """The file system of the driver's node, as actors anywhere see it."""

    node_id: str
    server: Any

    @classmethod
    def here(cls) -> HomeFolders:
        """That of this process's node, for this node alone."""
        return cls(ray.get_runtime_context().get_node_id(), None)

    @classmethod
    def of_driver(cls) -> HomeFolders:
        """That of this process's node, for all nodes."""
        node_id = ray.get_runtime_context().get_node_id()
        strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
        # Its calls may be made again: what is written twice is the same.
        server = ray.remote(_FileServer).options(
            name="files", num_cpus=0, scheduling_strategy=strategy, max_restarts=-1, max_task_retries=-1
        )
        return cls(node_id, server.remote())

    @property
    def is_here(self) -> bool:
        """Whether this process runs on the driver's node."""
        return ray.get_runtime_context().get_node_id() == self.node_id

    def fetch(self, folder: Path) -> Path:
        """`folder` of the driver's node on this one: itself where it can be seen, a copy that is kept otherwise.

        Raises FileNotFoundError where the driver's node has no such folder.
        """
        if self.is_here:
            return folder
        there: Listing = self._ask("listing", folder)
        if folder.is_dir() and listing(folder) == there:
            return folder
        digest = hashlib.sha256(repr((self.node_id, str(folder), there)).encode()).hexdigest()[:16]
        copy = Path.home() / ".cache" / "rltf" / digest / folder.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with (copy.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.is_dir():
                temporary = copy.with_name(".incomplete")
                server = _FileServer()
                server.remove(temporary)
                _copy(there, lambda name, offset: self._ask("read", folder / name, offset), server.write, temporary)
                server.finish(temporary, copy)
        return copy

    def send(self, folder: Path) -> None:
        """Have `folder`, made on this node, under the same path on the driver's, where it is not there already."""
        if self.is_here:
            return
        here = listing(folder)
        with contextlib.suppress(FileNotFoundError):
            if self._ask("listing", folder) == here:
                return
        temporary = folder.with_name(f".incomplete-{folder.name}")
        reader = _FileServer()
        self._ask("remove", temporary)
        _copy(
            here,
            lambda name, offset: reader.read(folder / name, offset),
            lambda path, offset, piece: self._ask("write", path, offset, piece),
            temporary,
        )
        self._ask("finish", temporary, folder)

    def has(self, folder: Path) -> bool:
        """Whether the driver's node has that folder."""
        if self.is_here:
            return folder.is_dir()
        try:
            self._ask("listing", folder)
        except FileNotFoundError:
            return False
        return True

    def remove(self, folder: Path) -> None:
        """Have no such folder, neither on this node nor on the driver's."""
        shutil.rmtree(folder, ignore_errors=True)
        if not self.is_here:
            self._ask("remove", folder)

    def _ask(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self.server, method).remote(*arguments), timeout=ANSWER_S)


def listing(folder: Path) -> Listing:
    """Files below a folder with their sizes in bytes, in order. Raises FileNotFoundError where it is no folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    return [
        (str(path.relative_to(folder)), path.stat().st_size) for path in sorted(folder.rglob("*")) if path.is_file()
    ]


def _copy(
    files: Listing,
    read: Callable[[str, int], bytes],
    write: Callable[[Path, int, bytes], None],
    target: Path,
) -> None:
    for name, size in files:
        for offset in range(0, max(size, 1), PIECE_BYTES):
            write(target / name, offset, read(name, offset))

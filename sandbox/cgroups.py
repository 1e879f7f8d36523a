"""One control group per jail: exact memory accounting, a cap on processes, and a count of kills for memory."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

_NAME = re.compile(r"rltf-sandbox-(\d+)-\d+")
_serial = count()


class CgroupError(OSError):
    """No control group can be created here; the message says why."""


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The folders of one group (version 1 has one per controller), and the file that counts kills for memory."""

    folders: tuple[Path, ...]
    oom_file: Path

    @property
    def procs_files(self) -> list[str]:
        """The files into which a process writes its id to join."""
        return [str(folder / "cgroup.procs") for folder in self.folders]

    def num_kills(self) -> int:
        """How many processes of the group the kernel has killed for memory."""
        counts = dict(line.split() for line in self.oom_file.read_text().splitlines())
        return int(counts.get("oom_kill", 0))

    def limit_memory(self, memory_bytes: int) -> None:
        """Lower the limit on memory, which includes swap."""
        for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max"):
            if (limit := self.folders[0] / name).exists():
                limit.write_text(str(memory_bytes))

    @contextlib.contextmanager
    def lowered(self, headroom_bytes: int) -> Iterator[None]:
        """A context in which the group may use only `headroom_bytes` more memory than it does now."""
        version1 = self.folders[0] / "memory.limit_in_bytes"
        limit = version1 if version1.exists() else self.folders[0] / "memory.max"
        usage = self.folders[0] / ("memory.usage_in_bytes" if version1.exists() else "memory.current")
        before = limit.read_text().strip()
        limit.write_text(str(int(usage.read_text()) + headroom_bytes))
        try:
            yield
        finally:
            limit.write_text(before)

    def remove(self) -> None:
        """Remove the group. If it still has a process it stays, until a later `create_cgroup` sweeps it."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


def create_cgroup(memory_bytes: int, num_processes: int) -> Cgroup:
    """Create a group with these limits, below or beside this process's own group. Raises `CgroupError`."""
    own, mounts = _own_groups(), _mounts()
    name = f"rltf-sandbox-{os.getpid()}-{next(_serial)}"
    try:
        if "memory" in own and "memory" in mounts:
            return _create_v1(own, mounts, name, memory_bytes, num_processes)
        if "" in own and "" in mounts:
            return _create_v2(_folder(own, mounts, ""), name, memory_bytes, num_processes)
    except OSError as error:
        raise CgroupError(f"no control group could be created ({error})") from error
    raise CgroupError("no control group could be created (no cgroup file system with a memory controller is mounted)")


def _own_groups() -> dict[str, str]:
    """The path of this process's group for each controller; "" is the unified hierarchy."""
    groups = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def _mounts() -> dict[str, tuple[str, str]]:
    """(root of the mount within the hierarchy, mount point) for each controller; "" is the unified hierarchy."""
    mounts = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        root, point = fields.split(" ")[3:5]
        if kind == "cgroup2":
            mounts[""] = (root, point)
        elif kind == "cgroup":
            mounts.update(dict.fromkeys(options.split(","), (root, point)))
    return mounts


def _folder(own: dict[str, str], mounts: dict[str, tuple[str, str]], controller: str) -> Path:
    root, point = mounts[controller]
    inside = own[controller].removeprefix(root.rstrip("/")) if own[controller].startswith(root) else ""
    return Path(point) / inside.lstrip("/")


def _create_v1(
    own: dict[str, str], mounts: dict[str, tuple[str, str]], name: str, memory_bytes: int, num_processes: int
) -> Cgroup:
    memory = _make(_folder(own, mounts, "memory"), name)
    (memory / "memory.limit_in_bytes").write_text(str(memory_bytes))
    with_swap = memory / "memory.memsw.limit_in_bytes"
    if with_swap.exists():
        with_swap.write_text(str(memory_bytes))
    folders = [memory]
    if "pids" in own and "pids" in mounts:
        pids = _make(_folder(own, mounts, "pids"), name)
        (pids / "pids.max").write_text(str(num_processes))
        folders.append(pids)
    return Cgroup(tuple(folders), memory / "memory.oom_control")


def _create_v2(own: Path, name: str, memory_bytes: int, num_processes: int) -> Cgroup:
    folder = _make(_v2_parent(own), name)
    (folder / "memory.max").write_text(str(memory_bytes))
    swap = folder / "memory.swap.max"
    if swap.exists():
        swap.write_text("0")
    (folder / "pids.max").write_text(str(num_processes))
    return Cgroup((folder,), folder / "memory.events")


def _v2_parent(own: Path) -> Path:
    """The group below which controllers work: version 2 allows none below a group that holds processes itself."""
    if {"memory", "pids"} <= set((own / "cgroup.subtree_control").read_text().split()):
        return own
    try:
        (own / "cgroup.subtree_control").write_text("+memory +pids")
    except OSError:
        if not (own.parent / "cgroup.subtree_control").exists():
            raise
        return own.parent
    return own


def _make(parent: Path, name: str) -> Path:
    _sweep(parent)
    folder = parent / name
    folder.mkdir()
    return folder


def _sweep(parent: Path) -> None:
    """Remove groups that were left here by processes that have ended."""
    for folder in parent.iterdir():
        match = _NAME.fullmatch(folder.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            with contextlib.suppress(OSError):
                folder.rmdir()

"""The names that vLLM's processes leave in /dev/shm if they are killed, and how they go away.

Python removes most of them when a process ends in an orderly way. So an engine that is closed removes the rest, its
processes remove their own when the one above them has ended, and an engine that starts removes those that nobody uses.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path("/dev/shm")
# Python's names of shared memory and semaphores.
_NAME = re.compile(r"/dev/shm/((?:psm_|sem\.mp-)\w+)$", re.MULTILINE)
# A process maps what it has created at once.
_MIN_AGE_S = 60.0


def names_of(pid: int) -> set[str]:
    """The names of what a process has mapped; none if it has ended."""
    return _mapped(Path(f"/proc/{pid}"))


def remove(names: Iterable[str]) -> None:
    """Remove these names. Whoever has mapped the memory can go on."""
    for name in names:
        (FOLDER / name).unlink(missing_ok=True)


def remove_orphans() -> None:
    """Remove names of this user that have been there for a while, and that no process has mapped."""
    used = {name for process in Path("/proc").glob("[0-9]*") for name in _mapped(process)}
    for path in FOLDER.iterdir():
        try:
            about = path.stat()
        except FileNotFoundError:
            continue  # somebody has just removed it
        is_old = time.time() - about.st_ctime > _MIN_AGE_S
        if is_old and about.st_uid == os.getuid() and _NAME.search(str(path)) and path.name not in used:
            path.unlink(missing_ok=True)


def _mapped(process: Path) -> set[str]:
    try:
        return set(_NAME.findall((process / "maps").read_text()))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return set()  # it has ended, or belongs to another user

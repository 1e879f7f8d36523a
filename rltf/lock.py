"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from rltf.errors import UserError

LOCK = ".lock"
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextlib.contextmanager
def locked(folder: Path, option: str = "--run.dir") -> Iterator[None]:
    """Keep every other process from working in `folder` during the context.

    The kernel releases the lock when the process dies, however it dies. A folder that did not exist is created, and
    removed again if it is empty at the end of the context. `option` is that of the folder.

    Raises UserError if another process has the lock, or the folder cannot be locked.
    """
    path, is_new = folder / LOCK, not folder.exists()
    try:
        descriptor = _open_locked(path)
    except BlockingIOError:
        raise UserError(
            f"{folder} is in use by {_holder(path)}: wait until that process ends, or choose another {option}"
        ) from None
    except OSError as error:
        failed = "locked" if error.errno in _WITHOUT_LOCKS else "written"
        raise UserError(f"{folder} cannot be {failed}: {error.strerror}; choose another {option}") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the disk may have become read-only
            path.unlink(missing_ok=True)  # before it is released: the next run then creates another one
        if is_new:
            with contextlib.suppress(OSError):  # not empty, or removed already
                folder.rmdir()
        os.close(descriptor)


def _open_locked(path: Path) -> int:
    """A descriptor that has the lock, and that no child process inherits. Raises BlockingIOError if it is taken."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
                holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps(holder).encode())
                return descriptor
        except BaseException:  # even an interrupt must leave no descriptor open, which would keep the lock
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last owner has just removed it


def _holder(lock: Path) -> str:
    """Who has the lock, in words."""
    try:
        held = json.loads(lock.read_bytes())
        return f"process {held['pid']} on {held['host']} since {held['since']}"
    except (OSError, ValueError, TypeError, KeyError):  # it has only just got the lock, and written nothing yet
        return "another process"

"""Files and folders that are either complete or absent, even after a crash.

Each is written under a temporary name and renamed when it is complete, so readers never see half of one.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from errors import UserError

_NAME = re.compile(r"step-(\d+)")
_TEMPORARY_PREFIX = ".incomplete-"
# If a write fails and the disk has less room than this, the full disk is the reason.
FULL_BYTES = 1 << 20


def write_text(path: Path, text: str) -> Path:
    """Replace the whole file and return its path. Raises OSError with the path as its file name."""
    return _write(path, [text])


def _write(path: Path, parts: Iterable[str]) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(parts)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
    return path


def write_json(path: Path, value: Any) -> Path:
    """Replace the file with `value` as indented JSON and return its path."""
    return write_text(path, json.dumps(value, indent=2) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Replace the file with one JSON object per line, written as `rows` yields them; returns its path."""
    return _write(path, (json.dumps(row) + "\n" for row in rows))


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Create `folder` with what `write` puts into the empty folder it is given.

    After a crash at any moment, `folder` is either complete or absent. The next call for the same folder removes
    whatever the crash left under a temporary name.

    Raises FileExistsError if `folder` exists, and OSError (ENOSPC) if the disk is full.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(_TEMPORARY_PREFIX + folder.name)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        write(temporary)
        for path in sorted(temporary.rglob("*")):
            sync(path)
    except Exception as error:  # libraries that write weights rarely say that the disk is full
        is_full = shutil.disk_usage(folder.parent).free < FULL_BYTES
        shutil.rmtree(temporary)
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise
    sync(temporary)
    temporary.rename(folder)
    sync(folder.parent)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints `step-N` in `folder`, oldest first; [] if there is no such folder."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`; None if there is none."""
    return next(reversed(checkpoints(folder)), None)


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and whatever interrupted writes left behind."""
    for path in checkpoints(folder)[:-keep]:
        # Rename first, so a crash in between cannot leave a partial checkpoint that looks complete.
        doomed = path.with_name(_TEMPORARY_PREFIX + path.name)
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
    for path in folder.glob(_TEMPORARY_PREFIX + "*"):
        shutil.rmtree(path)


class AppendedFile:
    """A file that grows piece by piece. Writes are unbuffered, so a killed program loses none of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Append all of `data`. Raises OSError with the path as its file name, for example if the disk is full."""
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def close(self) -> None:
        """Close the file. Writing to it afterwards raises ValueError."""
        self._file.close()


class RowWriter(AppendedFile):
    """Appends rows to a JSONL file."""

    def write_row(self, row: Mapping[str, object]) -> None:
        """Append one row. NaN and infinities become null, because JSON has no number for them."""
        self.write((json.dumps(_finite(row), allow_nan=False) + "\n").encode())

    def rewind(self, step: int) -> None:
        """Drop the rows of steps after `step`."""
        self.close()
        keep_rows_until(self._path, step)
        self._file = self._path.open("ab", buffering=0)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All complete rows of a JSONL file; [] if there is no such file. A last line that was cut short is skipped.

    Raises UserError, with the file and line, for a complete line that is not a JSON object.
    """
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        rows.append(row)
    return rows


def keep_rows_until(path: Path, step: int) -> None:
    """Drop the rows of steps after `step`; a resumed run writes them again."""
    write_jsonl(path, [row for row in read_rows(path) if row["step"] <= step])


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value

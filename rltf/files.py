"""Files and folders that are either complete or absent, even after a crash, and readers that notice damage.

Each is written under a temporary name and renamed when it is complete, so readers never see half of one. A folder also
lists the SHA-256 of its files, so that a byte that changes later is noticed. What is damaged is named in one
`UserError`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from rltf.errors import UserError

logger = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
_NAME = re.compile(r"step-(\d+)")
_SUM = re.compile(r"([0-9a-f]{64})  (.+)")
_TEMPORARY_PREFIX = ".incomplete-"
_ASIDE_PREFIX = "set-aside-"
# Hashing releases the interpreter's lock, and a core hashes 1 to 2 GB/s.
_NUM_HASHING = 8
_NOT_TEXT = "not UTF-8 text"
_RESTORE = "the file is damaged: restore it from a copy"
_DELETE_LINE = "the file is damaged: restore it from a copy, or delete the line"
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
    """Create `folder` with what `write` puts into the empty folder it is given, and a list of its files' SHA-256.

    After a crash at any moment, `folder` is either complete or absent. The next call for the same folder removes
    whatever the crash left under a temporary name. `sha256sum -c SHA256SUMS` checks the folder, as `damage` does.

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
        names = _names(temporary)
        sums = zip(_hashes(temporary, names), names, strict=True)
        (temporary / SUMS).write_text("".join(f"{digest}  {name}\n" for digest, name in sums), encoding="utf-8")
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


def _names(folder: Path) -> list[str]:
    """The files below a folder, without its list of them, in the order of that list."""
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [str(name) for name in found if name != Path(SUMS)]


def _hashes(folder: Path, names: Iterable[str]) -> list[str]:
    """The SHA-256 of each file, several at a time."""

    def hashed(name: str) -> str:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(_NUM_HASHING) as threads:
        return list(threads.map(hashed, names))


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that `write_folder` wrote; None if all of its files are as written.

    Reads every file. A file that was added later does not matter, unless it comes after all those that are listed: the
    list is in order, so one that was cut short lacks the last files.
    """
    sums = folder / SUMS
    if not sums.is_file():
        return f"it has no {SUMS}, so it is incomplete, or an earlier version of this program wrote it"
    try:
        *lines, rest = sums.read_bytes().decode("utf-8", "replace").split("\n")
        listed = [_SUM.fullmatch(line) for line in lines]
        if rest or not lines or None in listed:
            return f"its {SUMS} is damaged"
        expected = {match[2]: match[1] for match in listed if match is not None}
        if missing := [name for name in expected if not (folder / name).is_file()]:
            return f"{missing[0]} is missing"
        if (last := _names(folder)[-1]) not in expected:
            return f"its {SUMS} is cut short: it does not list {last}"
        found = _hashes(folder, expected)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    changed = [name for name, digest in zip(expected, found, strict=True) if digest != expected[name]]
    return f"{changed[0]} is not as it was written" if changed else None


def check_folder(folder: Path) -> None:
    """Raise UserError unless all files of a folder that `write_folder` wrote are as written."""
    if (found := damage(folder)) is not None:
        raise UserError(f"{folder} is damaged: {found}; restore it from a copy, or delete it")


def is_cached(folder: Path) -> bool:
    """Whether a cache has this folder, and it is whole. A damaged one is set aside, so that it is made again."""
    if not folder.is_dir():
        return False
    if (found := damage(folder)) is None:
        return True
    logger.warning("%s is damaged (%s): it is set aside as %s and made again", folder, found, set_aside(folder).name)
    return False


def set_aside(folder: Path) -> Path:
    """Rename a folder so that its name is free again and it is never taken for a checkpoint; returns the new path."""
    aside = folder.with_name(_ASIDE_PREFIX + folder.name)
    number = 1
    while aside.exists():
        number += 1
        aside = folder.with_name(f"{_ASIDE_PREFIX}{folder.name}.{number}")
    folder.rename(aside)
    return aside


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints `step-N` in `folder`, oldest first; [] if there is no such folder."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, which may be damaged; None if there is none."""
    return next(reversed(checkpoints(folder)), None)


def newest_whole_checkpoint(folder: Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest checkpoint in `folder` that is whole, None if there is none; and what is wrong with each newer one."""
    damaged: dict[Path, str] = {}
    for path in reversed(checkpoints(folder)):
        if (found := damage(path)) is None:
            return path, damaged
        damaged[path] = found
    return None, damaged


def step_of(checkpoint: Path) -> int:
    """The number of updates behind a checkpoint. Raises ValueError if the folder is not named `step-N`."""
    if (match := _NAME.fullmatch(checkpoint.name)) is None:
        raise ValueError(f"not a checkpoint: {checkpoint}")
    return int(match[1])


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


def read_text(path: Path) -> str:
    """The text of a file. Raises UserError, with the file and line, if it is not UTF-8."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: {_NOT_TEXT}; {_RESTORE}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError, with the file and line, if it is damaged."""
    return _from_json(read_text(path), path, 1, _RESTORE)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file. Raises UserError, with the file and line, if it is damaged."""
    text = read_text(path)
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(yaml_message(path, error)) from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected NAME: VALUE, found {type(value).__name__}; {_RESTORE}")
    return value


def yaml_message(path: Path, error: yaml.YAMLError | ValueError) -> str:
    """What is wrong with a YAML file, with the line if it is known."""
    if isinstance(error, yaml.MarkedYAMLError):
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return f"{path}:{line}: invalid YAML: {error.problem}"
    reason = error.reason if isinstance(error, yaml.reader.ReaderError) else error
    return f"{path}: invalid YAML: {reason}"


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The complete rows of a JSONL file, one by one; none if there is no such file.

    What follows the last newline is skipped: a crash may leave part of a row there, or NUL bytes.

    Raises UserError, with the file and line, for a complete line that is not a JSON object.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                text = line[:-1].decode("utf-8")
            except UnicodeDecodeError:
                raise UserError(f"{path}:{number}: {_NOT_TEXT}; {_DELETE_LINE}") from None
            yield _from_json(text, path, number, _DELETE_LINE)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows that `rows_of` yields."""
    return list(rows_of(path))


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file that has a `step` in each row, in ascending order.

    Raises UserError, with the file and line, for a row without one, and as `rows_of`.
    """
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(rows_of(path), start=1):
        step = row.get("step")
        if type(step) is not int or step < 0:
            raise UserError(f"{path}:{number}: expected an integer `step`, found {step!r}; {_DELETE_LINE}")
        if rows and step < rows[-1]["step"]:
            raise UserError(f"{path}:{number}: step {step} comes after step {rows[-1]['step']}; {_DELETE_LINE}")
        rows.append(row)
    return rows


def has_torn_tail(path: Path) -> bool:
    """Whether a crash left a piece of a row, or NUL bytes, at the end of a JSONL file."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def keep_rows_until(path: Path, step: int) -> None:
    """Drop the rows of steps after `step`, and a torn tail; a resumed run writes them again. Raises as `read_steps`."""
    write_jsonl(path, [row for row in read_steps(path) if row["step"] <= step])


def _from_json(text: str, path: Path, line: int, fix: str) -> dict[str, Any]:
    """The object that `text` holds, which starts at this line of the file."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{line + error.lineno - 1}: not valid JSON: {error}; {fix}") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, or brackets nested as deeply
        raise UserError(f"{path}:{line}: not valid JSON: {error}; {fix}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}:{line}: expected a JSON object, found {type(value).__name__}; {fix}")
    return value


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value

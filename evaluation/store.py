"""The folder of an evaluation: programs with their verdicts as they come, and the results at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from errors import UserError
from files import write_json


class SampleStore:
    """`samples.jsonl` of an evaluation, appended row by row, so that one that was interrupted goes on where it was.

    `identity` says what is evaluated; a folder that holds samples of something else is refused. A context manager.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._samples = folder / "samples.jsonl"
        _cut_incomplete_line(self._samples)
        is_empty = not self._samples.exists() or not self._samples.stat().st_size
        _check_identity(folder / "evaluation.json", identity, is_empty)
        self._file = self._samples.open("a", encoding="utf-8")

    def __enter__(self) -> SampleStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows stored so far."""
        self._file.flush()
        return read_samples(self.folder)

    def append(self, row: dict[str, Any]) -> None:
        """Add one program with its verdict."""
        self._file.write(json.dumps(row) + "\n")

    def keep_first(self, num_rows: int) -> None:
        """Drop all rows but the first `num_rows`."""
        self._file.flush()
        size = sum(len(line) for _, line in zip(range(num_rows), self._samples.open("rb"), strict=False))
        os.truncate(self._samples, size)

    def replace(self, rows: dict[int, dict[str, Any]]) -> None:
        """Put other rows in the places (from 0) of some of those stored."""
        self._file.flush()
        partial = self._samples.with_name(self._samples.name + ".partial")
        with self._samples.open(encoding="utf-8") as old, partial.open("w", encoding="utf-8") as new:
            for place, line in enumerate(old):
                new.write(json.dumps(rows[place]) + "\n" if place in rows else line)
        partial.replace(self._samples)
        self._file.close()
        self._file = self._samples.open("a", encoding="utf-8")

    def finish(self, results: dict[str, Any]) -> Path:
        """Write `results.json` and return its path."""
        self._file.flush()
        return write_json(self.folder / "results.json", results)


def read_samples(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of an evaluation's `samples.jsonl`.

    Raises:
        UserError: the folder holds none, or a row is broken.
    """
    path = folder / "samples.jsonl"
    if not path.is_file():
        raise UserError(f"{folder}: no samples.jsonl, so no evaluation was written there")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row: dict[str, Any] = json.loads(line)
                yield row
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: not JSON: {error.msg}") from error


def _check_identity(path: Path, identity: dict[str, Any], is_empty: bool) -> None:
    if is_empty or not path.exists():
        write_json(path, identity)
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}; choose another --output") from error
    differing = sorted(key for key in stored.keys() | identity.keys() if stored.get(key) != identity.get(key))
    if differing:
        shown = "; ".join(f"{key}: {_shown(stored, key)} there, {_shown(identity, key)} now" for key in differing)
        raise UserError(f"{path.parent} holds another evaluation ({shown}); choose another --output")


def _shown(identity: dict[str, Any], key: str) -> str:
    return repr(identity[key]) if key in identity else "not recorded"


def _cut_incomplete_line(path: Path) -> None:
    """Remove what an interruption left of a row."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        while size:
            start = max(0, size - 65536)
            file.seek(start)
            newline = file.read(size - start).rfind(b"\n")
            if newline >= 0:
                size = start + newline + 1
                break
            size = start
        file.truncate(size)

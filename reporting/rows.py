"""Files of one JSON object a line: appended row by row, read back even where the last line was cut short."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from files import write_text

Row = dict[str, Any]


class AppendedFile:
    """A file to which whole pieces are appended, each at once and unbuffered: a killed run keeps what it wrote."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Append all of `data`. Raises OSError, with the file's name, where that fails: the disk may be full."""
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def close(self) -> None:
        """Close the file; writing afterwards raises ValueError."""
        self._file.close()


class RowWriter:
    """Appends rows to a file, as `AppendedFile` does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = AppendedFile(path)

    def write(self, row: Mapping[str, object]) -> None:
        """Append one row. Values JSON has no number for (NaN, infinities) become null."""
        self._file.write((json.dumps(_finite(row), allow_nan=False) + "\n").encode())

    def rewind(self, step: int) -> None:
        """Drop the rows of later steps than `step`."""
        self._file.close()
        keep_rows_until(self._path, step)
        self._file = AppendedFile(self._path)

    def close(self) -> None:
        """Close the file; writing afterwards raises ValueError."""
        self._file.close()


def read_rows(path: Path) -> list[Row]:
    """All complete rows of a file, [] where there is none. A last line without its end was cut short and is left out.

    Raises ValueError, naming file and line, for a complete line that is not a JSON object.
    """
    if not path.is_file():
        return []
    rows: list[Row] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: no JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: expected an object, found {type(row).__name__}")
        rows.append(row)
    return rows


def keep_rows_until(path: Path, step: int) -> None:
    """Drop the rows of later steps than `step`, which a resumed run writes again. The file is whole at any moment."""
    rows = [row for row in read_rows(path) if row["step"] <= step]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value

"""The folder of an evaluation: its programs and verdicts, and what they depend on.

`evaluation.json` records the options, `problems.json` a fingerprint of each problem. An evaluation only continues in a
folder that records the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rltf.errors import UserError
from rltf.files import RowWriter, read_json, rows_of, write_json, write_jsonl
from rltf.problems.fingerprints import Fingerprints, differences, fingerprints
from rltf.problems.types import Problem

logger = logging.getLogger(__name__)


class SampleStore:
    """The `samples.jsonl` of an evaluation. Rows are appended one by one, so an interrupted evaluation can continue.

    `identity` says what is evaluated; a folder with samples of anything else is refused. A context manager.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "samples.jsonl"
        self.num_rows = _drop_torn_row(self._path)
        _check_identity(folder / "evaluation.json", identity, is_empty=not self.num_rows)
        self._file = RowWriter(self._path)

    def __enter__(self) -> SampleStore:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def check_problems(self, problems: Sequence[Problem]) -> None:
        """Record the problems. Raises UserError if the stored programs belong to other ones."""
        kept, now = read_fingerprints(self.folder), fingerprints(problems)
        if self.num_rows and kept is None:
            logger.warning(
                "%s does not record its problems, because an older evaluate.py wrote it; its verdicts are kept "
                "(choose another --output to grade everything again)",
                self.folder,
            )
        elif self.num_rows and kept is not None and (found := differences(kept, now)):
            raise UserError(
                f"{self.folder} holds programs for other problems: {found}; restore those problems, or choose another "
                "--output"
            )
        write_json(self.folder / "problems.json", now)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows stored so far."""
        return read_samples(self.folder)

    def append(self, row: dict[str, Any]) -> None:
        """Add one program with its verdict."""
        self._file.write_row(row)
        self.num_rows += 1

    def replace(self, rows: Iterable[dict[str, Any]]) -> None:
        """Replace all rows, once all of them are there. `rows` may read the old ones meanwhile."""
        self._file.close()
        write_jsonl(self._path, rows)
        self._file = RowWriter(self._path)


def read_samples(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of an evaluation's `samples.jsonl`. Raises UserError if there is none or a row is broken."""
    path = folder / "samples.jsonl"
    if not path.is_file():
        raise UserError(f"{folder} has no samples.jsonl, so it is not the --output of an evaluation")
    yield from rows_of(path)


def holds_programs(folder: Path) -> bool:
    """Whether the folder is that of an evaluation with programs."""
    path = folder / "samples.jsonl"
    return path.is_file() and path.stat().st_size > 0


def read_fingerprints(folder: Path) -> Fingerprints | None:
    """The fingerprints that an evaluation recorded; None if an older version wrote it, which recorded none."""
    path = folder / "problems.json"
    return read_json(path) if path.exists() else None


def _drop_torn_row(path: Path) -> int:
    """Cut the file off after the last complete row; return how many there are."""
    path.touch()
    num_rows = num_bytes = 0
    with path.open("rb+") as file:
        for line in file:
            if line.endswith(b"\n"):
                num_rows += 1
                num_bytes += len(line)
        file.truncate(num_bytes)
    return num_rows


def _check_identity(path: Path, identity: dict[str, Any], *, is_empty: bool) -> None:
    if is_empty or not path.exists():
        write_json(path, identity)
        return
    stored = read_json(path)
    found = [
        f"{key}: {stored.get(key)!r} there, {identity.get(key)!r} now"
        for key in sorted(stored.keys() | identity.keys())
        if stored.get(key) != identity.get(key)
    ]
    if found:
        raise UserError(f"{path.parent} holds another evaluation ({'; '.join(found)}); choose another --output")

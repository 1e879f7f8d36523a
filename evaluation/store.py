"""The folder of an evaluation: its programs and verdicts, and what they depend on.

`evaluation.json` records the options, `problems.json` a fingerprint of each problem. An evaluation only continues in a
folder that records the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from errors import UserError
from files import RowWriter, write_json, write_jsonl
from problems.prompts import chat_message, render_prompt
from problems.types import Problem

logger = logging.getLogger(__name__)
NUM_CHARACTERS = 16
"""Length of a fingerprint."""
_SHOWN = 5

_NOT_GRADED_BY = frozenset(
    {"task_id", "benchmark", "statement", "starter_code", "references", "difficulty", "num_visible_tests"}
)

Fingerprints = Mapping[str, Mapping[str, str]]
"""From task id to part (`statement`, `tests`, `prompt`) to fingerprint, in the order of the problems."""


class SampleStore:
    """The `samples.jsonl` of an evaluation. Rows are appended one by one, so an interrupted evaluation can continue.

    `identity` says what is evaluated; a folder with samples of anything else is refused. A context manager.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "samples.jsonl"
        self.num_rows = _truncate(self._path)
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

    def keep_first(self, num_rows: int) -> None:
        """Drop all rows after the first `num_rows`."""
        self.num_rows = _truncate(self._path, num_rows)

    def replace(self, rows: Mapping[int, dict[str, Any]]) -> None:
        """Replace some stored rows, given by their places (from 0)."""
        self._file.close()
        write_jsonl(self._path, (rows.get(place, row) for place, row in enumerate(self.rows())))
        self._file = RowWriter(self._path)


def read_samples(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of an evaluation's `samples.jsonl`. Raises UserError if there is none or a row is broken."""
    path = folder / "samples.jsonl"
    if not path.is_file():
        raise UserError(f"{folder} has no samples.jsonl, so it is not the --output of an evaluation")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row: dict[str, Any] = json.loads(line)
                yield row
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: not JSON: {error.msg}") from error


def fingerprints(problems: Sequence[Problem]) -> Fingerprints:
    """Fingerprints of everything that samples and verdicts depend on; not of difficulties and reference programs."""
    return {
        problem.task_id: {
            "statement": _digest([problem.statement, problem.starter_code]),
            "tests": _digest([getattr(problem, one.name) for one in fields(problem) if one.name not in _NOT_GRADED_BY]),
            "prompt": _digest([render_prompt(problem), chat_message(problem)]),
        }
        for problem in problems
    }


def read_fingerprints(folder: Path) -> Fingerprints | None:
    """The fingerprints that an evaluation recorded; None if an older version wrote it, which recorded none."""
    path = folder / "problems.json"
    return _read_json(path) if path.exists() else None


def differences(kept: Fingerprints, now: Fingerprints) -> str:
    """How two sets of problems differ, in words; empty if they do not."""
    changed = {
        task_id: [part for part in parts if kept[task_id].get(part) != parts[part]]
        for task_id, parts in now.items()
        if task_id in kept
    }
    found = [
        _counted("changed", [f"{task_id}: {', '.join(parts)}" for task_id, parts in changed.items() if parts], "; "),
        _counted("added", [task_id for task_id in now if task_id not in kept]),
        _counted("removed", [task_id for task_id in kept if task_id not in now]),
    ]
    if not any(found) and list(kept) != list(now):
        return "the problems are in a different order"
    return ", ".join(filter(None, found))


def changed_tests(kept: Fingerprints, now: Fingerprints) -> list[str]:
    """The problems that are in both sets with different tests."""
    return [
        task_id for task_id, parts in now.items() if task_id in kept and kept[task_id].get("tests") != parts["tests"]
    ]


def some(names: Sequence[str], separator: str = ", ") -> str:
    """The first few of many names."""
    return separator.join(names[:_SHOWN]) + (f"{separator}..." if len(names) > _SHOWN else "")


def _counted(what: str, names: Sequence[str], separator: str = ", ") -> str:
    return f"{len(names)} {what} ({some(names, separator)})" if names else ""


def _truncate(path: Path, num_rows: int | None = None) -> int:
    """Cut the file off after `num_rows` rows, or after the last complete row; return how many remain."""
    path.touch()
    with path.open("rb+") as file:
        sizes = [len(line) for line in islice(file, num_rows) if line.endswith(b"\n")]
        file.truncate(sum(sizes))
    return len(sizes)


def _check_identity(path: Path, identity: dict[str, Any], *, is_empty: bool) -> None:
    if is_empty or not path.exists():
        write_json(path, identity)
        return
    stored = _read_json(path)
    found = [
        f"{key}: {stored.get(key)!r} there, {identity.get(key)!r} now"
        for key in sorted(stored.keys() | identity.keys())
        if stored.get(key) != identity.get(key)
    ]
    if found:
        raise UserError(f"{path.parent} holds another evaluation ({'; '.join(found)}); choose another --output")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}; choose another --output") from error


def _digest(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode("utf-8", "surrogatepass")).hexdigest()[:NUM_CHARACTERS]


def _canonical(value: Any) -> str:
    """The same text in every process: sets are sorted, and integers are in hexadecimal, which has no length limit."""
    if is_dataclass(value):
        inside = [_canonical(getattr(value, field.name)) for field in fields(value)]
    elif isinstance(value, (list, tuple)):
        inside = [_canonical(item) for item in value]
    elif isinstance(value, (set, frozenset)):
        inside = sorted(_canonical(item) for item in value)
    elif isinstance(value, dict):
        inside = [f"{_canonical(key)}:{_canonical(item)}" for key, item in value.items()]
    elif type(value) is int:
        return f"{value:x}"
    else:
        return repr(value)
    return f"{type(value).__name__}({','.join(inside)})"

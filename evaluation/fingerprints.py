"""Fingerprints of what an evaluation rests on: its problems, and the files of a model folder.

They are kept in the output folder, so that an evaluation is not continued on other problems or with another model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from errors import UserError
from files import write_json
from problems.prompts import chat_message, render_prompt
from problems.types import Problem

FILE_NAME = "problems.json"
_NUM_CHARACTERS = 16
_SHOWN = 5
_WHOLE_FILE_BYTES = 1 << 22
_PART_BYTES = 1 << 20

_NOT_GRADED_BY = frozenset(
    {"task_id", "benchmark", "statement", "starter_code", "references", "difficulty", "num_visible_tests"}
)

Fingerprints = Mapping[str, Mapping[str, str]]
"""From task id to part (`statement`, `tests`, `prompt`) to its fingerprint, in the order of the problems."""


def fingerprints(problems: Sequence[Problem]) -> Fingerprints:
    """What samples and verdicts depend on. Difficulties and reference programs are not in it."""
    return {
        problem.task_id: {
            "statement": _digest([problem.statement, problem.starter_code]),
            "tests": _digest([getattr(problem, one.name) for one in fields(problem) if one.name not in _NOT_GRADED_BY]),
            "prompt": _digest([render_prompt(problem), chat_message(problem)]),
        }
        for problem in problems
    }


def read_fingerprints(folder: Path) -> Fingerprints | None:
    """Those of the evaluation in `folder`; None where it keeps none (older versions did not).

    Raises:
        UserError: the file is broken.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        kept: Fingerprints = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}; choose another --output") from error
    return kept


def write_fingerprints(folder: Path, now: Fingerprints) -> None:
    """Keep them for the next run into this folder."""
    write_json(folder / FILE_NAME, now)


def differences(kept: Fingerprints, now: Fingerprints) -> str:
    """What differs between the problems, in words; empty where nothing does."""
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
        return "the problems stand in another order"
    return ", ".join(filter(None, found))


def changed_tests(kept: Fingerprints, now: Fingerprints) -> list[str]:
    """The problems that both have, with other tests."""
    return [
        task_id for task_id, parts in now.items() if task_id in kept and kept[task_id].get("tests") != parts["tests"]
    ]


def some(names: Sequence[str], separator: str = ", ") -> str:
    """The first few of many names."""
    return separator.join(names[:_SHOWN]) + (f"{separator}..." if len(names) > _SHOWN else "")


def folder_fingerprint(folder: Path) -> str:
    """Of a model folder: names and sizes of its files and their contents, of large ones the start, middle and end.

    Weights that were trained further have the same sizes, but differ almost everywhere.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_FILE_BYTES:
                digest.update(file.read())
                continue
            for start in (0, size // 2, size - _PART_BYTES):
                file.seek(start)
                digest.update(file.read(_PART_BYTES))
    return digest.hexdigest()[:_NUM_CHARACTERS]


def _counted(what: str, names: Sequence[str], separator: str = ", ") -> str:
    return f"{len(names)} {what} ({some(names, separator)})" if names else ""


def _digest(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode("utf-8", "surrogatepass")).hexdigest()[:_NUM_CHARACTERS]


def _canonical(value: Any) -> str:
    """The same text in every process: sets in order, and integers in hexadecimal, which has no limit of length."""
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

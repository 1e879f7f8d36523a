"""Fingerprints of problems: whether two sets of problems differ, and in what."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from rltf.problems.prompts import chat_messages, render_prompt
from rltf.problems.types import Problem

NUM_CHARACTERS = 16
"""Length of a fingerprint."""
_NUM_SHORT = 6
_SHOWN = 5

_NOT_GRADED_BY = frozenset(
    {
        "task_id",
        "benchmark",
        "statement",
        "starter_code",
        "references",
        "difficulty",
        "num_visible_tests",
        "examples",
    }
)

Fingerprints = Mapping[str, Mapping[str, str]]
"""From task id to part (`statement`, `tests`, `prompt`) to fingerprint, in the order of the problems."""
ShortFingerprints = dict[str, str]
"""From task id to the first characters of the fingerprints of its parts, in the order of the problems."""


def fingerprints(problems: Sequence[Problem]) -> Fingerprints:
    """Fingerprints of everything that samples and verdicts depend on; not of difficulties and reference programs."""
    return {
        problem.task_id: {
            "statement": _statement(problem),
            "tests": _tests(problem),
            "prompt": _digest([render_prompt(problem), chat_messages(problem)[-1]["content"]]),
        }
        for problem in problems
    }


def examples_fingerprint(problems: Sequence[Problem]) -> str:
    """A fingerprint of the examples, which only dialogues depend on."""
    return _digest([problem.examples for problem in problems])


def short_fingerprints(problems: Sequence[Problem]) -> ShortFingerprints:
    """Fingerprints of statements, tests and reference programs for a checkpoint; `expanded` takes them apart."""
    return {
        problem.task_id: " ".join(
            part[:_NUM_SHORT] for part in (_statement(problem), _tests(problem), _digest(problem.references))
        )
        for problem in problems
    }


def expanded(short: ShortFingerprints) -> Fingerprints:
    """Short fingerprints as `differences` takes them: the parts `statement`, `tests` and `references`."""
    names = ("statement", "tests", "references")
    return {task_id: dict(zip(names, parts.split(" "), strict=False)) for task_id, parts in short.items()}


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


def _statement(problem: Problem) -> str:
    return _digest([problem.statement, problem.starter_code])


def _tests(problem: Problem) -> str:
    # Without fields at their default, so that a new field leaves the fingerprints of most problems as they are.
    values = {one.name: getattr(problem, one.name) for one in fields(problem)}
    changed = [one.name for one in fields(problem) if values[one.name] != one.default]
    return _digest({name: values[name] for name in changed if name not in _NOT_GRADED_BY})


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()[:NUM_CHARACTERS]


def canonical(value: Any) -> str:
    """The same text in every process: sets are sorted, and integers are in hexadecimal, which has no length limit."""
    if is_dataclass(value):
        inside = [canonical(getattr(value, field.name)) for field in fields(value)]
    elif isinstance(value, (list, tuple)):
        inside = [canonical(item) for item in value]
    elif isinstance(value, (set, frozenset)):
        inside = sorted(canonical(item) for item in value)
    elif isinstance(value, dict):
        inside = [f"{canonical(key)}:{canonical(item)}" for key, item in value.items()]
    elif type(value) is int:
        return f"{value:x}"
    else:
        return repr(value)
    return f"{type(value).__name__}({','.join(inside)})"

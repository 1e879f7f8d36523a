"""SPECs, `KIND:PATH[a:b]?key=value`: what names the problems of a benchmark on the command line and in settings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import UserError
from problems import apps, custom, humaneval, mbpp, starter
from problems.errors import RejectedRow, UnusableRowError
from problems.sources import Row, is_hub_id, read_file, read_hub
from problems.types import Problem


@dataclass(frozen=True, slots=True)
class LoadedProblems:
    """What a SPEC came to. `rejected` are the rows that cannot be used, whether or not the SPEC selects them."""

    problems: tuple[Problem, ...]
    rejected: tuple[RejectedRow, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """One `[a:b]` (`slice`) or one `?key=value` of a SPEC; selections are applied in the order written."""

    slice: slice | None = None
    key: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class Spec:
    """A SPEC taken apart."""

    text: str
    kind: str
    path: str
    selections: tuple[Selection, ...]

    def value_of(self, key: str) -> str | None:
        return next((selection.value for selection in self.selections if selection.key == key), None)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the rows of one benchmark become problems, and which folder of the hub's Parquet mirror holds them."""

    to_problem: Callable[[Any], Problem]
    task_id_of: Callable[[Any], str | None]
    mirror_folder: str | None = None


_KINDS = {
    "apps": _Kind(apps.to_problem, apps.task_id_of, "all"),
    "humaneval": _Kind(humaneval.to_problem, humaneval.task_id_of),
    "jsonl": _Kind(custom.to_problem, custom.task_id_of),
    "mbpp": _Kind(mbpp.to_problem, mbpp.task_id_of),
}
KINDS = ("starter", *_KINDS)
_EVALPLUS = {"mbppplus": "mbpp", "humanevalplus": "humaneval"}
_KEYS = ("difficulty", "split", "references", "config")
_TAIL = re.compile(r"(?P<head>.*)(?:\[(?P<first>-?\d*):(?P<end>-?\d*)\]|\?(?P<query>[^?\[\]]*))", re.DOTALL)


def parse_spec(text: str) -> Spec:
    """Take a SPEC apart.

    Raises:
        UserError: unknown KIND or key (the nearest one is named), or no PATH.
    """
    kind, colon, rest = text.partition(":")
    if kind in _EVALPLUS:
        raise UserError(f"{text!r}: {kind} of EvalPlus is not supported yet; {_EVALPLUS[kind]}:PATH has the base tests")
    if kind not in KINDS or not colon:
        raise UserError(
            f"{text!r}: expected KIND:PATH with KIND one of {', '.join(KINDS)}{nearest(kind, KINDS) if colon else ''}"
        )
    selections: list[Selection] = []
    while match := _TAIL.fullmatch(rest):
        rest = match["head"]
        if match["query"] is not None:
            selections[:0] = [_query(text, item) for item in match["query"].split("&")]
        else:
            first, end = (int(bound) if bound else None for bound in (match["first"], match["end"]))
            selections.insert(0, Selection(slice=slice(first, end)))
    if not rest:
        raise UserError(f"{text!r}: no PATH after {kind}:")
    return Spec(text, kind, rest, tuple(selections))


def _query(text: str, item: str) -> Selection:
    key, equals, value = item.partition("=")
    if key not in _KEYS or not equals or not value:
        raise UserError(
            f"{text!r}: expected ?difficulty=NAME, ?split=NAME, ?config=NAME or ?references=yes|no, got {item!r}"
            f"{nearest(key, _KEYS)}"
        )
    return Selection(key=key, value=value)


Refusal = Callable[[Problem], str | None]


def load(text: str, refuse: Refusal | None = None) -> LoadedProblems:
    """The problems that a SPEC names, in the order of their source, and the rows that cannot be used.

    `refuse` says of a row's problem why it cannot be used, None where it can (`sandbox.admission`).

    Raises:
        UserError: nothing usable, with the cause (unknown kind or path, no row usable, nothing selected).
    """
    spec = parse_spec(text)
    problems, rejected = _load_starter(spec) if spec.kind == "starter" else _convert(spec, _KINDS[spec.kind], refuse)
    selected = problems
    for selection in spec.selections:
        selected = _select(spec, selected, selection)
    if not selected:
        raise UserError(f"{text}: selects none of {len(problems)} problems{_difficulties(problems)}")
    return LoadedProblems(selected, rejected)


def _load_starter(spec: Spec) -> tuple[tuple[Problem, ...], tuple[RejectedRow, ...]]:
    try:
        return starter.load(spec.path), ()
    except ValueError as error:
        raise UserError(str(error)) from error


def _convert(spec: Spec, kind: _Kind, refuse: Refusal | None) -> tuple[tuple[Problem, ...], tuple[RejectedRow, ...]]:
    problems: dict[str, Problem] = {}
    rejected: list[RejectedRow] = []
    for row in _rows(spec, kind):
        task_id = kind.task_id_of(row.data)
        try:
            if row.problem is not None:
                raise UnusableRowError(row.problem)
            problem = kind.to_problem(row.data)
            if problem.task_id in problems:
                raise UnusableRowError("task_id: there is a problem of this id already")
            reason = refuse(problem) if refuse is not None else None
            if reason is not None:
                raise UnusableRowError(reason)
        except UnusableRowError as error:
            line = error.line if error.file else row.line
            rejected.append(RejectedRow(error.file or row.file, line, task_id, str(error)))
        else:
            problems[problem.task_id] = problem
    if not problems:
        first = f"; the first: {rejected[0]}" if rejected else ""
        raise UserError(f"{spec.path}: none of its {len(rejected)} rows can be used as {spec.kind}{first}")
    return tuple(problems.values()), tuple(rejected)


def _rows(spec: Spec, kind: _Kind) -> Iterator[Row]:
    path = Path(spec.path).expanduser()
    if path.is_dir():
        if spec.kind != "apps":
            raise UserError(f"{path}: a folder; {spec.kind} problems are read from a .jsonl, .jsonl.gz or .json file")
        return apps.read_folder(path)
    if path.is_file():
        return read_file(path)
    if not is_hub_id(spec.path):
        raise UserError(f"{path}: no such file or folder{_sibling(path)}")
    return read_hub(spec.path, spec.value_of("config"), kind.mirror_folder, _hub_splits(spec))


def _hub_splits(spec: Spec) -> tuple[str, ...] | None:
    """The hub's splits to read. MBPP's are joined, since its ids say the split; those of APPS number anew from 0."""
    split = spec.value_of("split")
    if spec.kind == "apps" and split is None:
        raise UserError(f"{spec.text}: on the hub APPS has two splits; add ?split=train or ?split=test")
    return None if split is None or spec.kind == "mbpp" else (split,)


def _select(spec: Spec, problems: tuple[Problem, ...], selection: Selection) -> tuple[Problem, ...]:
    if selection.slice is not None:
        return problems[selection.slice]
    if selection.key == "difficulty":
        return tuple(problem for problem in problems if problem.difficulty == selection.value)
    if selection.key == "references":
        if selection.value not in ("yes", "no"):
            raise UserError(f"{spec.text}: ?references= takes yes or no, not {selection.value!r}")
        return tuple(problem for problem in problems if bool(problem.references) == (selection.value == "yes"))
    on_hub = spec.kind != "starter" and not Path(spec.path).expanduser().exists()
    if selection.key == "config":
        if not on_hub:
            raise UserError(f"{spec.text}: ?config= is for data sets on the hub")
        return problems
    if spec.kind == "mbpp":
        if selection.value not in mbpp.SPLITS:
            hint = nearest(selection.value, mbpp.SPLITS)
            raise UserError(f"{spec.text}: MBPP's splits are {', '.join(mbpp.SPLITS)}{hint}")
        return tuple(problem for problem in problems if mbpp.in_split(problem, selection.value))
    if not on_hub:
        raise UserError(f"{spec.text}: ?split= is for mbpp and for data sets on the hub")
    return problems


def _difficulties(problems: tuple[Problem, ...]) -> str:
    names = sorted({problem.difficulty for problem in problems if problem.difficulty})
    return f"; difficulties: {', '.join(names)}" if names else ""


def _sibling(path: Path) -> str:
    names = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
    return nearest(path.name, names)


def nearest(name: str, names: Any) -> str:
    """`; did you mean NAME?` with the most similar of `names`, or nothing."""
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""

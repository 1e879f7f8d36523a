"""SPECs, `KIND:PATH[a:b]?key=value`, which name the problems of a benchmark, and the one table of these benchmarks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import UserError
from problems import apps, custom, humaneval, mbpp, starter
from problems.index import nearest
from problems.sources import Row, check_text, is_hub_id, read_file, read_hub
from problems.types import Problem, RejectedRow, UnusableRowError


@dataclass(frozen=True, slots=True)
class LoadedProblems:
    """The problems that a SPEC selects. `rejected` are all unusable rows, whether or not the SPEC selects them."""

    problems: tuple[Problem, ...]
    rejected: tuple[RejectedRow, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """The parts of a SPEC. A selection is a `[a:b]` or the (key, value) of a `?key=value`; their order matters."""

    text: str
    kind: str
    path: str
    selections: tuple[slice | tuple[str, str], ...]

    @property
    def name(self) -> str:
        """A name for a folder: the kind, the last part of the path if it says more, and the selections."""
        stem = re.split(r"[.]json", Path(self.path).name)[0]
        parts = [self.kind, *([] if stem.lower() == self.kind else [stem])]
        for one in self.selections:
            parts.append(
                one[1] if isinstance(one, tuple) else f"{one.start or 0}..{'end' if one.stop is None else one.stop}"
            )
        return "-".join(re.sub(r"[^\w.+-]", "_", part) for part in parts)

    def value_of(self, key: str) -> str | None:
        return next((one[1] for one in self.selections if isinstance(one, tuple) and one[0] == key), None)


@dataclass(frozen=True, slots=True)
class _Benchmark:
    """How the rows of a benchmark become problems and back.

    `mirror_folder` is the folder to read in the Hub's Parquet mirror. `evalplus` is the name of the larger benchmark
    with rows that look alike (EvalPlus, Liu et al. 2023).
    """

    to_problem: Callable[[Any], Problem]
    task_id_of: Callable[[Any], str | None]
    to_row: Callable[[Problem], dict[str, Any]]
    mirror_folder: str | None = None
    evalplus: str = ""


_BENCHMARKS = {
    "apps": _Benchmark(apps.to_problem, apps.task_id_of, apps.to_row, mirror_folder="all"),
    "humaneval": _Benchmark(humaneval.to_problem, humaneval.task_id_of, humaneval.to_row, evalplus="HumanEval+"),
    "jsonl": _Benchmark(custom.to_problem, custom.task_id_of, custom.to_row),
    "mbpp": _Benchmark(mbpp.to_problem, mbpp.task_id_of, mbpp.to_row, evalplus="MBPP+"),
}
KINDS = ("starter", *_BENCHMARKS)
_KEYS = ("difficulty", "split", "references", "config")
_TAIL = re.compile(r"(?P<head>.*)(?:\[(?P<first>-?\d*):(?P<end>-?\d*)\]|\?(?P<query>[^?\[\]]*))", re.DOTALL)
_EVALPLUS_INPUTS = re.compile(r"^[ \t]*inputs[ \t]*=", re.MULTILINE)
_EVALPLUS_ANSWERS = re.compile(r"^[ \t]*results[ \t]*=|\b(?:assertion|ref_func)\(", re.MULTILINE)


def parse_spec(text: str) -> Spec:
    """Take a SPEC apart.

    Raises:
        UserError: unknown KIND or key (the message names the nearest one), or no PATH.
    """
    kind, colon, rest = text.partition(":")
    base = kind.removesuffix("plus")
    if base != kind and base in _BENCHMARKS and _BENCHMARKS[base].evalplus:
        raise UserError(f"{text!r}: {kind} from EvalPlus is not supported yet; {base}:PATH has the base tests")
    if kind not in KINDS or not colon:
        raise UserError(
            f"{text!r}: expected KIND:PATH with KIND one of {', '.join(KINDS)}{nearest(kind, KINDS) if colon else ''}"
        )
    selections: list[slice | tuple[str, str]] = []
    while match := _TAIL.fullmatch(rest):
        rest = match["head"]
        if match["query"] is not None:
            selections[:0] = [_query(text, item) for item in match["query"].split("&")]
        else:
            first, end = (int(bound) if bound else None for bound in (match["first"], match["end"]))
            selections.insert(0, slice(first, end))
    if not rest:
        raise UserError(f"{text!r}: no PATH after {kind}:")
    return Spec(text, kind, rest, tuple(selections))


def _query(text: str, item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if key not in _KEYS or not equals or not value:
        raise UserError(
            f"{text!r}: expected ?difficulty=NAME, ?split=NAME, ?config=NAME or ?references=yes|no, got {item!r}"
            f"{nearest(key, _KEYS)}"
        )
    return key, value


Refusal = Callable[[Problem], str | None]
"""The reason why a problem cannot be used, or None if it can (`sandbox.admission`)."""


def load(text: str, refuse: Refusal | None = None) -> LoadedProblems:
    """The problems that a SPEC names, in the order of their source, and the rows that cannot be used.

    Raises:
        UserError: nothing usable; the message gives the cause (unknown kind or path, no usable row, empty selection).
    """
    spec = parse_spec(text)
    problems, rejected = (starter.load(spec.path), ()) if spec.kind == "starter" else _read(spec, refuse)
    selected = problems
    for selection in spec.selections:
        selected = _select(spec, selected, selection)
    if not selected:
        names = sorted({problem.difficulty for problem in problems if problem.difficulty})
        hint = f"; difficulties: {', '.join(names)}" if names else ""
        raise UserError(f"{text}: selects none of {len(problems)} problems{hint}")
    return LoadedProblems(selected, rejected)


def load_each(specs: Sequence[str], refuse: Refusal | None = None) -> list[tuple[str, LoadedProblems]]:
    """What each of several SPECs names.

    Raises:
        UserError: as `load`, and for a task id that is in two SPECs.
    """
    loaded = [(spec, load(spec, refuse)) for spec in specs]
    known: set[str] = set()
    for spec, found in loaded:
        task_ids = [problem.task_id for problem in found.problems]
        if twice := known.intersection(task_ids):
            first = next(task_id for task_id in task_ids if task_id in twice)
            raise UserError(f"{spec}: task_id {first} is in two SPECs; ids must be unique")
        known.update(task_ids)
    return loaded


def row_of(problem: Problem) -> dict[str, Any]:
    """The row of a problem in the format of its benchmark, which `load` reads back as the same problem.

    Raises:
        UserError: the benchmark has no rows, or they cannot hold one of the tests.
    """
    if problem.benchmark not in _BENCHMARKS:
        raise UserError(f"{problem.benchmark} problems have no row format; {', '.join(_BENCHMARKS)} problems have one")
    return _BENCHMARKS[problem.benchmark].to_row(problem)


def read_row(benchmark: str, row: dict[str, Any]) -> Problem:
    """The problem of a row after a round trip through JSON."""
    return _BENCHMARKS[benchmark].to_problem(json.loads(json.dumps(row)))


def _read(spec: Spec, refuse: Refusal | None) -> tuple[tuple[Problem, ...], tuple[RejectedRow, ...]]:
    benchmark = _BENCHMARKS[spec.kind]
    problems: dict[str, Problem] = {}
    rejected: list[RejectedRow] = []
    for row in _rows(spec, benchmark):
        task_id = benchmark.task_id_of(row.data)
        try:
            if row.problem is not None:
                raise UnusableRowError(row.problem)
            check_text(row.data, "")
            _refuse_evalplus(row.data, spec.kind, benchmark)
            problem = benchmark.to_problem(row.data)
            if problem.task_id in problems:
                raise UnusableRowError("task_id: another problem already has this id")
            reason = refuse(problem) if refuse is not None else None
            if reason is not None:
                raise UnusableRowError(reason)
        except UnusableRowError as error:
            line = error.line if error.file else row.line
            shown = None if task_id is None else task_id.encode("utf-8", "backslashreplace").decode()
            rejected.append(RejectedRow(error.file or row.file, line, shown, str(error)))
        else:
            problems[problem.task_id] = problem
    if not problems:
        first = f"; the first: {rejected[0]}" if rejected else ""
        raise UserError(f"{spec.path}: none of its {len(rejected)} rows can be used as {spec.kind}{first}")
    return tuple(problems.values()), tuple(rejected)


def _refuse_evalplus(row: Any, kind: str, benchmark: _Benchmark) -> None:
    """Refuse a row from EvalPlus: with only its base tests, results would look as if they came from the full set."""
    if not benchmark.evalplus or not isinstance(row, dict):
        return
    test = row.get("test")
    has_inputs = isinstance(test, str) and _EVALPLUS_INPUTS.search(test) and _EVALPLUS_ANSWERS.search(test)
    if has_inputs or "base_input" in row or "plus_input" in row:
        raise UnusableRowError(
            f"a row of {benchmark.evalplus} from EvalPlus: its inputs and tolerances are not supported yet; for the "
            f"base tests use {kind}:... with the benchmark's own file"
        )


def _rows(spec: Spec, benchmark: _Benchmark) -> Iterator[Row]:
    path = Path(spec.path).expanduser()
    if path.is_dir():
        if spec.kind != "apps":
            raise UserError(f"{path}: a folder; {spec.kind} problems are read from a .jsonl, .jsonl.gz or .json file")
        return apps.read_folder(path)
    if path.is_file():
        return read_file(path)
    if not is_hub_id(spec.path):
        siblings = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file or folder{nearest(path.name, siblings)}")
    split = spec.value_of("split")
    if spec.kind == "apps" and split is None:
        raise UserError(f"{spec.text}: APPS has two splits on the Hub; add ?split=train or ?split=test")
    # MBPP reads all of the Hub's splits, because its ids tell the split. Both of APPS's splits number from 0.
    splits = None if split is None or spec.kind == "mbpp" else (split,)
    return read_hub(spec.path, spec.value_of("config"), benchmark.mirror_folder, splits)


def _select(spec: Spec, problems: tuple[Problem, ...], selection: slice | tuple[str, str]) -> tuple[Problem, ...]:
    if isinstance(selection, slice):
        return problems[selection]
    key, value = selection
    if key == "difficulty":
        return tuple(problem for problem in problems if problem.difficulty == value)
    if key == "references":
        if value not in ("yes", "no"):
            raise UserError(f"{spec.text}: ?references= expects yes or no, got {value!r}")
        return tuple(problem for problem in problems if bool(problem.references) == (value == "yes"))
    on_hub = spec.kind != "starter" and not Path(spec.path).expanduser().exists()
    if key == "config":
        if not on_hub:
            raise UserError(f"{spec.text}: ?config= is for data sets on the Hub")
        return problems
    if spec.kind == "mbpp":
        if value not in mbpp.SPLITS:
            raise UserError(f"{spec.text}: MBPP's splits are {', '.join(mbpp.SPLITS)}{nearest(value, mbpp.SPLITS)}")
        first, last = mbpp.SPLITS[value]
        return tuple(problem for problem in problems if first <= int(problem.task_id) <= last)
    if not on_hub:
        raise UserError(f"{spec.text}: ?split= is for mbpp and for data sets on the Hub")
    return problems

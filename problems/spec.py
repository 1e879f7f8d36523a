"""SPECs, `KIND:PATH[a:b]?key=value`, which name the problems of a benchmark, and the one table of these benchmarks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rltf.errors import UserError, nearest
from rltf.problems import (
    apps,
    bigcodebench,
    custom,
    evalplus,
    humaneval,
    kodcode,
    leetcode,
    livecodebench,
    mbpp,
    shapes,
    starter,
)
from rltf.problems.benchmark import Benchmark, installed, installed_names
from rltf.problems.checkers import known_checker
from rltf.problems.sources import SUFFIXES, Row, check_text, is_hub_id, read_file, read_hub
from rltf.problems.types import Problem, RejectedRow, StdinTest, UnusableRowError


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
        stem = re.split(r"[.](?:json|parquet|arrow)", Path(self.path).name)[0]
        parts = [self.kind, *([] if stem.lower() == self.kind else [stem])]
        for one in self.selections:
            parts.append(
                one[1] if isinstance(one, tuple) else f"{one.start or 0}..{'end' if one.stop is None else one.stop}"
            )
        return "-".join(re.sub(r"[^\w.+-]", "_", part) for part in parts)

    def value_of(self, key: str) -> str | None:
        return next((one[1] for one in self.selections if isinstance(one, tuple) and one[0] == key), None)


_BENCHMARKS = {
    "apps": Benchmark(
        apps.to_problem,
        apps.task_id_of,
        apps.to_row,
        columns=("question input_output",),
        mirror_folder="all",
        splits=("train", "test"),
    ),
    "bigcodebench": Benchmark(
        bigcodebench.to_problem, bigcodebench.task_id_of, columns=("complete_prompt instruct_prompt test",)
    ),
    "humaneval": Benchmark(
        humaneval.to_problem,
        humaneval.task_id_of,
        humaneval.to_row,
        columns=("prompt entry_point canonical_solution test",),
    ),
    "humanevalplus": Benchmark(
        evalplus.humaneval_problem,
        evalplus.humaneval_task_id,
        columns=("prompt entry_point canonical_solution base_input plus_input",),
    ),
    "jsonl": Benchmark(custom.to_problem, custom.task_id_of, custom.to_row, columns=("statement tests",)),
    "kodcode": Benchmark(kodcode.to_problem, kodcode.task_id_of, columns=("question_id question solution test",)),
    "leetcode": Benchmark(
        leetcode.to_problem,
        leetcode.task_id_of,
        columns=("prompt completion entry_point test query", "prompt entry_point test problem_description"),
    ),
    "mbpp": Benchmark(mbpp.to_problem, mbpp.task_id_of, mbpp.to_row, columns=("code test_list",)),
    "mbppplus": Benchmark(
        evalplus.mbpp_problem,
        evalplus.mbpp_task_id,
        columns=("prompt entry_point canonical_solution base_input plus_input assertion",),
    ),
    **{
        kind: Benchmark(
            partial(shapes.to_problem, kind),
            partial(shapes.task_id_of, kind),
            columns=shape.columns,
            mirror_folder=shape.mirror_folder,
            splits=shape.splits,
            numbered=bool(shape.splits),
        )
        for kind, shape in shapes.SHAPES.items()
    },
}
ROW_KINDS = tuple(_BENCHMARKS)
"""The KINDs whose problems are rows."""
KINDS = ("starter", *ROW_KINDS)
_KEYS = ("difficulty", "split", "references", "config")
_RELEASE_KEYS = ("version", "from", "to")
"""Keys for LiveCodeBench. They choose rows before every other selection."""
_TAIL = re.compile(r"(?P<head>.*)(?:\[(?P<first>-?\d*):(?P<end>-?\d*)\]|\?(?P<query>[^?\[\]]*))", re.DOTALL)


def parse_spec(text: str) -> Spec:
    """Take a SPEC apart.

    Raises UserError for an unknown KIND or key (the message names the nearest one), or no PATH.
    """
    kind, colon, rest = text.partition(":")
    if kind not in KINDS or not colon:
        kinds = [*KINDS, *installed_names(KINDS)]
        if kind not in kinds or not colon:
            raise UserError(
                f"{text!r}: expected KIND:PATH with KIND one of {', '.join(kinds)}"
                f"{nearest(kind, kinds) if colon else ''}"
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
    spec = Spec(text, kind, rest, tuple(selections))
    for key in ("split", "config") if kind == "livecodebench" else _RELEASE_KEYS:
        if spec.value_of(key) is not None:
            raise UserError(f"{text!r}: ?{key}= is not for {kind} problems")
    return spec


def _query(text: str, item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    keys = (*_KEYS, *_RELEASE_KEYS)
    if key not in keys or not equals or not value:
        raise UserError(
            f"{text!r}: expected ?difficulty=NAME, ?split=NAME, ?config=NAME, ?references=yes|no, or for livecodebench "
            f"?version=NAME, ?from=DATE or ?to=DATE, got {item!r}{nearest(key, keys)}"
        )
    return key, value


def is_on_hub(text: str) -> bool:
    """Whether a SPEC names a data set on the Hub, which has to be downloaded unless the Hub's cache has it.

    Raises:
        UserError: as `parse_spec`.
    """
    spec = parse_spec(text)
    return spec.kind != "starter" and not Path(spec.path).expanduser().exists() and is_hub_id(spec.path)


Refusal = Callable[[Problem], str | None]
"""The reason why a problem cannot be used, or None if it can (`sandbox.admission`)."""


def load(text: str, refuse: Refusal | None = None) -> LoadedProblems:
    """The problems that a SPEC names, in the order of their source, and the rows that cannot be used.

    Raises UserError if nothing is usable; the message gives the cause (unknown kind or path, no usable row, empty
    selection).
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
    """What each of several SPECs names. Raises UserError as `load`, and for a task id that is in two SPECs."""
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

    If a test was added that the statement does not show, a problem that had no examples may have some then. Raises
    UserError if the benchmark has no rows, or they cannot hold one of the tests.
    """
    name = problem.benchmark
    benchmark = _benchmark(name) if name in _BENCHMARKS or name in installed_names(KINDS) else None
    if benchmark is None or benchmark.to_row is None:
        raise UserError(
            f"{problem.benchmark} problems have no row format to write them in; use rows of the KIND jsonl "
            "(docs/own-problems.md)"
        )
    return benchmark.to_row(problem)


def read_row(benchmark: str, row: dict[str, Any]) -> Problem:
    """The problem of a row after a round trip through JSON."""
    return to_problem(benchmark, json.loads(json.dumps(row)))


def to_problem(kind: str, row: Any) -> Problem:
    """The problem of a row as it comes from JSON.

    Raises UnusableRowError for a row that cannot be used as `kind`. The message starts with the column.
    """
    check_text(row, "")
    # A row of EvalPlus among those of the base benchmark is never read with its base tests alone.
    read_as = f"{kind}plus" if evalplus.is_evalplus_row(row) else kind
    return _with_checker((_BENCHMARKS.get(read_as) or _benchmark(kind)).to_problem(row))


def task_id_of(kind: str, row: Any) -> str | None:
    """The id that a row of `kind` has, if any."""
    return _benchmark(kind).task_id_of(row)


def kind_of(row: Mapping[str, Any]) -> str:
    """The KIND of a row, recognized by its columns: the most columns that are all there.

    Raises UserError if no KIND has such columns, or several have.
    """
    there = {name for name, value in row.items() if value is not None}
    found = {
        kind: max(known)
        for kind, benchmark in _BENCHMARKS.items()
        if (known := [len(names) for text in benchmark.columns if (names := set(text.split())) <= there])
    }
    kinds = [kind for kind in found if found[kind] == max(found.values())]
    if len(kinds) != 1:
        several = f"the columns of {' and '.join(kinds)}" if kinds else "the columns of no benchmark"
        columns = ", ".join(sorted(map(str, row)))
        raise UserError(f"a row with {several} ({columns}); say which it is: {', '.join(ROW_KINDS)}")
    return kinds[0]


def _benchmark(kind: str) -> Benchmark:
    return _BENCHMARKS[kind] if kind in _BENCHMARKS else installed(kind)


def _read(spec: Spec, refuse: Refusal | None) -> tuple[tuple[Problem, ...], tuple[RejectedRow, ...]]:
    benchmark = _benchmark(spec.kind)
    problems: dict[str, Problem] = {}
    rejected: list[RejectedRow] = []
    for number, row in enumerate(_rows(spec, benchmark), start=1):
        task_id = benchmark.task_id_of(row.data)
        if task_id is None and benchmark.numbered and isinstance(row.data, dict):
            row.data["task_id"] = task_id = str(number)
        try:
            if row.problem is not None:
                raise UnusableRowError(row.problem)
            problem = to_problem(spec.kind, row.data)
            if problem.task_id in problems:
                raise UnusableRowError("task_id: another problem already has this id")
            reason = refuse(problem) if refuse is not None else None
            if reason is not None:
                raise UnusableRowError(reason)
        except UnusableRowError as error:
            line = error.line if error.file else row.line
            shown = None if task_id is None else task_id.encode("utf-8", "backslashreplace").decode()
            rejected.append(RejectedRow(error.file or row.file, line, shown, str(error)))
        except UserError as error:
            raise UserError(f"{row.file}:{row.line}: {error}") from error
        else:
            problems[problem.task_id] = problem
    if not problems:
        first = f"; the first: {rejected[0]}" if rejected else ""
        raise UserError(f"{spec.path}: none of its {len(rejected)} rows can be used as {spec.kind}{first}")
    return tuple(problems.values()), tuple(rejected)


def _with_checker(problem: Problem) -> Problem:
    """The problem with the checker that is known for its statement, unless it has one."""
    has_stdin = problem.checker is None and all(isinstance(test, StdinTest) for test in problem.tests)
    checker = known_checker(problem.statement) if has_stdin else None
    return problem if checker is None else replace(problem, checker=checker)


def _rows(spec: Spec, benchmark: Benchmark) -> Iterator[Row]:
    path = Path(spec.path).expanduser()
    if not path.exists() and not is_hub_id(spec.path):
        siblings = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file or folder{nearest(path.name, siblings)}")
    if spec.kind == "livecodebench":
        return livecodebench.read_rows(spec.path, *(spec.value_of(key) for key in _RELEASE_KEYS))
    if path.is_dir():
        if spec.kind != "apps":
            raise UserError(f"{path}: a folder; {spec.kind} problems are read from a file ({', '.join(SUFFIXES)})")
        return apps.read_folder(path)
    if path.is_file():
        return read_file(path)
    split = spec.value_of("split")
    if benchmark.splits and split is None:
        choices = " or ".join(f"?split={name}" for name in benchmark.splits)
        raise UserError(f"{spec.text}: the ids of {spec.kind} repeat in each split on the Hub; add {choices}")
    # MBPP reads all of the Hub's splits, because its ids tell the split.
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
    if key in _RELEASE_KEYS:  # `_rows` has applied it
        return problems
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

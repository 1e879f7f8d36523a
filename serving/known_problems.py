"""The problems that a request names: preloaded ones by their id, or rows that the request carries itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rltf.errors import UserError
from rltf.grader.rows import problem_from_row
from rltf.problems.index import ProblemIndex
from rltf.problems.types import Problem
from rltf.serving.exchange import RefusedError


class KnownProblems:
    """`preloaded` problems, which requests name by their ids, and rows, which `check` returns or refuses."""

    def __init__(self, preloaded: Sequence[Problem], check: Callable[[Problem], Problem]) -> None:
        self.num_preloaded = len(preloaded)
        self._all = ProblemIndex(preloaded)
        self._benchmarks = sorted({problem.benchmark for problem in preloaded})
        self._by_benchmark = {
            name: ProblemIndex(problem for problem in preloaded if problem.benchmark == name)
            for name in self._benchmarks
        }
        self._check = check

    def find(self, place: str, task_id: str | int, benchmark: str | None = None) -> Problem:
        """The preloaded problem with an id. Raises `RefusedError` 404; its message starts with `place`."""
        if not self.num_preloaded:
            raise RefusedError(404, f"{place}: no problems are loaded; start the server with --problems SPEC")
        index = self._all if benchmark is None else self._by_benchmark.get(benchmark)
        if index is None:
            raise RefusedError(404, f"dataset {benchmark!r}: not loaded; loaded are {', '.join(self._benchmarks)}")
        return _or_refused(404, place, lambda: index.find(task_id))

    def from_row(self, place: str, row: Mapping[str, Any], benchmark: str | None) -> Problem:
        """The problem of a row. Raises `RefusedError` 422 if it cannot be used."""
        return _or_refused(422, place, lambda: self._check(problem_from_row(row, benchmark)))

    def usable(self, place: str, problem: Problem) -> Problem:
        """The problem itself. Raises `RefusedError` 422 if it cannot be graded."""
        return _or_refused(422, place, lambda: self._check(problem))


def _or_refused(status: int, place: str, find: Callable[[], Problem]) -> Problem:
    try:
        return find()
    except UserError as error:
        raise RefusedError(status, f"{place}: {error}") from error

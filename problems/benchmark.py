"""How the rows of a benchmark become problems, and the benchmarks that installed packages offer."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any

from rltf.errors import UserError
from rltf.plugins import PROBLEMS, loaded, offered, raised, title
from rltf.problems import custom
from rltf.problems.types import Problem, UnusableRowError


@dataclass(frozen=True, slots=True)
class Benchmark:
    """How the rows of a benchmark become problems and back. `to_row` is None if it has no row format to write.

    `to_problem` raises UnusableRowError for a row that should be reported and skipped. `task_id_of` is the id of a row,
    if it has one, for that report. A row without a KIND is recognized (`spec.kind_of`) by `columns`: it has all the
    names in one of these texts.

    `mirror_folder` is the folder to read in the Hub's Parquet mirror. With `splits`, ids repeat in each of these splits
    on the Hub, so one has to be chosen. With `numbered`, rows without an id get their number, from 1.
    """

    to_problem: Callable[[Any], Problem]
    task_id_of: Callable[[Any], str | None] = custom.task_id_of
    to_row: Callable[[Problem], dict[str, Any]] | None = None
    columns: tuple[str, ...] = ()
    mirror_folder: str | None = None
    splits: tuple[str, ...] = ()
    numbered: bool = False


def installed_names(built_in: Collection[str]) -> list[str]:
    """The KINDs of installed packages. Raises UserError if one is `built_in`, or if two packages offer it."""
    return list(offered(PROBLEMS, built_in))


def installed(kind: str) -> Benchmark:
    """The benchmark that an installed package offers as `kind`, one of `installed_names`.

    Its entry point is a function from a row to a problem, or a `Benchmark`. Raises UserError if it is neither.
    """
    entry = offered(PROBLEMS, ())[kind]
    found = loaded(entry)
    if not isinstance(found, Benchmark):
        if not callable(found):
            raise UserError(
                f"{title(entry)}: expected a function from a row to a Problem, or a Benchmark, got "
                f"{type(found).__name__}"
            )
        found = Benchmark(found)
    return replace(found, to_problem=partial(_problem, entry, found.to_problem))


def _problem(entry: EntryPoint, to_problem: Callable[[Any], Problem], row: Any) -> Problem:
    """Raises UnusableRowError for a row that is skipped, and UserError, which names the package, for anything else."""
    if not isinstance(row, dict):
        raise UnusableRowError(f"expected an object, got {type(row).__name__}")
    try:
        problem = to_problem(row)
    except UnusableRowError:
        raise
    except Exception as error:  # whatever the package raises
        raise UserError(
            f"{title(entry)} raised {raised(error)}; for a row to be skipped, it has to raise UnusableRowError"
        ) from error
    if not isinstance(problem, Problem):
        raise UserError(f"{title(entry)} returned {type(problem).__name__} instead of a Problem")
    if not problem.tests:
        raise UnusableRowError("tests: there are none")
    return problem

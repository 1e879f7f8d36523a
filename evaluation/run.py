"""One evaluation from its source of programs to `results.json`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from evaluation.counts import APPS_KEY, Counts, read_counts
from evaluation.store import EvaluationError, SampleStore
from problems import Problem, describe_rejected, load
from problems.lookup import ProblemIndex
from sandbox.admission import reason_to_refuse
from sandbox.compare import Comparison
from sandbox.grading import Graders, ProgramRow, check_programs, read_programs, verdict_row
from sandbox.limits import Limits
from sandbox.verdict import Isolation, Outcome, Verdict

logger = logging.getLogger(__name__)
_LOG_EVERY = 1000

Programs = Iterable[tuple[ProgramRow, Problem]]


class ProgramSource(Protocol):
    """Where the programs come from: always the same ones in the same order of problems."""

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this source from another; an evaluation is only continued with an equal one."""

    def resume_point(self, num_stored: int) -> int:
        """How many of the first `num_stored` programs can be kept."""

    def programs(self, problems: tuple[Problem, ...], num_done: int) -> Programs:
        """The programs behind the first `num_done`."""


@dataclass(frozen=True, slots=True)
class SamplesFile:
    """Programs made elsewhere, in a JSON lines file."""

    path: Path

    @property
    def identity(self) -> dict[str, Any]:
        if not self.path.is_file():
            raise EvaluationError(f"--samples {self.path}: no such file")
        with self.path.open("rb") as file:
            return {"samples": str(self.path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    def resume_point(self, num_stored: int) -> int:
        return num_stored

    def programs(self, problems: tuple[Problem, ...], num_done: int) -> Programs:
        """Raises ProblemsError for a row that cannot be used, before the first program is handed out."""
        index = ProblemIndex(problems)
        check_programs(self.path, index)
        return islice(read_programs(self.path, index), num_done, None)


@dataclass(frozen=True, slots=True)
class EvaluationRun:
    """What to evaluate, on what, and where to write it."""

    source: ProgramSource
    spec: str
    output: Path
    ks: tuple[int, ...]
    comparison: Comparison = Comparison.STRICT
    against: Path | None = None
    num_workers: int = 1
    require: Isolation = Isolation.NAMESPACES


@dataclass(frozen=True, slots=True)
class _Graded:
    verdict: Verdict
    passed_apps: bool | None


def run_evaluation(run: EvaluationRun) -> dict[str, Any]:
    """Grade what is not graded yet, write `results.json`, and return its content.

    Raises:
        ProblemsError: problems or programs that cannot be used.
        EvaluationError: an evaluation that cannot be run or continued as asked.
        IsolationError: the machine gives less isolation than asked for.
    """
    limits = Limits()
    loaded = load(run.spec, reason_to_refuse(limits))
    if loaded.rejected:
        logger.warning("%d rows cannot be used:\n%s", len(loaded.rejected), describe_rejected(loaded.rejected))
    theirs = read_counts(run.against, loaded.problems, run.comparison) if run.against else None
    identity = {"problems": run.spec, "comparison": run.comparison.value} | run.source.identity
    counts = Counts(loaded.problems, run.comparison)
    with SampleStore(run.output, identity) as store:
        num_stored = sum(1 for _ in store.rows())
        num_done = run.source.resume_point(num_stored)
        if num_done < num_stored:
            store.keep_first(num_done)
        index = ProblemIndex(loaded.problems)
        for row in store.rows():
            counts.add(index.find(row["task_id"]).task_id, Outcome(row["outcome"]), row.get(APPS_KEY))
        if num_done:
            logger.info("%s holds %d graded programs; going on behind them", run.output, num_done)
        programs = run.source.programs(loaded.problems, num_done)
        with Graders(run.num_workers, limits, run.require) as graders:
            for number, (problem, graded) in enumerate(_grade(programs, graders, store, run.comparison), num_done + 1):
                counts.add(problem.task_id, graded.verdict.outcome, graded.passed_apps)
                if number % _LOG_EVERY == 0:
                    logger.info("%d programs graded", number)
        results = counts.results(run.ks)
        if theirs is not None:
            results["against"] = {"folder": str(run.against)} | counts.against(theirs, run.ks)
        store.finish(results)
    return results


def _grade(
    programs: Programs, graders: Graders, store: SampleStore, comparison: Comparison
) -> Iterator[tuple[Problem, _Graded]]:
    """Grade programs and store each with its verdict, in order."""

    def grade(item: tuple[ProgramRow, Problem]) -> _Graded:
        program, problem = item
        completion_id = str(program.completion_id)
        verdict = graders.grade(problem, program.code, completion_id)
        if comparison is not Comparison.APPS:
            return _Graded(verdict, None)
        if verdict.outcome is not Outcome.FAILED:  # a looser comparison changes only what was compared
            return _Graded(verdict, verdict.passed)
        return _Graded(verdict, graders.grade(problem, program.code, completion_id, Comparison.APPS).passed)

    for (program, problem), graded in graders.map(grade, programs):
        row = verdict_row(program, graded.verdict) | {"code": program.code}
        store.append(row if graded.passed_apps is None else row | {APPS_KEY: graded.passed_apps})
        yield problem, graded

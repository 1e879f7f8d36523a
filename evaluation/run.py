"""One evaluation from its source of programs to `results.json`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from errors import UserError
from evaluation.counts import APPS_KEY, Counts, read_counts
from evaluation.fingerprints import (
    changed_tests,
    differences,
    fingerprints,
    read_fingerprints,
    some,
    write_fingerprints,
)
from evaluation.samples_file import SamplesFile
from evaluation.store import SampleStore
from problems import Problem, describe_rejected, load
from problems.index import ProblemIndex
from sandbox.compare import Comparison
from sandbox.grading import Graders, ProgramRow, verdict_row
from sandbox.judge import reason_to_refuse
from sandbox.verdict import Isolation, Outcome
from settings import SandboxSettings

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


def run_evaluation(run: EvaluationRun) -> dict[str, Any]:
    """Grade what is not graded yet, write `results.json`, and return its content.

    Raises:
        UserError: problems or programs that cannot be used.
        UserError: an evaluation that cannot be run or continued as asked.
        UserError: the machine gives less isolation than asked for.
    """
    loaded = load(run.spec, reason_to_refuse(SandboxSettings()))
    if loaded.rejected:
        logger.warning("%d rows cannot be used:\n%s", len(loaded.rejected), describe_rejected(loaded.rejected))
    theirs = _read_against(run.against, loaded.problems, run.comparison) if run.against else None
    identity = {"problems": run.spec, "comparison": run.comparison.value} | run.source.identity
    with SampleStore(run.output, identity) as store:
        _check_problems(store, loaded.problems)
        source, num_left_out = run.source, 0
        if isinstance(source, SamplesFile):
            source = replace(source, rejected=loaded.rejected)
            num_left_out = _survey(source, loaded.problems, max(run.ks))
        counts = _grade_into(store, source, loaded.problems, run)
        results = counts.results(run.ks) | counts.coverage()
        results |= {"rejected_problems": len(loaded.rejected), "samples_of_rejected_problems": num_left_out}
        if theirs is not None:
            results["against"] = {"folder": str(run.against)} | counts.against(theirs, run.ks)
        store.finish(results)
    return results


def _survey(source: SamplesFile, problems: tuple[Problem, ...], k: int) -> int:
    """Read the whole file before any of it is graded; how many of its programs are left out."""
    survey = source.survey(problems)
    for remark in survey.describe(problems):
        logger.warning("%s: %s", source.path, remark)
    if survey.most < k:
        raise UserError(
            f"pass@{k} needs {k} graded programs of a problem; {source.path} has at most {survey.most}; "
            "give a smaller --k"
        )
    return survey.num_of_rejected


def _read_against(folder: Path, problems: tuple[Problem, ...], comparison: Comparison) -> Counts:
    kept = read_fingerprints(folder)
    changed = changed_tests(kept, fingerprints(problems)) if kept else []
    if changed:
        raise UserError(
            f"--against {folder}: {len(changed)} problems had other tests there ({some(changed)}); "
            "evaluate those programs again on the problems of today"
        )
    return read_counts(folder, problems, comparison)


def _grade_into(store: SampleStore, source: ProgramSource, problems: tuple[Problem, ...], run: EvaluationRun) -> Counts:
    """Grade what `store` lacks, and what the grader failed on before; the counts of all."""
    counts = Counts(problems, run.comparison)
    num_stored = sum(1 for _ in store.rows())
    num_done = source.resume_point(num_stored)
    if num_done < num_stored:
        store.keep_first(num_done)
    if num_done:
        logger.info("%s holds %d graded programs; going on behind them", store.folder, num_done)
    index = ProblemIndex(problems)
    programs = source.programs(problems, num_done)
    with Graders(run.num_workers, SandboxSettings(), run.require) as graders:
        _grade_again(graders, store, index, run.comparison)
        for row in store.rows():
            counts.add(index.find(row["task_id"]).task_id, Outcome(row["outcome"]), row.get(APPS_KEY))
        for number, (problem, row) in enumerate(_graded(programs, graders, run.comparison), num_done + 1):
            store.append(row)
            counts.add(problem.task_id, Outcome(row["outcome"]), row.get(APPS_KEY))
            if number % _LOG_EVERY == 0:
                logger.info("%d programs graded", number)
    if counts.num_ungraded:
        logger.warning(
            "%d programs could not be graded and are in no pass@k (%s); the same command grades them again",
            counts.num_ungraded,
            _first_cause(store),
        )
    return counts


def _check_problems(store: SampleStore, problems: tuple[Problem, ...]) -> None:
    """Raises UserError where the stored programs belong to other problems than these."""
    kept, now = read_fingerprints(store.folder), fingerprints(problems)
    if next(store.rows(), None) is not None:
        if kept is None:
            logger.warning(
                "%s does not say on which version of the problems it was made (an older evaluate.py did); its verdicts "
                "are taken as they are (another --output grades all anew)",
                store.folder,
            )
        elif found := differences(kept, now):
            raise UserError(
                f"{store.folder}: its programs belong to other problems: {found}; bring those problems back, or "
                "choose another --output"
            )
    write_fingerprints(store.folder, now)


def _grade_again(graders: Graders, store: SampleStore, index: ProblemIndex, comparison: Comparison) -> None:
    """Give the grader another chance with the stored programs that it failed on."""
    places, items = [], []
    for place, row in enumerate(store.rows()):
        if _is_ungraded(row):
            program = ProgramRow.model_validate(row)
            places.append(place)
            items.append((program, index.find(program.task_id)))
    if items:
        logger.info("%d programs met a fault of the grader before; grading them again", len(items))
        store.replace(dict(zip(places, (row for _, row in _graded(items, graders, comparison)), strict=True)))


def _graded(programs: Programs, graders: Graders, comparison: Comparison) -> Iterator[tuple[Problem, dict[str, Any]]]:
    """The problem and the row to store of each program, in order."""

    def grade(item: tuple[ProgramRow, Problem]) -> dict[str, Any]:
        program, problem = item
        completion_id = str(program.completion_id)
        verdict = graders.grade(problem, program.code, completion_id)
        row = verdict_row(program, verdict) | {"code": program.code}
        if comparison is not Comparison.APPS:
            return row
        if verdict.outcome is Outcome.FAILED:  # a looser comparison changes only what was compared
            verdict = graders.grade(problem, program.code, completion_id, Comparison.APPS)
        return row | {APPS_KEY: None if verdict.outcome is Outcome.INFRASTRUCTURE_ERROR else verdict.passed}

    for (_, problem), row in graders.map(grade, programs):
        yield problem, row


def _is_ungraded(row: dict[str, Any]) -> bool:
    return row["outcome"] == Outcome.INFRASTRUCTURE_ERROR or row.get(APPS_KEY, False) is None


def _first_cause(store: SampleStore) -> str:
    row = next(filter(_is_ungraded, store.rows()))
    cause = row.get("error_message") or row.get("error_type") or "no cause given"
    return f"the first: task {row['task_id']}, completion {row['completion_id']}: {cause}"

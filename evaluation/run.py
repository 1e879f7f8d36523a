"""Runs one evaluation, from its source of programs to `results.json`."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from errors import UserError
from evaluation.passes import Tally, compare_tallies, evaluate_tally
from evaluation.sources import Programs, ProgramSource, SamplesFile
from evaluation.store import SampleStore, read_fingerprints, read_samples
from files import write_json
from problems import Problem, describe_rejected, load
from problems.fingerprints import changed_tests, fingerprints, some
from problems.index import ProblemIndex
from sandbox.compare import Comparison
from sandbox.grading import Graders, ProgramRow, verdict_row
from sandbox.judge import reason_to_refuse
from sandbox.verdict import Isolation, Outcome
from settings import SandboxSettings

logger = logging.getLogger(__name__)
_LOG_EVERY_S = 30.0
_APPS_KEY = "passed_apps"
"""The key of a stored program for whether it passes by the APPS rules."""


class _Counts:
    """How many programs of each problem passed, by the strict rules and, if asked for, by those of APPS as well."""

    def __init__(self, problems: tuple[Problem, ...], comparison: Comparison) -> None:
        self._problems = problems
        self.num_programs: Counter[str] = Counter()
        self._tallies = {rules: Tally(problems) for rules in dict.fromkeys((Comparison.STRICT, comparison))}

    def add(self, task_id: str, row: dict[str, Any]) -> None:
        """Count one stored program of a problem."""
        outcome = Outcome(row["outcome"])
        self.num_programs[task_id] += 1
        self._tallies[Comparison.STRICT].add(task_id, outcome)
        if Comparison.APPS in self._tallies:
            # None means that the grader failed by these rules, whatever the strict outcome is.
            by_apps = {None: Outcome.INFRASTRUCTURE_ERROR, True: Outcome.PASSED, False: outcome}[row.get(_APPS_KEY)]
            self._tallies[Comparison.APPS].add(task_id, by_apps)

    @property
    def num_ungraded(self) -> int:
        """Programs that the grader failed on, by the rules with more of them."""
        return max(tally.num_ungraded for tally in self._tallies.values())

    def results(self, ks: Sequence[int]) -> dict[str, Any]:
        """pass@k by each of the rules, and how evenly programs are spread over problems. Raises as `evaluate_tally`."""
        by_rules = {
            rules.value: evaluate_tally(tally, ks, rules.value).to_json() for rules, tally in self._tallies.items()
        }
        numbers = list(self.num_programs.values())
        return {
            **by_rules.pop(Comparison.STRICT),
            **by_rules,
            "problems_without_samples": len(self._problems) - len(numbers),
            "samples_per_problem": {"min": min(numbers, default=0), "max": max(numbers, default=0)},
        }

    def against(self, theirs: _Counts, ks: Sequence[int]) -> dict[str, Any]:
        """pass@k minus that of `theirs`, by each of the rules. Raises as `compare_tallies`."""
        found = {
            rules.value: compare_tallies(tally, theirs._tallies[rules], ks) for rules, tally in self._tallies.items()
        }
        return found.pop(Comparison.STRICT) | found


def run_evaluation(
    source: ProgramSource,
    spec: str,
    output: Path,
    ks: Sequence[int],
    *,
    comparison: Comparison = Comparison.STRICT,
    against: Path | None = None,
    num_workers: int = 1,
    min_isolation: Isolation = Isolation.NAMESPACES,
) -> dict[str, Any]:
    """Grade the programs of `source` that `output` lacks, write `output/results.json`, and return its content.

    Raises:
        UserError: the problems or programs are unusable, the evaluation cannot run or continue as asked, or the machine
            isolates programs less than required.
    """
    loaded = load(spec, reason_to_refuse(SandboxSettings()))
    if loaded.rejected:
        logger.warning("%d unusable rows:\n%s", len(loaded.rejected), describe_rejected(loaded.rejected))
    theirs = _read_against(against, loaded.problems, comparison) if against else None
    identity = {"problems": spec, "comparison": comparison.value} | source.identity
    with SampleStore(output, identity) as store:
        store.check_problems(loaded.problems)
        num_left_out = 0
        if isinstance(source, SamplesFile):
            source, num_left_out = source.checked(loaded, max(ks))
        graders = Graders(num_workers, SandboxSettings(), min_isolation)
        try:
            counts = _grade_into(store, source, loaded.problems, graders, comparison)
        except KeyboardInterrupt as error:
            error.add_note(f"{store.num_rows} graded programs are in {output}; the same command continues")
            raise
    try:
        results = counts.results(ks)
        results |= {"rejected_problems": len(loaded.rejected), "samples_of_rejected_problems": num_left_out}
        if theirs is not None:
            results["against"] = {"folder": str(against)} | counts.against(theirs, ks)
    except ValueError as error:
        hint = f" ({counts.num_ungraded} programs met grader errors; the same command grades them again)"
        raise UserError(f"{error}{hint if counts.num_ungraded else ''}") from error
    write_json(output / "results.json", results)
    return results


def _read_against(folder: Path, problems: tuple[Problem, ...], comparison: Comparison) -> _Counts:
    """The counts of an earlier evaluation, over those of `problems` that it has."""
    kept = read_fingerprints(folder)
    if changed := changed_tests(kept, fingerprints(problems)) if kept else []:
        raise UserError(
            f"--against {folder}: {len(changed)} problems had different tests there ({some(changed)}); "
            "evaluate those programs again on the current problems"
        )
    counts = _Counts(problems, comparison)
    known = {problem.task_id for problem in problems}
    for number, row in enumerate(read_samples(folder), start=1):
        place = f"{folder / 'samples.jsonl'}:{number}"
        if comparison is Comparison.APPS and "outcome" in row and _APPS_KEY not in row:
            raise UserError(f"{place}: {folder} was evaluated without --comparison apps; evaluate both with it")
        try:
            if (task_id := str(row["task_id"])) in known:
                counts.add(task_id, row)
        except (KeyError, ValueError) as error:
            raise UserError(f"{place}: not a row of an evaluation: {error}") from error
    return counts


def _grade_into(
    store: SampleStore,
    source: ProgramSource,
    problems: tuple[Problem, ...],
    graders: Graders,
    comparison: Comparison,
) -> _Counts:
    """Grade what `store` lacks and what the grader failed on before; return the counts of everything."""
    counts = _Counts(problems, comparison)
    store.keep_first(source.resume_point(store.num_rows))
    if store.num_rows:
        logger.info("%s holds %d graded programs; continuing after them", store.folder, store.num_rows)
    index = ProblemIndex(problems)
    with graders:
        _grade_again(graders, store, index, comparison)
        for row in store.rows():
            counts.add(index.find(row["task_id"]).task_id, row)
        programs = source.programs(problems, counts.num_programs)
        logged = time.monotonic()
        for problem, row in _graded(programs, graders, comparison):
            store.append(row)
            counts.add(problem.task_id, row)
            if time.monotonic() - logged >= _LOG_EVERY_S:
                logger.info("%d programs graded", store.num_rows)
                logged = time.monotonic()
    if counts.num_ungraded:
        first = next(filter(_is_ungraded, store.rows()))
        logger.warning(
            "%d programs could not be graded and are in no pass@k; the same command grades them again (the first: task "
            "%s, completion %s: %s)",
            counts.num_ungraded,
            first["task_id"],
            first["completion_id"],
            first.get("error_message") or first.get("error_type") or "no cause given",
        )
    return counts


def _grade_again(graders: Graders, store: SampleStore, index: ProblemIndex, comparison: Comparison) -> None:
    """Grade the stored programs again that the grader failed on."""
    ungraded = {place: ProgramRow.model_validate(row) for place, row in enumerate(store.rows()) if _is_ungraded(row)}
    if ungraded:
        logger.info("%d programs met grader errors before; grading them again", len(ungraded))
        programs = ((program, index.find(program.task_id)) for program in ungraded.values())
        rows = (row for _, row in _graded(programs, graders, comparison))
        store.replace(dict(zip(ungraded, rows, strict=True)))


def _graded(programs: Programs, graders: Graders, comparison: Comparison) -> Iterator[tuple[Problem, dict[str, Any]]]:
    """The problem of each program and the row to store, in order."""

    def grade(item: tuple[ProgramRow, Problem]) -> dict[str, Any]:
        program, problem = item
        completion_id = str(program.completion_id)
        verdict = graders.grade(problem, program.code, completion_id)
        row = verdict_row(program, verdict) | {"code": program.code}
        if program.completion is not None:
            row["completion"] = program.completion
        if comparison is not Comparison.APPS:
            return row
        if verdict.outcome is Outcome.FAILED:  # looser rules can only change what was compared
            verdict = graders.grade(problem, program.code, completion_id, Comparison.APPS)
        return row | {_APPS_KEY: None if verdict.outcome is Outcome.INFRASTRUCTURE_ERROR else verdict.passed}

    return ((problem, row) for (_, problem), row in graders.map(grade, programs))


def _is_ungraded(row: dict[str, Any]) -> bool:
    return row["outcome"] == Outcome.INFRASTRUCTURE_ERROR or row.get(_APPS_KEY, False) is None

"""Runs evaluations, from the source of their programs to `results.json`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rltf.errors import UserError
from rltf.evaluation.history import HistoryRow
from rltf.evaluation.passes import Tally, compare_tallies, evaluate_tally
from rltf.evaluation.progress import ProgramProgress
from rltf.evaluation.sources import HistoryCounts, PreparedPrograms, Programs, ProgramSource
from rltf.evaluation.store import SampleStore, holds_programs, read_fingerprints, read_samples
from rltf.evaluation.turns import Examiner
from rltf.files import write_json
from rltf.lock import locked
from rltf.problems import LoadedProblems, Problem, describe_rejected, load
from rltf.problems.fingerprints import changed_tests, examples_fingerprint, fingerprints, some
from rltf.problems.index import ProblemIndex
from rltf.problems.spec import parse_spec
from rltf.sandbox.admission import reason_to_refuse
from rltf.sandbox.compare import Comparison
from rltf.sandbox.grading import ProgramGraders, ProgramRow, verdict_row
from rltf.sandbox.verdict import Outcome
from rltf.settings import SandboxSettings

logger = logging.getLogger(__name__)
_APPS_KEY = "passed_apps"
"""The key of a stored program for whether it passes by the APPS rules."""


class _Counts:
    """How many programs of each problem passed, by the strict rules and, if asked for, by those of APPS as well."""

    def __init__(
        self, problems: tuple[Problem, ...], comparison: Comparison, history: HistoryCounts | None = None
    ) -> None:
        self._problems = problems
        self._history = history
        self.num_programs: Counter[str] = Counter()
        self._tallies = {rules: Tally(problems) for rules in dict.fromkeys((Comparison.STRICT, comparison))}

    def add(self, task_id: str, row: dict[str, Any]) -> None:
        """Count one stored program of a problem."""
        outcome = Outcome(row["outcome"])
        self.num_programs[task_id] += 1
        if self._history is not None:
            self._history.add(task_id, row)
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
            **({self._history.key: self._history.results(ks)} if self._history is not None else {}),
        }

    def against(self, theirs: _Counts, ks: Sequence[int]) -> dict[str, Any]:
        """pass@k minus that of `theirs`, by each of the rules. Raises as `compare_tallies`."""
        found = {
            rules.value: compare_tallies(tally, theirs._tallies[rules], ks) for rules, tally in self._tallies.items()
        }
        return found.pop(Comparison.STRICT) | found


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """The evaluation of one SPEC, checked and ready to run."""

    loaded: LoadedProblems
    against: Path | None
    theirs: _Counts | None
    store: SampleStore
    programs: PreparedPrograms

    def results(self, counts: _Counts, ks: Sequence[int]) -> dict[str, Any]:
        """What `results.json` holds. Raises UserError if there is no pass@k."""
        try:
            results = counts.results(ks)
            results["rejected_problems"] = len(self.loaded.rejected)
            results["samples_of_rejected_problems"] = self.programs.num_left_out
            if self.theirs is not None:
                results["against"] = {"folder": str(self.against)} | counts.against(self.theirs, ks)
        except ValueError as error:
            hint = f" ({counts.num_ungraded} programs met grader errors; the same command grades them again)"
            raise UserError(f"{error}{hint if counts.num_ungraded else ''}") from error
        return results


def run_evaluations(
    source: ProgramSource,
    specs: Sequence[str],
    output: Path,
    ks: Sequence[int],
    graders: AbstractContextManager[ProgramGraders],
    *,
    comparison: Comparison = Comparison.STRICT,
    against: Path | None = None,
    limits: SandboxSettings | None = None,
) -> dict[str, dict[str, Any]]:
    """Grade the programs of `source` that `output` lacks, write `results.json`, and return the results by SPEC's name.

    The evaluation of a single SPEC is in `output`. Those of several are in its folders, named after the SPECs, and
    `output/results.json` has the results of all. The `graders` start once everything is checked; their `limits` are
    the usual ones by default. Raises UserError if the problems or programs are unusable, an evaluation cannot run or
    continue as asked, or a machine isolates programs less than required. All of this is found before any program is
    made.
    """
    specs_by_name = _named(specs)
    folders = {name: output / name if len(specs) > 1 else output for name in specs_by_name}
    limits = limits or SandboxSettings()
    results: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        stack.enter_context(locked(output, "--output"))
        _check_folder(output, is_single=len(specs) == 1)
        stack.callback(source.close)
        evaluations = _prepare(stack, source, specs_by_name, folders, max(ks), comparison, against, limits)
        try:
            started = stack.enter_context(graders)
            num_programs = sum(one.programs.num_programs for one in evaluations.values())
            num_stored = sum(one.store.num_rows for one in evaluations.values())
            progress = stack.enter_context(ProgramProgress(num_programs, num_stored))
            for name, evaluation in evaluations.items():
                counts = _grade_into(evaluation, started, comparison, progress)
                results[name] = evaluation.results(counts, ks)
                write_json(folders[name] / "results.json", results[name])
        except KeyboardInterrupt as error:
            num_stored = sum(one.store.num_rows for one in evaluations.values())
            error.add_note(f"{num_stored} graded programs are in {output}; the same command continues")
            raise
    if len(specs) > 1:
        write_json(output / "results.json", results)
    return results


def _named(specs: Sequence[str]) -> dict[str, str]:
    """The SPECs by name. Raises UserError if two have the same."""
    named: dict[str, str] = {}
    for spec in specs:
        name = parse_spec(spec).name
        if name in named:
            raise UserError(f"--problems {named[name]} {spec}: both are named {name}; evaluate them in two calls")
        named[name] = spec
    return named


def _check_folder(output: Path, *, is_single: bool) -> None:
    """Raise UserError if `output` has programs of a single SPEC and several are asked for, or vice versa."""
    has_single = holds_programs(output)
    if not is_single and has_single:
        raise UserError(f"{output} holds the evaluation of a single SPEC; choose another --output")
    others = sorted(folder.name for folder in output.glob("*/") if holds_programs(folder))
    if is_single and not has_single and others:
        raise UserError(f"{output} holds evaluations in its folders ({some(others)}); choose another --output")


def _prepare(
    stack: ExitStack,
    source: ProgramSource,
    specs: Mapping[str, str],
    folders: Mapping[str, Path],
    k: int,
    comparison: Comparison,
    against: Path | None,
    limits: SandboxSettings,
) -> dict[str, _Evaluation]:
    """Check all evaluations. Their stores close with `stack`."""
    sets = {name: _load(spec, limits) for name, spec in specs.items()}
    others = {name: against / name if len(specs) > 1 else against for name in specs} if against else {}
    theirs = {name: _read_against(folder, sets[name].problems, comparison) for name, folder in others.items()}
    identity = source.identity
    given = limits.model_dump(mode="json", exclude_defaults=True)
    changed = {f"sandbox.{name}": value for name, value in given.items()}
    stores = {}
    for name, loaded in sets.items():
        made_of = {"problems": specs[name], "comparison": comparison.value} | identity | changed
        if {"turns", "critic_sampling"} & identity.keys():
            made_of["examples"] = examples_fingerprint(loaded.problems)
        stores[name] = stack.enter_context(SampleStore(folders[name], made_of))
        stores[name].check_problems(loaded.problems)
    return {
        name: _Evaluation(loaded, others.get(name), theirs.get(name), stores[name], source.prepare(loaded, k))
        for name, loaded in sets.items()
    }


def _load(spec: str, limits: SandboxSettings) -> LoadedProblems:
    loaded = load(spec, reason_to_refuse(limits))
    if loaded.rejected:
        logger.warning("%d unusable rows:\n%s", len(loaded.rejected), describe_rejected(loaded.rejected))
    return loaded


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
    evaluation: _Evaluation, graders: ProgramGraders, comparison: Comparison, progress: ProgramProgress
) -> _Counts:
    """Grade what is not stored yet and what the grader failed on before; return the counts of everything."""
    store, problems = evaluation.store, evaluation.loaded.problems
    make_history = evaluation.programs.history
    history = make_history() if make_history is not None else None
    counts = _Counts(problems, comparison, history)
    if store.num_rows:
        logger.info("%s holds %d graded programs; continuing after them", store.folder, store.num_rows)
    index = ProblemIndex(problems)
    _grade_again(graders, store, index, comparison, ProgramRow if history is None else history.row)
    for row in store.rows():
        counts.add(index.find(row["task_id"]).task_id, row)
    with ExitStack() as stack:
        if evaluation.programs.examined is None:
            programs = evaluation.programs.left(store.rows())
        else:
            # Both are closed before the sandboxes, which they use.
            examiner = stack.enter_context(Examiner(graders.grade, graders.num_workers))
            programs = stack.enter_context(closing(evaluation.programs.examined(store.rows(), examiner)))
        progress.begin()
        for problem, row in _graded(programs, graders, comparison):
            store.append(row)
            counts.add(problem.task_id, row)
            progress.advance()
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


def _grade_again(
    graders: ProgramGraders, store: SampleStore, index: ProblemIndex, comparison: Comparison, kind: type[ProgramRow]
) -> None:
    """Grade the stored programs again, rows of a `kind`, that the grader failed on."""
    num_ungraded = sum(map(_is_ungraded, store.rows()))
    if not num_ungraded:
        return
    logger.info("%d programs met grader errors before; grading them again", num_ungraded)
    ungraded = map(kind.model_validate, filter(_is_ungraded, store.rows()))
    programs = ((program, index.find(program.task_id)) for program in ungraded)
    graded = (row for _, row in _graded(programs, graders, comparison))
    store.replace(next(graded) if _is_ungraded(row) else row for row in store.rows())


def _graded(
    programs: Programs, graders: ProgramGraders, comparison: Comparison
) -> Iterator[tuple[Problem, dict[str, Any]]]:
    """The problem of each program and the row to store, in order."""

    def grade(item: tuple[ProgramRow, Problem]) -> dict[str, Any]:
        program, problem = item
        completion_id = str(program.completion_id)
        verdict = graders.grade(problem, program.code, completion_id)
        row = verdict_row(program, verdict) | {"code": program.code}
        if program.completion is not None:
            row["completion"] = program.completion
        if isinstance(program, HistoryRow):
            row |= program.graded(verdict.outcome, lambda code: graders.grade(problem, code, completion_id).outcome)
        if comparison is not Comparison.APPS:
            return row
        if verdict.outcome is Outcome.FAILED:  # looser rules can only change what was compared
            verdict = graders.grade(problem, program.code, completion_id, Comparison.APPS)
        return row | {_APPS_KEY: None if verdict.is_grader_error else verdict.passed}

    return ((problem, row) for (_, problem), row in graders.map(grade, programs))


def _is_ungraded(row: dict[str, Any]) -> bool:
    return row["outcome"] == Outcome.INFRASTRUCTURE_ERROR or row.get(_APPS_KEY, False) is None

"""The grader: programs and problems in, verdicts out.

with Sandbox(min_isolation=Isolation.NAMESPACES) as sandbox:
    verdict = sandbox.grade(problem, program, completion_id="0")
"""

from __future__ import annotations

import logging
import signal
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rltf.errors import UserError
from rltf.problems.python_source import as_run, shift_of
from rltf.problems.types import Limits, Problem
from rltf.sandbox import judge, selftest
from rltf.sandbox.answer_checker import Answers
from rltf.sandbox.batches import batch_limits, batches
from rltf.sandbox.compare import Comparison
from rltf.sandbox.jobs import End, Job, RunLimits, RunResult
from rltf.sandbox.process import Jail, JailError
from rltf.sandbox.shown import shown
from rltf.sandbox.trusted import TrustedJail
from rltf.sandbox.verdict import GRADER_ERROR, Isolation, Outcome, ProgramError, Verdict
from rltf.settings import SandboxSettings

_LOG = logging.getLogger(__name__)
_ATTEMPTS = 2
_MAX_MESSAGE = 500
_BOM = "\ufeff"
_NO_REPORT = "a jail ended without a report on the program"
_WORST_FIRST = (
    (Outcome.SYNTAX_ERROR,),
    (Outcome.INFRASTRUCTURE_ERROR,),
    (Outcome.TIMEOUT, Outcome.MEMORY_LIMIT, Outcome.OUTPUT_LIMIT, Outcome.RUNTIME_ERROR),
    (Outcome.FAILED,),
    (Outcome.PASSED,),
)


@dataclass(frozen=True, slots=True)
class _Judged:
    """One test of a verdict. `result` no longer holds its output and value, which may be large.

    `actual` is what came out, as in `Verdict`, if the answer is wrong.
    """

    outcome: Outcome
    result: RunResult
    grader_error: str = ""
    actual: str | None = None

    @property
    def has_wrong_answer(self) -> bool:
        return self.outcome is Outcome.FAILED and self.result.end is End.OK


class Sandbox:
    """Grades one program at a time, in a jail of its own. Not thread-safe: use one per thread.

    `isolation` is the level that the self-test found, `num_restarts` counts the jails that had to be replaced, and
    `last_grader_error` says why the grader last failed.
    """

    def __init__(
        self, settings: SandboxSettings | None = None, min_isolation: Isolation = Isolation.NAMESPACES
    ) -> None:
        """Find the level of isolation and start a jail. Raises `UserError` if the level is below `min_isolation`."""
        self._settings = settings or SandboxSettings()
        finding = selftest.find_level(self._settings)
        levels = selftest.LEVELS
        if finding.level is None or levels.index(finding.level) > levels.index(min_isolation):
            raise UserError(selftest.refusal(finding, min_isolation))
        self.isolation = finding.level
        self.num_restarts = 0
        self.last_grader_error = ""
        self._trusted = TrustedJail(self._start)
        self._jail: Jail | None = self._start()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the jails. Safe to call twice."""
        self._trusted.close()
        if self._jail is not None:
            self._jail.close()
            self._jail = None

    def grade(
        self, problem: Problem, program: str, completion_id: str, comparison: Comparison = Comparison.STRICT
    ) -> Verdict:
        """Run every test of `problem` on `program`.

        The program runs after the problem's `code_prefix`, with its layout repaired (`as_run`) if it is not valid
        Python otherwise. Positions of errors refer to the program as submitted. Anything that goes wrong while the
        verdict is made becomes an `infrastructure_error` of this verdict alone, with the cause.
        """
        judged: list[_Judged] = []
        error: ProgramError | None = None
        try:
            prefix, source = as_run(problem, normalized(program))
            judged = self._judge_all(problem, prefix + source, comparison)
            errors = (error_of(test.result) for test in judged)
            error = _as_submitted(next(filter(None, errors), None), prefix, source, program)
        except Exception as failure:  # noqa: BLE001 - one verdict's border: a failure in it must not affect the others
            _LOG.exception("problem %s, completion %s has no verdict", problem.task_id, completion_id)
            lost = _Judged(Outcome.INFRASTRUCTURE_ERROR, RunResult(End.INFRASTRUCTURE), _described(failure))
            judged, error = [lost] * len(problem.tests), None
        results = [test.result for test in judged]
        outcomes = tuple(test.outcome for test in judged)
        outcome = worst(outcomes)
        if outcome is Outcome.INFRASTRUCTURE_ERROR:
            grader_errors = [test.grader_error for test in judged if test.grader_error]
            error = ProgramError(GRADER_ERROR, grader_errors[-1] if grader_errors else self.last_grader_error)
        return Verdict(
            task_id=problem.task_id,
            completion_id=completion_id,
            outcome=outcome,
            tests=outcomes,
            error=error,
            isolation=self.isolation,
            seconds=sum(result.wall_seconds for result in results),
            cpu_seconds=sum(result.cpu_seconds for result in results),
            peak_memory_bytes=max(result.peak_memory_bytes for result in results),
            actual=next((test.actual for test in judged if test.outcome is not Outcome.PASSED), None),
        )

    def _judge_all(self, problem: Problem, source: str, comparison: Comparison) -> list[_Judged]:
        """Run all tests of a problem, and ask its checker about answers that are not the expected ones."""
        plans = judge.plans(problem)
        closed = self._trusted.results([plan.closed for plan in plans])
        limits = run_limits(problem.limits, self._settings)
        jobs = [plan.job for plan in plans]
        judged: dict[int, _Judged] = {}
        for index, result in self._batched(source, jobs, limits).items():
            first = _judge(index, plans[index], result, closed[index], None, comparison)
            if first.outcome is Outcome.PASSED:
                judged[index] = first
        alone = [index for index in range(len(jobs)) if index not in judged]
        answers = Answers()

        def take(place: int, result: RunResult) -> None:
            index = alone[place]
            plan = plans[index]
            # If the setup fails without the program too, the test is broken. Good runs need no such check.
            (setup,) = [None] if result.end is End.OK else self._trusted.results([plan.setup])
            judged[index] = _judge(index, plan, result, closed[index], setup, comparison)
            answers.forget(index)
            if plan.question is not None and judged[index].has_wrong_answer:
                answers.keep(index, plan.question, plan.job, result, closed[index])

        if alone:
            self._run(source, [jobs[index] for index in alone], None, take, limits)
        for index, (outcome, reason) in answers.outcomes(self._trusted).items():
            judged[index] = replace(judged[index], outcome=outcome, grader_error=reason)
        return [judged[index] for index in range(len(jobs))]

    def _batched(self, source: str, jobs: Sequence[Job], limits: RunLimits) -> dict[int, RunResult]:
        """What came out of calls that shared a process, by the number of their test."""
        together = batches(jobs)
        found: dict[int, RunResult] = {}

        def take(place: int, result: RunResult) -> None:
            found.update(together[place].results(result))

        if together:
            self._run(source, [batch.job for batch in together], None, take, batch_limits(limits))
        return found

    def run(
        self, source: str, jobs: Sequence[Job], seed: int | None = None, limits: RunLimits | None = None
    ) -> list[RunResult]:
        """The result of each job of the program; `End.INFRASTRUCTURE` if a second jail failed as well.

        `seed` seeds the program's random numbers; by default it is derived from the program. `limits` replace those in
        the settings; they can only lower the memory.
        """
        results: dict[int, RunResult] = {}
        self._run(normalized(source), jobs, seed, results.__setitem__, limits)
        return list(results.values())

    def _run(
        self,
        source: str,
        jobs: Sequence[Job],
        seed: int | None,
        take: Callable[[int, RunResult], None],
        limits: RunLimits | None = None,
    ) -> None:
        """Call `take` with each job's number and result, in order. If a jail fails, start over from 0."""
        seed = zlib.crc32(source.encode("utf-8", "surrogatepass")) if seed is None else seed
        for attempt in range(_ATTEMPTS):
            is_complete = True
            try:
                jail = self._jail = self._jail or self._start()
                for index, result in enumerate(jail.run(source, jobs, seed, limits)):
                    take(index, result)
                    if result.end is End.INFRASTRUCTURE:
                        # A broken test stays broken: retry only if the jail itself failed.
                        is_complete = is_complete and result.error is not None
                        self.last_grader_error = result.error.message if result.error else _NO_REPORT
            except JailError as error:
                _LOG.warning("a jail failed: %s", error)
                is_complete, self.last_grader_error = False, str(error)
                if attempt == _ATTEMPTS - 1:
                    for index in range(len(jobs)):
                        take(index, RunResult(End.INFRASTRUCTURE))
            finally:
                if self._jail is not None and not self._jail.is_clean:
                    self._drop_jail()
            if is_complete:
                return

    def _start(self) -> Jail:
        jail = Jail(self.isolation, self._settings)
        try:
            selftest.check(jail, self.isolation, quick=True)
        except BaseException:  # even an interrupt must leave no jail behind
            jail.close()
            raise
        return jail

    def _drop_jail(self) -> None:
        assert self._jail is not None
        self._jail.close()
        self._jail = None
        self.num_restarts += 1


def run_limits(limits: Limits, settings: SandboxSettings) -> RunLimits:
    """What each test of a problem may use: the problem's own limits if it has any, otherwise those in the settings.

    No test may use more time than all tests of a program together.
    """
    time_s = settings.cpu_s if limits.time_s is None else limits.time_s * settings.time_factor
    cpu_s = min(time_s, settings.program_cpu_s)
    wall_s = min(time_s * settings.wall_s / settings.cpu_s, settings.program_wall_s)
    memory_bytes = min(settings.memory_bytes, limits.memory_bytes or settings.memory_bytes)
    return RunLimits(cpu_s, wall_s, memory_bytes)


def _judge(
    number: int,
    plan: judge.Plan,
    result: RunResult,
    closed: RunResult | None,
    setup: RunResult | None,
    comparison: Comparison,
) -> _Judged:
    """Judge the test `number`. `closed` and `setup` are the results of the plan's own jobs."""
    grader_error = ""
    try:
        outcome = judge.outcome_of(plan, result, closed, comparison)
    except Exception as error:  # noqa: BLE001 - one test's border
        _LOG.exception("test %d cannot be judged", number)
        outcome, grader_error = Outcome.INFRASTRUCTURE_ERROR, _described(error)
    for own, what in ((closed, "expected value"), (setup, "setup")):
        if own is not None and own.end is not End.OK:
            reason = f"{own.error.type}: {own.error.message}" if own.error else own.end.value
            outcome, grader_error = Outcome.INFRASTRUCTURE_ERROR, f"the {what} of test {number} fails ({reason})"
    judged = _Judged(outcome, replace(result, stdout=b"", value=None), grader_error)
    return replace(judged, actual=shown(plan.job, result)) if judged.has_wrong_answer else judged


def normalized(program: str) -> str:
    """The program as it is compiled: without a byte order mark, and with the line ends that Python itself sees."""
    return program.removeprefix(_BOM).replace("\r\n", "\n").replace("\r", "\n")


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_MAX_MESSAGE]


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """A program's outcome, given those of its tests: the first of the worst kind."""
    for kind in _WORST_FIRST:
        for outcome in outcomes:
            if outcome in kind:
                return outcome
    raise ValueError("a program without tests has no outcome")


def error_of(result: RunResult) -> ProgramError | None:
    """The error of a run. A signal or an exit status counts as an error type."""
    if result.error is not None:
        return result.error
    if result.end is End.SIGNAL and result.signal is not None:
        return ProgramError(_signal_name(result.signal))
    if result.end is End.EXIT_STATUS:
        return ProgramError("SystemExit", f"exit status {result.exit_status}")
    return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # only the first and the last real-time signal have names
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def _as_submitted(error: ProgramError | None, prefix: str, source: str, program: str) -> ProgramError | None:
    """Move an error's position from `prefix + source`, as it was run, to `program`, as it was submitted."""
    if error is None or error.line is None:
        return error
    head, _, last = prefix.rpartition("\n")
    line = error.line - (head.count("\n") + 1 if "\n" in prefix else 0)
    if line < 1:
        return replace(error, line=None, column=None)
    column = error.column
    if line == 1 and column is not None:
        column = column - len(last) if column >= len(last) else None
    if column is not None:
        column = max(0, column + shift_of(normalized(program), source, line))
        # A byte order mark is a character of the submitted program, though not of its source.
        column += line == 1 and program.startswith(_BOM)
    return replace(error, line=line, column=column)

"""The grader: programs and problems in, verdicts out.

with Sandbox(Limits(), require=Isolation.NAMESPACES) as sandbox:
    verdict = sandbox.grade(problem, program, completion_id="0")
"""

from __future__ import annotations

import logging
import signal
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from errors import UserError
from problems.python_source import as_run, shift_of
from problems.types import Problem
from sandbox import asserts, selftest
from sandbox.compare import Comparison
from sandbox.cures import cure
from sandbox.jobs import End, ExpressionJob, Job, RunResult
from sandbox.limits import Limits
from sandbox.process import Jail, JailFault, JailPlan
from sandbox.verdict import GRADER_ERROR, Isolation, Outcome, ProgramError, Verdict

_LOG = logging.getLogger(__name__)
_ATTEMPTS = 2
_MAX_CLOSED_RESULTS = 4096
_MAX_FAULT = 500
_BOM = "\ufeff"
_NO_REPORT = "a jail came to its end without a report on the program"
_WORST_FIRST = (
    (Outcome.SYNTAX_ERROR,),
    (Outcome.INFRASTRUCTURE_ERROR,),
    (Outcome.TIMEOUT, Outcome.MEMORY_LIMIT, Outcome.OUTPUT_LIMIT, Outcome.RUNTIME_ERROR),
    (Outcome.FAILED,),
    (Outcome.PASSED,),
)


class Sandbox:
    """Grades one program at a time, in a jail of its own. Not thread-safe: use one per thread.

    `isolation` is the level that the self-test found, `num_restarts` counts jails that had to be replaced, `last_fault`
    says why the grader failed last.
    """

    def __init__(self, limits: Limits | None = None, require: Isolation = Isolation.NAMESPACES) -> None:
        """Find the level of isolation and start a jail. Raises `UserError` where it is below `require`."""
        self._limits = limits or Limits()
        finding = selftest.find_level(self._limits)
        if finding.level is None or selftest.LEVELS.index(finding.level) > selftest.LEVELS.index(require):
            raise UserError(_refusal(finding, require))
        self.isolation = finding.level
        self.num_restarts = 0
        self.last_fault = ""
        self._closed_results: dict[ExpressionJob, RunResult] = {}
        self._clean_jail: Jail | None = None
        self._jail: Jail | None = self._start()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the jails. Safe to call twice."""
        for jail in (self._jail, self._clean_jail):
            if jail is not None:
                jail.close()
        self._jail = self._clean_jail = None

    def grade(
        self, problem: Problem, program: str, completion_id: str, comparison: Comparison = Comparison.STRICT
    ) -> Verdict:
        """Run every test of `problem` on `program`.

        The program runs behind the problem's `code_prefix`, its layout repaired (`as_run`) if it is no Python without;
        positions of errors are in the program as submitted. Whatever goes wrong while a verdict is made is that
        verdict's `infrastructure_error`, with the cause.
        """
        tally = _Tally()
        try:
            text = normalised(program)
            prefix, source = as_run(problem, text)
            plans = [asserts.plan(test) for test in problem.tests]
            closed = [self._closed_result(plan.closed) for plan in plans]

            def take(index: int, result: RunResult) -> None:
                # If the set-up fails without the program too, the test is at fault. Good runs need no such check.
                setup = None if result.end is End.OK else self._closed_result(plans[index].setup)
                tally.take(plans[index], result, closed[index], setup, comparison, is_first=index == 0)

            self._run(prefix + source, [plan.job for plan in plans], None, take)
            error = _in_submission(_without_prefix(tally.error, prefix), text, source)
            tally.error = _behind_mark(error, program)
        except Exception as error:  # noqa: BLE001 - the border of one verdict: a fault in it must not end the others
            _LOG.exception("problem %s, completion %s has no verdict", problem.task_id, completion_id)
            tally.fail(len(problem.tests), _described(error))
        outcome = worst(tally.outcomes)
        if outcome is Outcome.INFRASTRUCTURE_ERROR:
            tally.error = ProgramError(GRADER_ERROR, tally.fault or self.last_fault)
        return Verdict(
            task_id=problem.task_id,
            completion_id=completion_id,
            outcome=outcome,
            tests=tuple(tally.outcomes),
            error=tally.error,
            isolation=self.isolation,
            seconds=tally.seconds,
            cpu_seconds=tally.cpu_seconds,
            peak_memory_bytes=tally.peak_memory_bytes,
        )

    def run(self, source: str, jobs: Sequence[Job], seed: int | None = None) -> list[RunResult]:
        """What each job of the program came to; `End.INFRASTRUCTURE` where a second jail failed as well.

        `seed` is that of the program's random numbers; None: one that the program itself decides.
        """
        results: dict[int, RunResult] = {}
        self._run(normalised(source), jobs, seed, results.__setitem__)
        return list(results.values())

    def _run(self, source: str, jobs: Sequence[Job], seed: int | None, take: Callable[[int, RunResult], None]) -> None:
        """Call `take` with the number of each job and what it came to, in order; where a jail fails, from 0 again."""
        seed = zlib.crc32(source.encode("utf-8", "surrogatepass")) if seed is None else seed
        for attempt in range(_ATTEMPTS):
            is_complete = True
            try:
                jail = self._jail = self._jail or self._start()
                for index, result in enumerate(jail.run(source, jobs, seed)):
                    take(index, result)
                    if result.end is End.INFRASTRUCTURE:
                        # A broken test stays broken: only a jail's own fault is worth another try.
                        is_complete = is_complete and result.error is not None
                        self.last_fault = result.error.message if result.error else _NO_REPORT
            except JailFault as fault:
                _LOG.warning("a jail failed: %s", fault)
                is_complete, self.last_fault = False, str(fault)
                if attempt == _ATTEMPTS - 1:
                    for index in range(len(jobs)):
                        take(index, RunResult(End.INFRASTRUCTURE))
            finally:
                if self._jail is not None and not self._jail.is_clean:
                    self._drop_jail()
            if is_complete:
                return

    def _start(self) -> Jail:
        jail = Jail(JailPlan(self.isolation, self._limits))
        try:
            selftest.check(jail, self.isolation, quick=True)
        except BaseException:  # an interrupt too must leave no jail behind; it goes on to the caller
            jail.close()
            raise
        return jail

    def _drop_jail(self) -> None:
        assert self._jail is not None
        self._jail.close()
        self._jail = None
        self.num_restarts += 1

    def _closed_result(self, job: ExpressionJob | None) -> RunResult | None:
        """The value of trusted source that needs no program; evaluated once, in a jail that no program ever enters."""
        if job is None:
            return None
        if job not in self._closed_results:
            if self._clean_jail is None:
                self._clean_jail = self._start()
            try:
                (result,) = self._clean_jail.run("", [job])
            finally:
                if not self._clean_jail.is_clean:
                    self._clean_jail.close()
                    self._clean_jail = None
            if result.end is not End.OK:
                return result
            while len(self._closed_results) >= _MAX_CLOSED_RESULTS:
                del self._closed_results[next(iter(self._closed_results))]
            self._closed_results[job] = result
        return self._closed_results[job]


class _Tally:
    """What a verdict says, test by test. Outputs and values are let go as soon as they are judged."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.outcomes: list[Outcome] = []
        self.error: ProgramError | None = None
        self.fault = ""
        self.seconds = self.cpu_seconds = 0.0
        self.peak_memory_bytes = 0

    def take(
        self,
        plan: asserts.Plan,
        result: RunResult,
        closed: RunResult | None,
        setup: RunResult | None,
        comparison: Comparison,
        *,
        is_first: bool,
    ) -> None:
        """Judge the next test; `is_first` begins anew. `closed` and `setup` are the results of the plan's own jobs."""
        if is_first:
            self._reset()
        number = len(self.outcomes)
        try:
            outcome = asserts.outcome_of(plan, result, closed, comparison)
        except Exception as error:  # noqa: BLE001 - the border of one test's verdict
            _LOG.exception("test %d cannot be judged", number)
            outcome, self.fault = Outcome.INFRASTRUCTURE_ERROR, _described(error)
        for own, what in ((closed, "expected value"), (setup, "set-up")):
            if own is not None and own.end is not End.OK:
                reason = f"{own.error.type}: {own.error.message}" if own.error else own.end.value
                outcome, self.fault = Outcome.INFRASTRUCTURE_ERROR, f"the {what} of test {number} fails ({reason})"
        self.outcomes.append(outcome)
        self.error = self.error or error_of(result)
        self.seconds += result.wall_seconds
        self.cpu_seconds += result.cpu_seconds
        self.peak_memory_bytes = max(self.peak_memory_bytes, result.peak_memory_bytes)

    def fail(self, num_tests: int, fault: str) -> None:
        """No test has an outcome, through a fault of the grader."""
        self._reset()
        self.outcomes, self.fault = [Outcome.INFRASTRUCTURE_ERROR] * num_tests, fault


def normalised(program: str) -> str:
    """The program as it is compiled: without a byte order mark, and with the line ends that Python itself sees."""
    return program.removeprefix(_BOM).replace("\r\n", "\n").replace("\r", "\n")


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_MAX_FAULT]


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a program from those of its tests: the first of the worst kind."""
    for kind in _WORST_FIRST:
        for outcome in outcomes:
            if outcome in kind:
                return outcome
    raise ValueError("a program without tests has no outcome")


def error_of(result: RunResult) -> ProgramError | None:
    """The error of a run; a signal or an exit status is named like an error's type."""
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
    except ValueError:  # real-time signals have no names but the first and the last
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def _without_prefix(error: ProgramError | None, prefix: str) -> ProgramError | None:
    if error is None or error.line is None or not prefix:
        return error
    head, _, last = prefix.rpartition("\n")
    line = error.line - (head.count("\n") + 1 if head or prefix.startswith("\n") else 0)
    if line < 1:
        return replace(error, line=None, column=None)
    if line == 1 and error.column is not None:
        column = error.column - len(last)
        return replace(error, line=line, column=column if column >= 0 else None)
    return replace(error, line=line)


def _in_submission(error: ProgramError | None, program: str, source: str) -> ProgramError | None:
    """The position that an error in `source`, the program as it was run, has in the program as submitted."""
    if error is None or error.line is None or error.column is None:
        return error
    return replace(error, column=max(0, error.column + shift_of(program, source, error.line)))


def _behind_mark(error: ProgramError | None, program: str) -> ProgramError | None:
    """A byte order mark counts as a character of the program as submitted, although it is none of its source."""
    if error is None or error.line != 1 or error.column is None or not program.startswith(_BOM):
        return error
    return replace(error, column=error.column + 1)


def _refusal(finding: selftest.Finding, require: Isolation) -> str:
    found = finding.level.value if finding.level else "none"
    wanted = selftest.LEVELS[: selftest.LEVELS.index(require) + 1]
    lines = [f"isolation level `{require.value}` is required, this machine gives `{found}`."]
    for level in wanted:
        reason = finding.reasons.get(level)
        if reason:
            lines.append(f"  {level.value}: {reason}\n    cure: {cure(level, reason)}")
    lines.append("`python -m sandbox doctor` says more; the setting is `sandbox.min_isolation`.")
    return "\n".join(lines)

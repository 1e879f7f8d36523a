"""The grader: programs and problems in, verdicts out.

with Sandbox(Limits(), require=Isolation.NAMESPACES) as sandbox:
    verdict = sandbox.grade(problem, program, completion_id="0")
"""

from __future__ import annotations

import logging
import signal
import zlib
from collections.abc import Sequence
from dataclasses import replace

from problems.python_source import as_run, shift_of
from problems.types import Problem
from sandbox import asserts, selftest
from sandbox.compare import Comparison
from sandbox.cures import cure
from sandbox.jobs import End, ExpressionJob, Job, RunResult
from sandbox.limits import Limits
from sandbox.process import Jail, JailFault, JailPlan
from sandbox.verdict import Isolation, Outcome, ProgramError, Verdict

_LOG = logging.getLogger(__name__)
_ATTEMPTS = 2
_WORST_FIRST = (
    (Outcome.SYNTAX_ERROR,),
    (Outcome.INFRASTRUCTURE_ERROR,),
    (Outcome.TIMEOUT, Outcome.MEMORY_LIMIT, Outcome.OUTPUT_LIMIT, Outcome.RUNTIME_ERROR),
    (Outcome.FAILED,),
    (Outcome.PASSED,),
)


class IsolationError(RuntimeError):
    """This machine isolates programs less well than was required. The message says why, and what would help."""


class Sandbox:
    """Grades one program at a time, in a jail of its own. Not thread-safe: use one per thread.

    `isolation` is the level that the self-test found, `num_restarts` counts jails that had to be replaced, `last_fault`
    says why the grader failed last.
    """

    def __init__(self, limits: Limits | None = None, require: Isolation = Isolation.NAMESPACES) -> None:
        """Find the level of isolation and start a jail. Raises `IsolationError` where it is below `require`."""
        self._limits = limits or Limits()
        finding = selftest.find_level(self._limits)
        if finding.level is None or selftest.LEVELS.index(finding.level) > selftest.LEVELS.index(require):
            raise IsolationError(_refusal(finding, require))
        self.isolation = finding.level
        self.num_restarts = 0
        self.last_fault = ""
        self._closed_results: dict[ExpressionJob, RunResult] = {}
        self._jail: Jail | None = self._start()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the jail. Safe to call twice."""
        if self._jail is not None:
            self._jail.close()
            self._jail = None

    def grade(
        self, problem: Problem, program: str, completion_id: str, comparison: Comparison = Comparison.STRICT
    ) -> Verdict:
        """Run every test of `problem` on `program`.

        The program runs behind the problem's `code_prefix`, its layout repaired (`as_run`) if it is no Python without;
        positions of errors are in the program as submitted.
        """
        prefix, source = as_run(problem, program)
        plans = [asserts.plan(test) for test in problem.tests]
        results = self.run(prefix + source, [plan.job for plan in plans])
        outcomes = tuple(
            asserts.outcome_of(plan, result, self._closed_result(plan.closed), comparison)
            for plan, result in zip(plans, results, strict=True)
        )
        return Verdict(
            task_id=problem.task_id,
            completion_id=completion_id,
            outcome=worst(outcomes),
            tests=outcomes,
            error=_in_submission(_without_prefix(first_error(results), prefix), program, source),
            isolation=self.isolation,
            seconds=sum(result.wall_seconds for result in results),
            cpu_seconds=sum(result.cpu_seconds for result in results),
            peak_memory_bytes=max(result.peak_memory_bytes for result in results),
        )

    def run(self, source: str, jobs: Sequence[Job], seed: int | None = None) -> list[RunResult]:
        """What each job of the program came to; `End.INFRASTRUCTURE` where a second jail failed as well.

        `seed` is that of the program's random numbers; None: one that the program itself decides.
        """
        encoded = source.encode("utf-8", "surrogatepass")
        seed = zlib.crc32(encoded) if seed is None else seed
        results = [RunResult(End.INFRASTRUCTURE)] * len(jobs)
        for _ in range(_ATTEMPTS):
            try:
                if self._jail is None:
                    self._jail = self._start()
                results = self._jail.run(encoded, jobs, seed)
            except JailFault as fault:
                _LOG.warning("a jail failed: %s", fault)
                self.last_fault = str(fault)
                self._drop_jail()
                continue
            if not self._jail.is_clean:
                self._drop_jail()
            if all(result.end is not End.INFRASTRUCTURE for result in results):
                break
            self.last_fault = "a jail came to its end without a report on the program"
        return results

    def _start(self) -> Jail:
        jail = Jail(JailPlan(self.isolation, self._limits))
        try:
            selftest.check(jail, self.isolation, quick=True)
        except BaseException:  # an interrupt too must leave no jail behind; it goes on to the caller
            jail.close()
            raise
        return jail

    def _drop_jail(self) -> None:
        self.close()
        self.num_restarts += 1

    def _closed_result(self, job: ExpressionJob | None) -> RunResult | None:
        """The value of trusted source that needs no program; evaluated once."""
        if job is None:
            return None
        if job not in self._closed_results:
            (result,) = self.run("", [job])
            if result.end is not End.OK:
                return result
            self._closed_results[job] = result
        return self._closed_results[job]


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a program from those of its tests: the first of the worst kind."""
    for kind in _WORST_FIRST:
        for outcome in outcomes:
            if outcome in kind:
                return outcome
    raise ValueError("a program without tests has no outcome")


def first_error(results: Sequence[RunResult]) -> ProgramError | None:
    """The first error in test order; a signal or an exit status is named like an error's type."""
    for result in results:
        if result.error is not None:
            return result.error
        if result.end is End.SIGNAL and result.signal is not None:
            return ProgramError(signal.Signals(result.signal).name)
        if result.end is End.EXIT_STATUS:
            return ProgramError("SystemExit", f"exit status {result.exit_status}")
    return None


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


def _refusal(finding: selftest.Finding, require: Isolation) -> str:
    found = finding.level.value if finding.level else "none"
    wanted = selftest.LEVELS[: selftest.LEVELS.index(require) + 1]
    lines = [f"isolation level `{require.value}` is required, this machine gives `{found}`."]
    for level in wanted:
        reason = finding.reasons.get(level)
        if reason:
            lines.append(f"  {level.value}: {reason}\n    cure: {cure(level, reason)}")
    lines.append("`python -m sandbox doctor` says more; the setting is `sandbox.require`.")
    return "\n".join(lines)

"""Running one job: a process for the program, for a check a second one for the test, and a report on how they ended.

Whoever runs jobs never reads what a program wrote. Output, value and milestones are anonymous files, and the report
hands their descriptors to the trusted side.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import CodeType
from typing import NamedTuple

from sandbox.jail import checker, confinement, program, request, supervision
from sandbox.jail.reporter import Reporter

MAX_DESCRIPTORS = 64


class Task(NamedTuple):
    """A job as its own process knows it: `code` is the compiled program, None where it is still to be compiled."""

    request: request.Request
    number: int
    code: CodeType | None


class Outcome(NamedTuple):
    """How a job ended (see `supervision.Ending`), and how many bytes its program wrote in all."""

    cause: int
    cpu_s: float
    num_bytes: int


class Runner:
    """Runs jobs one after another, within `limits`."""

    def __init__(self, reporter: Reporter, limits: program.ProcessLimits) -> None:
        self._reporter = reporter
        self._control = reporter.control.fileno()
        self._limits = limits
        self._filter = confinement.ProgramFilter()

    def run(self, stdin: int, enter: Callable[[], Task], *, is_check: bool, cpu_s: float, wall_s: float) -> Outcome:
        """Run a job and report. `enter` is called in each new process and says what it is to do."""
        files = [stdin, *(os.memfd_create("stream") for _ in range(4))]
        _, output, errors, value, milestones = files
        finding = b""
        if is_check:
            ending, finding = self._run_check(files, enter, cpu_s, wall_s)
        else:
            pid = self._start(enter, self._become_program, cpu_s, files)
            ending = supervision.supervise(pid, cpu_s, wall_s, self._control)
        sizes = supervision.Sizes(*(os.fstat(descriptor).st_size for descriptor in (output, errors, value)))
        # One byte, and one of ours; what may follow it speaks of the program.
        reached = os.pread(milestones, 1, 0)
        self._reporter.add(ending, sizes, reached, finding, (output, value, milestones))
        os.close(stdin)
        os.close(errors)
        return Outcome(ending.cause, ending.cpu_s, sum(sizes))

    def _run_check(
        self, files: list[int], enter: Callable[[], Task], cpu_s: float, wall_s: float
    ) -> tuple[supervision.Ending, bytes]:
        """Run the program in one process and the test module in another, pipes between them; and what that one found.

        Its finding is one byte of ours (see `checker`), none where it died before it had one.
        """
        *own, found = [os.memfd_create("stream") for _ in range(4)]
        calls, answers = os.pipe(), os.pipe()
        # The program's process comes last: it might leave no room for another. It inherits nothing of the test module,
        # which the checker reads in its own process.
        testing = self._start(enter, self._become_checker, cpu_s, [*own, found, files[4], answers[0], calls[1]])
        tested = self._start(enter, self._become_program, cpu_s, [*files, calls[0], answers[1]])
        for descriptor in (*own, *calls, *answers):
            os.close(descriptor)
        watched = supervision.supervise(testing, cpu_s, wall_s, self._control, tested)
        finding = os.pread(found, 1, 0)
        os.close(found)
        is_done = finding not in (checker.GONE, b"")
        return supervision.end_partner(tested, watched, cpu_s, is_done=is_done), finding

    def _start(
        self,
        enter: Callable[[], Task],
        become: Callable[[Task, float, list[int]], None],
        cpu_s: float,
        files: list[int],
    ) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                confinement.die_with_parent(parent)
                become(enter(), cpu_s, files)
            finally:
                os._exit(1)
        return pid

    def _become_program(self, task: Task, cpu_s: float, files: list[int]) -> None:
        asked, number, code = task
        kind, payload, source = asked.kind(number), asked.payload(number), "" if code else asked.source()
        _keep_only(files)
        program.run_job(kind, payload, source, code, self._filter, self._limits, cpu_s, asked.seed + number)

    def _become_checker(self, task: Task, cpu_s: float, files: list[int]) -> None:
        entry_point, module = task.request.check(task.number)
        _keep_only(files)
        os.close(program.MILESTONES)
        checker.run_check(entry_point, module, self._filter, self._limits, cpu_s)


def _keep_only(descriptors: list[int]) -> None:
    """Make these the descriptors 0, 1, 2... and close all others. None of them is below the number of them."""
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
    os.closerange(len(descriptors), MAX_DESCRIPTORS)

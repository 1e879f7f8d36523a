"""Running one job: a process for the program, for a check a second one for the test, and a report on how they ended.

Whoever runs jobs never reads what a program wrote. Output, value and milestones are anonymous files, and the report
hands their descriptors to the trusted side.
"""

from __future__ import annotations

import os
from types import CodeType

from sandbox.jail import checker, confinement, job, program, supervision
from sandbox.jail.reporter import NOT_A_CHECK, NOTHING_FOUND, Reporter
from sandbox.jail.request import CHECK, Task

MAX_DESCRIPTORS = 64


class Runner:
    """Runs jobs one after another, within `limits`."""

    def __init__(self, reporter: Reporter, limits: program.ProcessLimits, *, has_scratch: bool) -> None:
        self._reporter = reporter
        self._control = reporter.control.fileno()
        self._limits = limits
        self._filter = confinement.ProgramFilter(may_set_times=has_scratch)

    def run(self, task: Task, stdin: int, code: CodeType | None, cpu_s: float, wall_s: float) -> supervision.Ending:
        """Run a job and report; closes `stdin`. `code` is the program compiled, None if that is still to be done."""
        # Every page that this writes to between two forks has to be copied, so it makes no more objects than it needs.
        output, errors = os.memfd_create("stream"), os.memfd_create("stream")
        value, milestones = os.memfd_create("stream"), os.memfd_create("stream")
        files = (stdin, output, errors, value, milestones)
        finding = NOT_A_CHECK
        if task.kind == CHECK:
            ending, finding = self._run_check(task, files, code, cpu_s, wall_s)
        else:
            pid = self._start(task, files, code, cpu_s)
            ending = supervision.supervise(pid, cpu_s, wall_s, self._control)
        os.close(stdin)
        self._reporter.add(ending, output, errors, value, milestones, finding)
        return ending

    def _run_check(
        self, task: Task, files: tuple[int, ...], code: CodeType | None, cpu_s: float, wall_s: float
    ) -> tuple[supervision.Ending, bytes]:
        """Run the program in one process and the test module in another, pipes between them; and what that one found.

        Its finding is one byte of ours (see `checker`), `NOTHING_FOUND` or `ANSWERED` where it died before it had one.
        """
        *own, found = [os.memfd_create("stream") for _ in range(4)]
        calls, answers = os.pipe(), os.pipe()
        # The program's process comes last: it might leave no room for another. It inherits nothing of the test module,
        # which the checker reads in its own process.
        testing = self._start_checker(task, (*own, found, files[4], answers[0], calls[1]), cpu_s)
        tested = self._start(task, (*files, calls[0], answers[1]), code, cpu_s)
        for descriptor in (*own, *calls, *answers):
            os.close(descriptor)
        watched = supervision.supervise(testing, cpu_s, wall_s, self._control, tested)
        finding = os.pread(found, 1, 0) or NOTHING_FOUND
        os.close(found)
        is_done = finding not in (checker.GONE, checker.ANSWERED, NOTHING_FOUND)
        return supervision.end_partner(tested, watched, cpu_s, is_done=is_done), finding

    def _start(self, task: Task, files: tuple[int, ...], code: CodeType | None, cpu_s: float) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                confinement.die_with_parent(parent)
                job.become(task, files, MAX_DESCRIPTORS, code, self._filter, self._limits, cpu_s)
            finally:
                os._exit(1)
        return pid

    def _start_checker(self, task: Task, files: tuple[int, ...], cpu_s: float) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                confinement.die_with_parent(parent)
                asked, module = os.pread(task.descriptor, task.payload_bytes, task.at), task.module()
                program.keep_only(files, MAX_DESCRIPTORS)
                os.close(program.MILESTONES)
                checker.run_check(asked.decode(), module, self._filter, self._limits, cpu_s)
            finally:
                os._exit(1)
        return pid

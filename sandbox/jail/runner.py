"""Running one job: a process for the program, for a check a second one for the test, and a report on how they ended.

Whoever runs jobs never reads what a program wrote. Output, value and milestones are anonymous files, and the report
hands their descriptors to the trusted side.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
import time
from collections.abc import Callable
from types import CodeType
from typing import NamedTuple

from sandbox.jail import checker, confinement, program, request, supervision

MAX_DESCRIPTORS = 64
_RETRY_S = 0.001


class Task(NamedTuple):
    """A job as its own process knows it: `code` is the compiled program, None where it is still to be compiled."""

    request: request.Request
    index: int
    code: CodeType | None


class Outcome(NamedTuple):
    """How a job ended (see `supervision.Ending`), and how many bytes its program wrote in all."""

    cause: int
    cpu_s: float
    num_bytes: int


class Runner:
    """Runs jobs one after another, within `limits`, and reports on the socket `control`."""

    def __init__(self, control: _socket.socket, oom_counter: int | None, limits: program.ProcessLimits) -> None:
        self.control = control
        self._oom = supervision.OomCounter(oom_counter)
        self._limits = limits
        self._filter = confinement.ProgramFilter()

    def killed_for_memory(self) -> bool:
        """Whether the kernel killed a process of the jail for memory since this was last asked."""
        return self._oom.rose()

    def run(self, stdin: int, enter: Callable[[], Task], *, is_check: bool, cpu_s: float, wall_s: float) -> Outcome:
        """Run a job and report. `enter` is called in each new process and says what it is to do."""
        files = [stdin, *(os.memfd_create("stream") for _ in range(4))]
        _, output, errors, value, milestones = files
        if is_check:
            ending, found = self._run_check(files, enter, cpu_s, wall_s)
            files.append(found)
        else:
            pid = self._start(enter, self._become_program, cpu_s, files)
            ending = supervision.supervise(pid, cpu_s, wall_s, self.control.fileno())
        sizes = [os.fstat(descriptor).st_size for descriptor in (output, errors, value)]
        self.report(ending, (output, value, milestones, *files[5:]), sizes[1])
        for descriptor in files:
            os.close(descriptor)
        return Outcome(ending.cause, ending.cpu_s, sum(sizes))

    def _run_check(
        self, files: list[int], enter: Callable[[], Task], cpu_s: float, wall_s: float
    ) -> tuple[supervision.Ending, int]:
        """Run the program in one process and the test module in another, pipes between them; its record's file."""
        *own, found = [os.memfd_create("stream") for _ in range(4)]
        calls, answers = os.pipe(), os.pipe()
        # The program's process is started first: nothing of the test module is in memory yet.
        tested = self._start(enter, self._become_program, cpu_s, [*files, calls[0], answers[1]])
        testing = self._start(enter, self._become_checker, cpu_s, [*own, found, files[4], answers[0], calls[1]])
        for descriptor in (*own, *calls, *answers):
            os.close(descriptor)
        watched = supervision.supervise(testing, cpu_s, wall_s, self.control.fileno(), tested)
        is_done = os.pread(found, 1, 0) not in (checker.GONE, b"")
        return supervision.end_partner(tested, watched, cpu_s, is_done=is_done), found

    def _start(
        self, enter: Callable[[], Task], become: Callable[[Task, float, list[int]], None], cpu_s: float, files: list[int]
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
        asked, index, code = task
        kind, payload, source = asked.kind(index), asked.payload(index), asked.source()
        _keep_only(files)
        program.run_job(kind, payload, source, code, self._filter, self._limits, cpu_s, asked.seed + index)

    def _become_checker(self, task: Task, cpu_s: float, files: list[int]) -> None:
        entry_point, module = task.request.check(task.index)
        _keep_only(files)
        os.close(program.MILESTONES)
        checker.run_check(entry_point, module, self._filter, self._limits, cpu_s)

    def report(self, ending: supervision.Ending, files: tuple[int, ...], stderr_bytes: int = 0) -> None:
        """Send a report with the descriptors of `files`."""
        data = b"R" + ending.report(out_of_memory=self._oom.rose(), stderr_bytes=stderr_bytes)
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(files)}i", *files))]
        while True:
            try:
                self.control.sendmsg([data], ancillary)
                return
            except OSError as error:
                # Other jails of the same user may have as many descriptors on their way as the kernel allows.
                if error.errno != errno.ETOOMANYREFS:
                    raise
                time.sleep(_RETRY_S)


def _keep_only(descriptors: list[int]) -> None:
    """Make these the descriptors 0, 1, 2... and close all others. None of them is below the number of them."""
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
    os.closerange(len(descriptors), MAX_DESCRIPTORS)

"""Running jobs, and reporting how they ended.

A job gets a process for the program; a check gets a second one for the test. The process that runs jobs never reads
what a program wrote: output, value and milestones are anonymous files, and the report passes their descriptors to the
trusted side.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
import time
from types import CodeType
from typing import NoReturn

from rltf.sandbox.jail import checker, confinement, job, program, supervision
from rltf.sandbox.jail.protocol import CHECK, MAX_REPORTS, NOT_A_CHECK, NOTHING_FOUND, REPORT, Task

MAX_DESCRIPTORS = 64
_MAX_BYTES = 1 << 20
_RETRY_S = 0.001
_SIGKILL = 9


class Reporter:
    """Collects reports and sends them on the socket `control`, with the files that they describe.

    Several reports share a packet, since waking the trusted side for every test would slow each one down. Their number
    is bounded because the kernel limits the descriptors in transit, and so are the bytes that they describe, because
    these count as the jail's memory. `total_bytes` is what the programs of all reports wrote. Every process inherits
    `package_bytes` of memory from the zygote, which no report counts.
    """

    def __init__(self, control: _socket.socket, oom_counter: int | None, package_bytes: int) -> None:
        self.control = control
        self._package_bytes = package_bytes
        self._oom = supervision.OomCounter(oom_counter)
        self._reports = bytearray()
        self._num_reports = self._num_bytes = 0
        self._files: list[int] = []
        self.total_bytes = 0

    def killed_for_memory(self) -> bool:
        """Whether the kernel killed a process of the jail for memory since the last call."""
        return self._oom.rose()

    def add(
        self, ending: supervision.Ending, output: int, errors: int, value: int, milestones: int, finding: bytes
    ) -> None:
        """Record how a job ended and take over its files. Those that hold nothing for the reader are closed."""
        num_output, num_errors = os.lseek(output, 0, os.SEEK_END), os.lseek(errors, 0, os.SEEK_END)
        num_value = os.lseek(value, 0, os.SEEK_END)
        # One byte, and one of ours; what may follow it is about the program.
        reached = os.pread(milestones, 1, 0) or b"\0"
        for descriptor, is_sent in ((output, num_output), (value, num_value), (milestones, reached == b"S")):
            if is_sent:
                self._files.append(descriptor)
            else:
                os.close(descriptor)
        os.close(errors)
        cause, status, cpu_s, wall_s, peak_bytes, partner_peak_bytes = ending
        # Ask the kernel only if there may have been a kill. Of a check's two processes either may have been killed, and
        # a kill that goes unnoticed here would be blamed on the next program.
        may_be_killed = status & 0x7F == _SIGKILL or reached == b"\0" or finding != NOT_A_CHECK
        is_killed = may_be_killed and self._oom.rose()
        self._reports += REPORT.pack(
            cause, is_killed, status, int(cpu_s * 1e6), int(wall_s * 1e6), self._own_bytes(peak_bytes),
            self._own_bytes(partner_peak_bytes), num_output, num_errors, num_value, reached, finding,
        )  # fmt: skip
        self._num_reports += 1
        self._num_bytes += num_output + num_errors + num_value
        self.total_bytes += num_output + num_errors + num_value

    def _own_bytes(self, peak_bytes: int) -> int:
        return max(0, peak_bytes - self._package_bytes)

    @property
    def is_full(self) -> bool:
        """Whether the reports must be sent and read before more can be added."""
        return self._num_reports >= MAX_REPORTS or self._num_bytes >= _MAX_BYTES

    def flush(self) -> None:
        """Send all reports."""
        if not self._num_reports:
            return
        files = struct.pack(f"{len(self._files)}i", *self._files)
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)] if files else []
        while True:
            try:
                self.control.sendmsg([b"R", self._reports], ancillary)
                break
            except OSError as error:
                # Other jails of the same user may have used up the descriptors that the kernel allows in transit.
                if error.errno != errno.ETOOMANYREFS:
                    raise
                time.sleep(_RETRY_S)
        for descriptor in self._files:
            os.close(descriptor)
        self._reports, self._num_reports, self._num_bytes, self._files = bytearray(), 0, 0, []

    def flush_and_wait(self) -> None:
        """Send all reports, and wait until they have been read."""
        self.flush()
        self.control.recv(1)


class Runner:
    """Runs jobs one after another, within `limits`, which each request sets."""

    limits: program.ProcessLimits

    def __init__(self, reporter: Reporter, *, has_scratch: bool) -> None:
        self._reporter = reporter
        self._control = reporter.control.fileno()
        self._filter = confinement.ProgramFilter(may_set_times=has_scratch)

    def run(self, task: Task, stdin: int, code: CodeType | None, cpu_s: float, wall_s: float) -> supervision.Ending:
        """Run a job, report it, and close `stdin`. `code` is the compiled program, None if the job is to compile it."""
        # Every page written to between two forks has to be copied, so this creates no more objects than it needs.
        output, errors = os.memfd_create("stream"), os.memfd_create("stream")
        value, milestones = os.memfd_create("stream"), os.memfd_create("stream")
        files = (stdin, output, errors, value, milestones)
        finding = NOT_A_CHECK
        if task.kind == CHECK:
            ending, finding = self._run_check(task, files, code, cpu_s, wall_s)
        else:
            pid = supervision.start(job.become, task, files, MAX_DESCRIPTORS, code, self._filter, self.limits, cpu_s)
            ending = supervision.supervise(pid, cpu_s, wall_s, self._control)
        os.close(stdin)
        self._reporter.add(ending, output, errors, value, milestones, finding)
        return ending

    def _run_check(
        self, task: Task, files: tuple[int, ...], code: CodeType | None, cpu_s: float, wall_s: float
    ) -> tuple[supervision.Ending, bytes]:
        """Run the program in one process and the test module in another, with pipes between them.

        The second result is what the test found: one byte of ours (see `checker`), `NOTHING_FOUND` or `ANSWERED` if it
        died before it found anything.
        """
        *own, found = [os.memfd_create("stream") for _ in range(4)]
        calls, answers = os.pipe(), os.pipe()
        # Start the program's process last: it might leave no room for another. It inherits nothing of the test module,
        # which the checker reads in its own process.
        testing = supervision.start(self._check, task, (*own, found, files[4], answers[0], calls[1]), cpu_s)
        files = (*files, calls[0], answers[1])
        tested = supervision.start(job.become, task, files, MAX_DESCRIPTORS, code, self._filter, self.limits, cpu_s)
        for descriptor in (*own, *calls, *answers):
            os.close(descriptor)
        watched = supervision.supervise(testing, cpu_s, wall_s, self._control, tested)
        finding = os.pread(found, 1, 0) or NOTHING_FOUND
        os.close(found)
        is_done = finding not in (checker.GONE, checker.ANSWERED, NOTHING_FOUND)
        return supervision.end_partner(tested, watched, cpu_s, is_done=is_done), finding

    def _check(self, task: Task, files: tuple[int, ...], cpu_s: float) -> NoReturn:
        asked, module = os.pread(task.descriptor, task.payload_bytes, task.at), task.module()
        program.keep_only(files, MAX_DESCRIPTORS)
        os.close(program.MILESTONES)
        checker.run_check(asked.decode(), module, self._filter, self.limits, cpu_s)

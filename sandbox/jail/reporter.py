"""Reports on their way to the trusted side, several in a packet: waking it for every test would slow down each.

Their number is bounded, since the kernel limits the descriptors on their way, and so are the bytes that they speak of,
since these count as the jail's memory.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
import time

from sandbox.jail import supervision

MAX_REPORTS = 8
_MAX_BYTES = 1 << 20
_RETRY_S = 0.001
_SIGKILL = 9
# What a report says of a check's finding where there is none.
NOTHING_FOUND, NOT_A_CHECK = b"\0", b"-"


class Reporter:
    """Gathers reports and sends them on the socket `control`, with the files that they speak of.

    `total_bytes` is what the programs of all reports wrote.
    """

    def __init__(self, control: _socket.socket, oom_counter: int | None) -> None:
        self.control = control
        self._oom = supervision.OomCounter(oom_counter)
        self._reports = bytearray()
        self._num_reports = self._num_bytes = 0
        self._files: list[int] = []
        self.total_bytes = 0

    def killed_for_memory(self) -> bool:
        """Whether the kernel killed a process of the jail for memory since this was last asked."""
        return self._oom.rose()

    def add(
        self, ending: supervision.Ending, output: int, errors: int, value: int, milestones: int, finding: bytes
    ) -> None:
        """Note how a job ended, and take over its files; of those that hold nothing for the reader no more is heard."""
        num_output, num_errors = os.lseek(output, 0, os.SEEK_END), os.lseek(errors, 0, os.SEEK_END)
        num_value = os.lseek(value, 0, os.SEEK_END)
        # One byte, and one of ours; what may follow it speaks of the program.
        reached = os.pread(milestones, 1, 0) or b"\0"
        for descriptor, is_sent in ((output, num_output), (value, num_value), (milestones, reached == b"S")):
            if is_sent:
                self._files.append(descriptor)
            else:
                os.close(descriptor)
        os.close(errors)
        cause, status, cpu_s, wall_s, peak_bytes, partner_peak_bytes = ending
        # Without a kill there is none to ask the kernel about. Of a check's two processes either may have been killed,
        # and a kill that is not asked about now would be taken for the next program's.
        may_be_killed = status & 0x7F == _SIGKILL or reached == b"\0" or finding != NOT_A_CHECK
        is_killed = may_be_killed and self._oom.rose()
        self._reports += supervision.REPORT.pack(
            cause, is_killed, status, int(cpu_s * 1e6), int(wall_s * 1e6), peak_bytes, partner_peak_bytes,
            num_output, num_errors, num_value, reached, finding,
        )  # fmt: skip
        self._num_reports += 1
        self._num_bytes += num_output + num_errors + num_value
        self.total_bytes += num_output + num_errors + num_value

    @property
    def is_full(self) -> bool:
        """Whether the reports have to be sent, and read, before there are more."""
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
                # Other jails of the same user may have as many descriptors on their way as the kernel allows.
                if error.errno != errno.ETOOMANYREFS:
                    raise
                time.sleep(_RETRY_S)
        for descriptor in self._files:
            os.close(descriptor)
        self._reports, self._num_reports, self._num_bytes, self._files = bytearray(), 0, 0, []

    def flush_and_wait(self) -> None:
        """Send all reports, and wait until they are read."""
        self.flush()
        self.control.recv(1)

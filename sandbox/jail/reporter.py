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


class Reporter:
    """Gathers reports and sends them on the socket `control`, with the files that they speak of."""

    def __init__(self, control: _socket.socket, oom_counter: int | None) -> None:
        self.control = control
        self._oom = supervision.OomCounter(oom_counter)
        self._reports = bytearray()
        self._num_reports = self._num_bytes = 0
        self._files: list[int] = []

    def killed_for_memory(self) -> bool:
        """Whether the kernel killed a process of the jail for memory since this was last asked."""
        return self._oom.rose()

    def add(
        self,
        ending: supervision.Ending,
        sizes: supervision.Sizes,
        reached: bytes,
        finding: bytes,
        files: tuple[int, ...],
    ) -> None:
        """Take over a report and its `files`: output, value, milestones. Those that say nothing more are closed."""
        says = (sizes.output, sizes.value, reached == b"S")
        for descriptor, is_sent in zip(files, says, strict=True):
            if is_sent:
                self._files.append(descriptor)
            else:
                os.close(descriptor)
        self._reports += ending.report(self._oom.rose(), sizes, reached, finding)
        self._num_reports += 1
        self._num_bytes += sum(sizes)

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

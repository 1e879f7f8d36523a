"""A program with its jobs, as the contents of one file. Both sides of the jail read this layout from here.

    seed, length of the source, number of jobs; kind and length of each payload; the source; the payloads

Only processes that end with the program read the file. What a payload holds depends on the kind of job: standard input;
an encoded (function, arguments) or (set-up, expression); for a check the length of the function's name, the name, and
the test module.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

STDIN, CALL, EXPRESSION, CHECK = range(4)
_HEAD = struct.Struct("<QQQ")
_JOB = struct.Struct("<BQ")
_NAME = struct.Struct("<I")


def contents(source: str, payloads: Sequence[tuple[int, bytes]], seed: int) -> list[bytes]:
    """The parts of a request's file, one after another; `payloads` are (kind, payload) in the order of the jobs."""
    text = source.encode("utf-8", "surrogatepass")
    table = b"".join(_JOB.pack(kind, len(payload)) for kind, payload in payloads)
    return [_HEAD.pack(seed, len(text), len(payloads)), table, text, *(payload for _, payload in payloads)]


def check_payload(entry_point: str, module: str) -> bytes:
    """The payload of a check."""
    name = entry_point.encode()
    return _NAME.pack(len(name)) + name + module.encode("utf-8", "surrogatepass")


class Request:
    """The file on `descriptor`, opened inside the jail."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.seed, self._source_bytes, self.num_jobs = _HEAD.unpack(os.pread(descriptor, _HEAD.size, 0))
        self._source_at = _HEAD.size + _JOB.size * self.num_jobs
        table = os.pread(descriptor, _JOB.size * self.num_jobs, _HEAD.size)
        self._jobs: list[tuple[int, int, int]] = []
        at = self._source_at + self._source_bytes
        for kind, length in _JOB.iter_unpack(table):
            self._jobs.append((kind, at, length))
            at += length

    def source(self) -> str:
        """The program."""
        return os.pread(self.descriptor, self._source_bytes, self._source_at).decode("utf-8", "surrogatepass")

    def kind(self, index: int) -> int:
        """The kind of a job."""
        return self._jobs[index][0]

    def copy_stdin(self, index: int, target: int) -> None:
        """Put a job's standard input into a file, to be read from its start, past this process's memory."""
        _, offset, left = self._jobs[index]
        while left > 0:
            copied = os.sendfile(target, self.descriptor, offset, left)
            offset, left = offset + copied, left - copied
        os.lseek(target, 0, os.SEEK_SET)

    def payload(self, index: int) -> bytes:
        """What the program's process may know of a job: of a check no more than the function's name."""
        kind, at, length = self._jobs[index]
        if kind == STDIN:
            return b""
        return self._name(at) if kind == CHECK else os.pread(self.descriptor, length, at)

    def check(self, index: int) -> tuple[str, bytes]:
        """The function's name and the test module of a check."""
        _, at, length = self._jobs[index]
        name = self._name(at)
        used = _NAME.size + len(name)
        return name.decode(), os.pread(self.descriptor, length - used, at + used)

    def _name(self, at: int) -> bytes:
        (length,) = _NAME.unpack(os.pread(self.descriptor, _NAME.size, at))
        return os.pread(self.descriptor, length, at + _NAME.size)

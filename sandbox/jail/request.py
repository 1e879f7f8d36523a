"""A program with its jobs, as the contents of one file. Both sides of the jail read this layout from here.

    seed | source | for each job: payload, test module | for each job: kind, lengths of payload and test module

Only processes that end with the program read the file. A payload is the standard input, an encoded (function,
arguments) or (set-up, expression), or what a check asks the program for. Only a check has a test module, which goes to
another process than the program's.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

STDIN, CALL, EXPRESSION, CHECK = range(4)
SEED = struct.Struct("<Q")
_JOB = struct.Struct("<BQQ")


class Part(NamedTuple):
    """What a request says of one job: of a `STDIN` job the payload is the standard input."""

    kind: int
    payload: bytes
    module: bytes = b""


class Task(NamedTuple):
    """Where a job stands in the file `descriptor`; `number` counts the program's jobs from 0."""

    descriptor: int
    number: int
    kind: int
    source_bytes: int
    at: int
    payload_bytes: int
    module_bytes: int

    def module(self) -> bytes:
        """The test module of a check."""
        return os.pread(self.descriptor, self.module_bytes, self.at + self.payload_bytes)

    def copy_stdin(self, target: int) -> None:
        """Put the standard input into a file, to be read from its start, past this process's memory."""
        offset, left = self.at, self.payload_bytes
        while left > 0:
            copied = os.sendfile(target, self.descriptor, offset, left)
            offset, left = offset + copied, left - copied
        os.lseek(target, 0, os.SEEK_SET)


def contents(source: bytes, parts: Sequence[Part], seed: int) -> list[bytes]:
    """What a request's file holds, piece by piece."""
    table = b"".join(_JOB.pack(part.kind, len(part.payload), len(part.module)) for part in parts)
    return [SEED.pack(seed), source, *(piece for part in parts for piece in (part.payload, part.module)), table]


def read_source(descriptor: int, source_bytes: int) -> str:
    """The program."""
    return os.pread(descriptor, source_bytes, SEED.size).decode("utf-8", "surrogatepass")


def read_tasks(descriptor: int, source_bytes: int, num_jobs: int) -> list[Task]:
    """All jobs of a program."""
    size = _JOB.size * num_jobs
    table = os.pread(descriptor, size, os.fstat(descriptor).st_size - size)
    tasks: list[Task] = []
    at = SEED.size + source_bytes
    for number, (kind, payload_bytes, module_bytes) in enumerate(_JOB.iter_unpack(table)):
        tasks.append(Task(descriptor, number, kind, source_bytes, at, payload_bytes, module_bytes))
        at += payload_bytes + module_bytes
    return tasks

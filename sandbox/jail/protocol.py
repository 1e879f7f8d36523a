"""The byte layouts that both sides of the jail share.

A request is a packet `REQUEST` with two descriptors: the program's file, and its standard input, which is used only if
there is a single job. The replies are `R` packets, which hold a `REPORT` for each job in order and carry the
descriptors of what its program wrote (output and value if there are any, and the compiler's complaint), followed by one
`E` packet. If there are several jobs, the trusted side answers each `R` packet with one byte once it has read the
files.

The program's file:

    seed | source | for each job: payload, test module | for each job: kind, lengths of payload and test module

Only processes that end with the program read that file. A payload is the standard input; an encoded (function,
arguments), (function, lists of arguments) or (setup, expression); or what a check needs from the program. Only a check
has a test module, and it goes to a different process than the program's.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

STDIN, CALL, EXPRESSION, CHECK, CALLS = range(5)
# Number of jobs and length of the source; kind of a single job and lengths of its payload and test module; CPU seconds,
# wall seconds and bytes of address space per job.
REQUEST = struct.Struct("<IQBQQddQ")
# Cause and wait status of the loader (0, 0 if there was none), whether it was killed for memory, and whether the
# scratch folder is clean.
END = struct.Struct("<BIBB")
# Cause, whether the kernel killed a process of the jail for memory, wait status, CPU and wall time (microseconds), peak
# resident bytes of the program's process and of its partner, bytes of output, standard error and value. Then one byte
# each for how far the program got and what a check found.
REPORT = struct.Struct("<BBIQQQQQQQcc")
MAX_REPORTS = 8
# The first packet of a jail: the kernel's Landlock version, and the resident bytes that the packages take. `FAILED` and
# a text instead: a package cannot be used.
HELLO = struct.Struct("<cBQ")
READY, FAILED = b"Z", b"P"
# A report's finding if the check found nothing yet, and if the job is not a check.
NOTHING_FOUND, NOT_A_CHECK = b"\0", b"-"
SEED = struct.Struct("<Q")
_JOB = struct.Struct("<BQQ")


class Config(NamedTuple):
    """What the trusted side tells the zygote when it starts. Times in seconds; `scratch` is "" if there is none.

    `modules` are pairs (top-level module of a package, its path in the jail), `preloaded` those to import at the start.
    """

    control: int
    oom_counter: int | None
    readable: tuple[str, ...]
    writable: tuple[str, ...]
    scratch: str
    scratch_bytes: int
    scratch_files: int
    use_landlock: bool
    program_cpu_s: float
    program_wall_s: float
    program_output_bytes: int
    output_bytes: int
    num_processes: int | None
    modules: tuple[tuple[str, str], ...]
    preloaded: tuple[str, ...]


class Part(NamedTuple):
    """One job as the request describes it. The payload of a `STDIN` job is the standard input."""

    kind: int
    payload: bytes
    module: bytes = b""


class Task(NamedTuple):
    """Where to find a job in the file `descriptor`; `number` counts the program's jobs from 0."""

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
        """Copy the standard input into a file and rewind it, without the bytes entering this process's memory."""
        offset, left = self.at, self.payload_bytes
        while left > 0:
            copied = os.sendfile(target, self.descriptor, offset, left)
            offset, left = offset + copied, left - copied
        os.lseek(target, 0, os.SEEK_SET)


def contents(source: bytes, parts: Sequence[Part], seed: int) -> list[bytes]:
    """The pieces of a program's file, in order."""
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

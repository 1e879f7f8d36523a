"""From what a jail reports to `RunResult`s. Trusted side: checks every field, believes only the kernel's.

What a program wrote comes as descriptors of anonymous files, and is read here and nowhere before. Its process is dead by
then, so nothing in them changes any more.
"""

from __future__ import annotations

import os
import re
import signal
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox import codec
from sandbox.jail import checker, loader, program, supervision
from sandbox.jobs import CheckJob, End, Job, RunResult, StdinJob
from sandbox.limits import Limits
from sandbox.verdict import ProgramError

_TYPE_NAME = re.compile(r"[^\W\d]\w{0,79}")
_STOPPING = (End.CPU_TIMEOUT, End.WALL_TIMEOUT, End.MEMORY)
_MAX_MESSAGE = 500
_MAX_MILESTONES = 1 << 14
MAX_FILES = 4
_CHECK_ENDS = {checker.PASSED: End.OK, checker.WRONG: End.ASSERTION, checker.UNSENDABLE: End.NO_VALUE}
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class MalformedReportError(ValueError):
    """The bytes are not a report."""


@dataclass(frozen=True, slots=True)
class _Report:
    """A report's fields. `finding` is the checker's own record, b"" where it left none; None: there is no checker."""

    cause: int
    out_of_memory: bool
    status: int
    cpu_s: float
    wall_s: float
    peak_bytes: int
    partner_peak_bytes: int
    too_much_output: bool
    output: bytes
    value: bytes
    milestones: bytes
    finding: bytes | None


class Reader:
    """Turns the reports on one program into results, one for each of its `jobs`."""

    def __init__(self, jobs: Sequence[Job], source: str, limits: Limits) -> None:
        self._jobs = jobs
        self._lines = source.split("\n")
        self._limits = limits
        self._last: RunResult | None = None
        self._num_read = 0

    def read(self, data: bytes, descriptors: list[int]) -> RunResult:
        """The result of the next job; closes `descriptors`. Raises `MalformedReportError`."""
        try:
            if self._num_read == len(self._jobs):
                raise MalformedReportError("there is a report after the last job's")
            job = self._jobs[self._num_read]
            report = self._parse(data, descriptors, job)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        end, value, error = _judge(report, job, self._lines, self._limits)
        self._num_read += 1
        self._last = RunResult(
            end,
            stdout=report.output,
            value=value,
            error=error,
            exit_status=os.WEXITSTATUS(report.status) if os.WIFEXITED(report.status) else None,
            signal=os.WTERMSIG(report.status) if os.WIFSIGNALED(report.status) else None,
            cpu_seconds=report.cpu_s,
            wall_seconds=report.wall_s,
            peak_memory_bytes=report.peak_bytes,
        )
        return self._last

    def _parse(self, data: bytes, descriptors: list[int], job: Job) -> _Report:
        is_check = isinstance(job, CheckJob)
        if len(data) != supervision.REPORT.size or len(descriptors) != MAX_FILES - (not is_check):
            raise MalformedReportError(f"a report of {len(data)} bytes with {len(descriptors)} files")
        cause, oom, status, cpu_us, wall_us, peak, partner_peak, stderr_bytes = supervision.REPORT.unpack(data)
        output, value, milestones, *finding = descriptors
        limit = self._limits.output_bytes
        return _Report(
            cause,
            bool(oom),
            status,
            cpu_us / 1e6,
            wall_us / 1e6,
            peak,
            partner_peak,
            too_much_output=max(_size(output), stderr_bytes) >= limit,
            output=_content(output, limit) if isinstance(job, StdinJob) else b"",
            value=_content(value, codec.MAX_BYTES + 1),
            milestones=_content(milestones, _MAX_MILESTONES),
            finding=_content(finding[0], 1) if finding else None,
        )

    def unreported(self, cause: int, status: int, *, out_of_memory: bool) -> Iterator[RunResult]:
        """The results of jobs without a report, from how the loader ended."""
        if self._last is not None and self._last.end is End.SYNTAX_ERROR:
            yield from [self._last] * (len(self._jobs) - self._num_read)
        elif cause != supervision.SELF_ENDED:
            # It runs no line of the program: it can only have been compiling it.
            yield from self.rest(End.CPU_TIMEOUT if cause == supervision.CPU_TIMEOUT else End.WALL_TIMEOUT)
        elif out_of_memory and os.WIFSIGNALED(status):
            yield from self.rest(End.MEMORY)
        elif os.WIFSIGNALED(status) and self._last is None:
            crash = RunResult(End.SIGNAL, signal=os.WTERMSIG(status))
            yield from [crash] * len(self._jobs)
        elif status == 0:
            # The loader stops after a timeout, or because the program's time is used up: that is a timeout as well.
            stopped = self._last is not None and self._last.end in _STOPPING
            yield from self.rest(End.SKIPPED if stopped else End.CPU_TIMEOUT)
        elif os.WIFEXITED(status) and os.WEXITSTATUS(status) == loader.TOO_MUCH_OUTPUT:
            yield from self.rest(End.OUTPUT)
        else:
            yield from [RunResult(End.INFRASTRUCTURE)] * (len(self._jobs) - self._num_read)

    def rest(self, end: End) -> Iterator[RunResult]:
        """`end` for the first job without a report; those after it were skipped."""
        count = len(self._jobs) - self._num_read
        yield from [RunResult(end), *[RunResult(End.SKIPPED)] * (count - 1)][:count]


def _size(descriptor: int) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise MalformedReportError("a report with something else than a file")
    return status.st_size


def _content(descriptor: int, max_bytes: int) -> bytes:
    size = _size(descriptor)
    return os.pread(descriptor, min(size, max_bytes), 0) if size else b""


def _judge(report: _Report, job: Job, lines: list[str], limits: Limits) -> tuple[End, Any, ProgramError | None]:
    """How the run ended, its value, its error. The order of the questions is the order of trust."""
    reached = report.milestones[:1]
    if reached == b"S":
        error = _error(report.milestones[1:], lines, in_bytes=False)
        return End.SYNTAX_ERROR, None, error or ProgramError("SyntaxError")
    if report.out_of_memory and report.partner_peak_bytes > limits.memory_bytes // 2:
        return End.INFRASTRUCTURE, None, None  # the test module used the memory up
    # Above the timeouts: filling memory takes CPU time, and which limit comes first should not depend on the level.
    if report.out_of_memory or report.peak_bytes >= limits.memory_bytes:
        return End.MEMORY, None, None
    if reached not in (b"C", b"R"):
        return End.INFRASTRUCTURE, None, None
    if report.cause == supervision.CPU_TIMEOUT:
        return End.CPU_TIMEOUT, None, None
    if report.cause == supervision.WALL_TIMEOUT:
        return End.WALL_TIMEOUT, None, None
    if report.too_much_output:
        return End.OUTPUT, None, None
    if isinstance(job, CheckJob):
        if report.finding in _CHECK_ENDS:
            return _CHECK_ENDS[report.finding], None, None
        if report.finding == checker.RAISED:
            return _exception(report.value, lines)
        if report.finding != checker.GONE:
            return End.INFRASTRUCTURE, None, None
    if os.WIFSIGNALED(report.status):
        return End.SIGNAL, None, None
    exit_status = os.WEXITSTATUS(report.status)
    if exit_status == program.EXIT_RECORDED and report.value[:1] == b"E":
        return _exception(report.value, lines)
    if exit_status != 0:
        return End.EXIT_STATUS, None, None
    if isinstance(job, StdinJob):
        return End.OK, None, None
    return (End.NO_VALUE, None, None) if isinstance(job, CheckJob) else _value(report.value)


def _exception(record: bytes, lines: list[str]) -> tuple[End, Any, ProgramError | None]:
    error = _error(record[1:], lines, in_bytes=True)
    return (End.MEMORY if error and error.type == "MemoryError" else End.EXCEPTION), None, error


def _value(record: bytes) -> tuple[End, Any, ProgramError | None]:
    if record[:1] != b"V":
        return End.NO_VALUE, None, None
    try:
        return End.OK, codec.decode(record[1:]), None
    except codec.CodecError:
        return End.NO_VALUE, None, None


def _error(record: bytes, lines: list[str], *, in_bytes: bool) -> ProgramError | None:
    """The error of a record, None where the record does not have its shape; a line outside the program counts as none.

    `in_bytes`: the column counts UTF-8 bytes rather than characters.
    """
    try:
        name, message, line, column = codec.decode(record, 1 << 14)
    except (codec.CodecError, ValueError, TypeError):
        return None
    if not (isinstance(name, str) and _TYPE_NAME.fullmatch(name) and isinstance(message, str)):
        return None
    message = _CONTROL_CHARACTERS.sub("?", message[:_MAX_MESSAGE]).encode("utf-8", "replace").decode()
    if type(line) is not int or not 1 <= line <= len(lines):
        return ProgramError(name, message)
    text = lines[line - 1]
    if type(column) is int and in_bytes and column >= 0:
        column = len(text.encode("utf-8", "surrogatepass")[:column].decode("utf-8", "ignore"))
    # At a line's end, CPython counts bytes also where it says characters.
    column = min(column, len(text)) if type(column) is int and column >= 0 else None
    return ProgramError(name, message, line, column)

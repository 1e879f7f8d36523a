"""Turns a jail's reports into `RunResult`s. Trusted side: checks every field, and believes only the kernel.

What a program wrote arrives as descriptors of anonymous files, and this is the first place that reads them. By then the
program's process is dead, so the files no longer change.
"""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rltf.sandbox import codec
from rltf.sandbox.jail import checker, program, protocol, supervision, zygote
from rltf.sandbox.jobs import CheckJob, End, Job, RunResult, StdinJob
from rltf.sandbox.verdict import GRADER_ERROR, ProgramError

_TYPE_NAME = re.compile(r"[^\W\d]\w{0,79}")
_STOPPING = (End.CPU_TIMEOUT, End.WALL_TIMEOUT, End.MEMORY)
_MAX_MESSAGE = 500
_MAX_MILESTONES = 1 << 14
_CHECK_ENDS = {checker.PASSED: End.OK, checker.WRONG: End.ASSERTION, checker.UNSENDABLE: End.NO_VALUE}
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class MalformedReportError(ValueError):
    """The bytes are not a report."""


class _Report(NamedTuple):
    """The fields of a `protocol.REPORT`, and the contents of those of its files that matter for the job."""

    cause: int
    out_of_memory: int
    status: int
    cpu_us: int
    wall_us: int
    peak_bytes: int
    partner_peak_bytes: int
    output_bytes: int
    stderr_bytes: int
    value_bytes: int
    reached: bytes
    finding: bytes
    output: bytes = b""
    value: bytes = b""
    milestones: bytes = b""


class Reader:
    """Turns the reports on one program into results, one for each of its `jobs`."""

    def __init__(self, jobs: Sequence[Job], source: str, output_bytes: int, memory_bytes: int) -> None:
        self._jobs = jobs
        self._lines = source.split("\n")
        self._output_bytes = output_bytes
        self._memory_bytes = memory_bytes
        self._last: RunResult | None = None
        self._num_read = 0
        self.saw_kill = False

    def read(self, data: bytes, descriptors: list[int]) -> Iterator[RunResult]:
        """Yield the results of the jobs in a packet, one at a time, and close `descriptors`.

        Raises `MalformedReportError` for anything that a healthy jail does not send.
        """
        files = deque(descriptors)
        try:
            if not data or len(data) % protocol.REPORT.size:
                raise MalformedReportError(f"reports of {len(data)} bytes")
            for fields in protocol.REPORT.iter_unpack(data):
                if self._num_read == len(self._jobs):
                    raise MalformedReportError("there is a report after the last job's")
                job = self._jobs[self._num_read]
                report = self._with_contents(_Report(*fields), files, job)
                self._last = _result(report, job, self._lines, self._output_bytes, self._memory_bytes)
                self._num_read += 1
                self.saw_kill |= bool(report.out_of_memory)
                yield self._last
            if files:
                raise MalformedReportError("there are files that belong to no report")
        finally:
            for descriptor in files:
                os.close(descriptor)

    def _with_contents(self, report: _Report, files: deque[int], job: Job) -> _Report:
        output = value = milestones = b""
        if report.output_bytes:
            output = _content(files, self._output_bytes if isinstance(job, StdinJob) else 0)
        if report.value_bytes:
            value = _content(files, codec.MAX_BYTES + 1)
        if report.reached == b"S":
            milestones = _content(files, _MAX_MILESTONES)
        return report._replace(output=output, value=value, milestones=milestones)

    def unreported(self, cause: int, status: int, *, out_of_memory: bool) -> Iterator[RunResult]:
        """Yield the results of the jobs without a report, judging by how the loader ended."""
        if self._last is not None and self._last.end is End.SYNTAX_ERROR:
            yield from [self._last] * (len(self._jobs) - self._num_read)
        elif cause != supervision.SELF_ENDED:
            # The loader does not run the program, so it can only have been compiling it.
            yield from self.rest(End.CPU_TIMEOUT if cause == supervision.CPU_TIMEOUT else End.WALL_TIMEOUT)
        elif out_of_memory and os.WIFSIGNALED(status):
            yield from self.rest(End.MEMORY)
        elif os.WIFSIGNALED(status) and self._last is None:
            crash = RunResult(End.SIGNAL, signal=os.WTERMSIG(status))
            yield from [crash] * len(self._jobs)
        elif status == 0:
            # The loader stops after a timeout, or when the program's time is used up, which counts as a timeout too.
            stopped = self._last is not None and self._last.end in _STOPPING
            yield from self.rest(End.SKIPPED if stopped else End.CPU_TIMEOUT)
        elif os.WIFEXITED(status) and os.WEXITSTATUS(status) == zygote.TOO_MUCH_OUTPUT:
            yield from self.rest(End.OUTPUT)
        else:
            yield from [RunResult(End.INFRASTRUCTURE)] * (len(self._jobs) - self._num_read)

    def rest(self, end: End) -> Iterator[RunResult]:
        """Yield `end` for the first job without a report, and skip the jobs after it."""
        count = len(self._jobs) - self._num_read
        yield from [RunResult(end), *[RunResult(End.SKIPPED)] * (count - 1)][:count]


def _result(report: _Report, job: Job, lines: list[str], output_bytes: int, memory_bytes: int) -> RunResult:
    end, value, error = _judge(report, job, lines, output_bytes, memory_bytes)
    return RunResult(
        end,
        stdout=report.output,
        value=value,
        error=error,
        exit_status=os.WEXITSTATUS(report.status) if os.WIFEXITED(report.status) else None,
        signal=os.WTERMSIG(report.status) if os.WIFSIGNALED(report.status) else None,
        cpu_seconds=report.cpu_us / 1e6,
        wall_seconds=report.wall_us / 1e6,
        peak_memory_bytes=report.peak_bytes,
    )


def _content(files: deque[int], max_bytes: int) -> bytes:
    """Read and close the next file."""
    if not files:
        raise MalformedReportError("a report without its files")
    descriptor = files.popleft()
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise MalformedReportError("a report with a descriptor that is not a file")
        return os.pread(descriptor, min(status.st_size, max_bytes), 0)
    finally:
        os.close(descriptor)


def _judge(
    report: _Report, job: Job, lines: list[str], output_bytes: int, memory_bytes: int
) -> tuple[End, Any, ProgramError | None]:
    """How the run ended, its value, and its error. The order of the questions is the order of trust."""
    if report.reached == b"S":
        error = _error(report.milestones[1:], lines, in_bytes=False)
        return End.SYNTAX_ERROR, None, error or ProgramError("SyntaxError")
    # Only before the program has answered: afterwards, its answers may be what fills the test's memory.
    is_tests = report.finding == protocol.NOTHING_FOUND and report.partner_peak_bytes > memory_bytes // 2
    if report.out_of_memory and is_tests:
        return End.INFRASTRUCTURE, None, ProgramError(GRADER_ERROR, "the test module used up the memory")
    # Before the timeouts: filling memory takes CPU time, and which limit is hit first must not depend on the level.
    if report.out_of_memory or report.peak_bytes >= memory_bytes:
        return End.MEMORY, None, None
    if report.reached not in (b"C", b"R"):
        return End.INFRASTRUCTURE, None, None
    if report.cause == supervision.CPU_TIMEOUT:
        return End.CPU_TIMEOUT, None, None
    if report.cause == supervision.WALL_TIMEOUT:
        return End.WALL_TIMEOUT, None, None
    if max(report.output_bytes, report.stderr_bytes) >= output_bytes:
        return End.OUTPUT, None, None
    if isinstance(job, CheckJob):
        if report.finding in _CHECK_ENDS:
            return _CHECK_ENDS[report.finding], None, None
        if report.finding == checker.BROKEN_TEST:
            return End.INFRASTRUCTURE, None, ProgramError(GRADER_ERROR, "the test fails whatever the program answers")
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
    """The error in a record, or None if the record is malformed. A line outside the program is dropped.

    `in_bytes` says that the column counts UTF-8 bytes instead of characters.
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
    # At the end of a line, CPython counts bytes even in positions that it documents as characters.
    column = min(column, len(text)) if type(column) is int and column >= 0 else None
    return ProgramError(name, message, line, column)

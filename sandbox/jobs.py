"""What a jail can do with one program, and the trusted facts that come back.

This is the line between running programs and judging them. A `Job` does not say what is right: expected values stay
with the judge (`judge.py`, `compare.py`), which looks at the `RunResult` outside the jail. Every job of a program runs
in a process of its own, which executes the program anew; jobs cannot see one another. Only the calls of a `CallsJob`
share a process.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from rltf.sandbox import codec
from rltf.sandbox.verdict import ProgramError


@dataclass(frozen=True, slots=True)
class StdinJob:
    """Run the program as `__main__` with `stdin`; `RunResult.stdout` is what it wrote."""

    stdin: bytes


@dataclass(frozen=True, slots=True)
class CallJob:
    """Call `function`: a global of the program, or a method on an instance of its class `Solution`.

    `arguments` must be values that the codec knows. `RunResult.value` is the returned value.
    """

    function: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class CallsJob:
    """Call `function` with each of the lists of `arguments`, all in one process.

    `RunResult.value` is the list of what it returned.
    """

    function: str
    arguments: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class ExpressionJob:
    """Execute the program, then `setup`, then evaluate `expression`, all in one namespace.

    `RunResult.value` is the expression's value. The program can see the source of both, so never put an expected value
    in them. With an empty program this evaluates trusted source in a clean jail (the right-hand side of an assert that
    is not a literal).
    """

    expression: str
    setup: str = ""


@dataclass(frozen=True, slots=True)
class CheckJob:
    """Call `check` of the test module `source` with the program's function as its only argument.

    The test module runs in a second jailed process that never executes the program. There the function is a stub: the
    codec carries its arguments to the program's process and the value back (or the exception, in the same class if the
    test module knows it). The first line of `entry_point` names the functions that `source` may call, separated by
    commas; `check` gets the first one. Any further lines run in the program's namespace after the program. The run ends
    with `End.OK` if `check` returned, with `End.ASSERTION` if it raised an exception itself, and with
    `End.INFRASTRUCTURE` if the module is broken whatever the program does.
    """

    source: str
    entry_point: str


Job = StdinJob | CallJob | CallsJob | ExpressionJob | CheckJob


@dataclass(frozen=True, slots=True)
class ClosedJob:
    """A job that runs trusted source only, in a jail that no graded program enters."""

    job: ExpressionJob | CallJob
    source: str = ""

    @property
    def key(self) -> bytes:
        """The same for equal jobs. Arguments may be lists, which cannot be hashed as they are."""
        parts = [getattr(self.job, field.name) for field in fields(self.job)]
        content = codec.encode((type(self.job).__name__, *parts), sys.maxsize)
        return hashlib.sha256(content + self.source.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What each job of a program may use."""

    cpu_s: float
    wall_s: float
    memory_bytes: int


class End(StrEnum):
    """How a run ended: a fact from outside the program's process."""

    OK = "ok"
    """Exit status 0, and, except for stdin jobs, the value arrived (or `check` returned)."""
    NO_VALUE = "no_value"
    """Exit status 0, but no value arrived (`os._exit(0)` inside the call), or not one that the codec knows."""
    ASSERTION = "assertion"
    """`check` found a wrong value."""
    EXCEPTION = "exception"
    """The program raised an exception (`RunResult.error`), or lacks the function of a call job."""
    EXIT_STATUS = "exit_status"
    """The program exited with a status other than 0 (`RunResult.exit_status`)."""
    SIGNAL = "signal"
    """A signal that the grader did not send ended the program (`RunResult.signal`)."""
    CPU_TIMEOUT = "cpu_timeout"
    WALL_TIMEOUT = "wall_timeout"
    MEMORY = "memory"
    OUTPUT = "output"
    SYNTAX_ERROR = "syntax_error"
    """The program does not compile, which is found before any of it runs. Every job of the program ends this way."""
    SKIPPED = "skipped"
    """Not run: an earlier job timed out, or the program has used up its total budget."""
    INFRASTRUCTURE = "infrastructure"
    """An error of the grader; says nothing about the program."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of one job.

    `value` is a plain value built by the codec, never an object with the program's methods. Anything else becomes a
    `codec.Opaque` that names its type and equals nothing. `error` is a hint from inside the jail, checked for its shape
    and for `1 <= line <= number of lines`; only syntax errors and broken tests (`INFRASTRUCTURE`) are the grader's own
    findings. `peak_memory_bytes` is the largest resident size of the process.
    """

    end: End
    stdout: bytes = b""
    value: Any = None
    error: ProgramError | None = None
    exit_status: int | None = None
    signal: int | None = None
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_memory_bytes: int = 0

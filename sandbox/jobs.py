"""What a jail can be asked to do with one program, and the trusted facts that come back.

This is the line between running programs and judging them. A `Job` carries nothing that says what is right: expected
values stay with the judge (`compare.py`, `asserts.py`), which looks at the `RunResult` outside the jail. Every job of a
program runs in a process of its own, in which the program is executed afresh; jobs cannot see one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sandbox.verdict import ProgramError


@dataclass(frozen=True, slots=True)
class StdinJob:
    """Run the program as `__main__` with `stdin`; `RunResult.stdout` is what it wrote."""

    stdin: bytes


@dataclass(frozen=True, slots=True)
class CallJob:
    """Call `function` (a global of the program, or a method of an instance of its class `Solution`).

    `arguments` must be values that the codec knows; `RunResult.value` is what came back.
    """

    function: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ExpressionJob:
    """Execute the program, then `setup`, then evaluate `expression`, all in one namespace.

    `RunResult.value` is the expression's value. The source of both is visible to the program that is tested: never put
    an expected value in them. With an empty program this evaluates trusted source in a clean jail (the right-hand side
    of an assert that is no literal).
    """

    expression: str
    setup: str = ""


@dataclass(frozen=True, slots=True)
class CheckJob:
    """Call `check` of the test module `source` with the program's function as its only argument.

    The test module runs in a second jailed process that never executes the program. There the function is a stub: its
    arguments travel through the codec to the program's process, the value (or the exception, as an exception of the
    same class where the module knows it) travels back. The first line of `entry_point` names the functions that
    `source` may call, separated by commas, the first of which `check` gets; further lines are run in the program's
    namespace after the program. The run ends with `End.OK` if `check` returned, with `End.ASSERTION` if it raised an
    exception itself, and with `End.INFRASTRUCTURE` if the module is broken whatever the program does.
    """

    source: str
    entry_point: str


Job = StdinJob | CallJob | ExpressionJob | CheckJob


class End(StrEnum):
    """How a run ended. All but the text of an error are facts from outside the program's process."""

    OK = "ok"
    """Exit status 0; for all but stdin jobs: and the value (`check`'s return) arrived."""
    NO_VALUE = "no_value"
    """Exit status 0, but no value arrived (`os._exit(0)` inside the call), or one that the codec does not know."""
    ASSERTION = "assertion"
    """`check` found a wrong value."""
    EXCEPTION = "exception"
    """An exception left the program (`RunResult.error`), or a call job's function is missing."""
    EXIT_STATUS = "exit_status"
    """The program ended itself with a status other than 0 (`RunResult.exit_status`)."""
    SIGNAL = "signal"
    """A signal that we did not send ended it (`RunResult.signal`)."""
    CPU_TIMEOUT = "cpu_timeout"
    WALL_TIMEOUT = "wall_timeout"
    MEMORY = "memory"
    OUTPUT = "output"
    SYNTAX_ERROR = "syntax_error"
    """The program does not compile; found before any of it ran. Every job of the program ends so."""
    SKIPPED = "skipped"
    """Not run: an earlier job timed out, or the program's total budget was used up."""
    INFRASTRUCTURE = "infrastructure"
    """A fault of the grader; says nothing about the program."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What one job came to.

    `value` is a plain value built by the codec (never an object with methods of the program's), or a `codec.Opaque`
    that names the type of something else, which equals nothing. `error` is a hint from inside the jail, checked for
    shape and for `1 <= line <= number of lines`; only a syntax error's is ours, and that of a broken test, which ends
    with `INFRASTRUCTURE`. `peak_memory_bytes` is the process's
    greatest resident size.
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

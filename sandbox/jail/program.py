"""A program in its process: its namespace, its errors, and what the interpreter does at its end."""

from __future__ import annotations

import _sitebuiltins
import atexit
import builtins
import gc
import itertools
import linecache
import os
import resource
import sys
import types
from collections import deque
from collections.abc import Callable
from typing import Any

from sandbox import codec
from sandbox.jail import streams

SOLUTION = "<solution>"
EXIT_SYNTAX, EXIT_RECORDED, EXIT_FLUSH_FAILED = 87, 86, 120
RECORD, MILESTONES, FROM_PARTNER, TO_PARTNER = range(3, 7)
MAX_MESSAGE = 500
_MAX_RECORD = 4000

# Taken before any program runs: a program may replace what the modules hold.
_write, _exit = os.write, os._exit


class ProcessLimits:
    """The limits that hold in the process itself; the supervisor's clocks decide before those on time do."""

    def __init__(self, address_bytes: int, output_bytes: int) -> None:
        self.address = (address_bytes, address_bytes)
        self.file_size = (output_bytes, output_bytes)

    def apply(self, cpu_s: float) -> None:
        """Lay the limits on this process."""
        # Counted in ticks, this one fires early on a busy machine: leave a margin, and let the supervisor decide.
        cpu = int(cpu_s) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
        resource.setrlimit(resource.RLIMIT_FSIZE, self.file_size)
        resource.setrlimit(resource.RLIMIT_AS, self.address)


def keep_only(descriptors: tuple[int, ...], max_descriptors: int) -> None:
    """Make these the descriptors 0, 1, 2... and close all others. None of them is below the number of them."""
    deque(map(os.dup2, descriptors, range(len(descriptors))), 0)
    os.closerange(len(descriptors), max_descriptors)


def adapt_library() -> None:
    """What programs expect of Python beyond what a bare interpreter in a jail does."""
    for name in ("exit", "quit"):  # what `site` would have added
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    # The system call is refused, but `dbm` makes it for its own files, which the program may read and write anyway.
    refused = os.chmod
    os.chmod = lambda path, mode, **options: None if os.path.isfile(path) else refused(path, mode, **options)


def remember_source(source: str) -> None:
    """Let `inspect` and tracebacks show the program's lines."""
    lines = [f"{line}\n" for line in source.split("\n")]
    linecache.cache[SOLUTION] = (len(source), None, lines, SOLUTION)


def compile_program(source: str) -> types.CodeType:
    """The program's code, whatever encoding its text claims. Raises what `compile` raises, not only `SyntaxError`."""
    return compile(source, SOLUTION, "exec", dont_inherit=True)


def new_namespace(name: str) -> dict[str, Any]:
    """The globals of a fresh module `name`, which stands in `sys.modules`."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    module.__dict__["__file__"] = SOLUTION
    module.__dict__["__builtins__"] = builtins
    return module.__dict__


def run_main(code: types.CodeType) -> None:
    """Run the program as `__main__`, and exit."""
    namespace = new_namespace("__main__")
    status = 0
    try:
        exec(code, namespace)
    except SystemExit as error:
        status = exit_status(error)
    except BaseException as error:  # noqa: BLE001 - the border of the program
        leave_with_error(error)
    _finish(namespace, status)


def run_value(code: types.CodeType, compute: Callable[[dict[str, Any]], Any]) -> None:
    """Run the program, record the value that `compute` makes of its namespace, and exit."""
    namespace = new_namespace("solution")
    try:
        exec(code, namespace)
        record = b"V" + codec.encode(compute(namespace))
    except SystemExit as error:
        _exit(exit_status(error))
    except codec.CodecError:
        record = b"X"
    except BaseException as error:  # noqa: BLE001 - the border of the program
        leave_with_error(error)
    write_all(RECORD, record)
    _exit(0)


def find_function(namespace: dict[str, Any], name: str) -> Any:
    """The method `name` of an instance of the program's class `Solution`, else its global `name`."""
    solution = namespace.get("Solution")
    if isinstance(solution, type) and hasattr(solution, name):
        return getattr(solution(), name)
    if name not in namespace:
        raise NameError(f"name {name!r} is not defined")
    return namespace[name]


def exit_status(error: SystemExit) -> int:
    """The exit status that `error` asks for."""
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


def _finish(namespace: dict[str, Any], status: int) -> None:
    """What the interpreter does at its end, as far as a program can notice: threads, atexit, open files, streams."""
    try:
        threading = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()
        atexit._run_exitfuncs()
        # A stream of the program's own needs the program's names to flush, so it goes before they do.
        streams.flush(sys.__dict__.get("stdout"), sys.__dict__.get("stderr"))
        has_classes = any(isinstance(value, type) for value in namespace.values())
        namespace.clear()
        if has_classes:  # nothing else has destructors that garbage could still be waiting for
            gc.collect()
        streams.flush(sys.__dict__.get("__stdout__"), sys.__dict__.get("__stderr__"))
    except BaseException:  # noqa: BLE001 - as CPython: a failure at the end costs the exit status
        _exit(EXIT_FLUSH_FAILED)
    _exit(status)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`."""
    view = memoryview(data)
    while view:
        view = view[_write(descriptor, view) :]


def leave_with_error(error: BaseException) -> None:
    """Record an exception that left the program, and exit."""
    try:
        record = b"E" + record_of(error, *position_of(error))
    except BaseException:  # noqa: BLE001 - the exception's own methods are the program's
        record = b"E" + codec.encode((type.__getattribute__(type(error), "__name__"), "", None, None))
    write_all(RECORD, record)
    _exit(EXIT_RECORDED)


def record_of(error: BaseException, line: int | None, column: int | None) -> bytes:
    """An exception's type, message and place, encoded."""
    try:
        message = str.__str__(str(error))[:MAX_MESSAGE]
    except BaseException:  # noqa: BLE001 - the exception's own methods are the program's
        message = ""
    record = (type.__getattribute__(type(error), "__name__")[:80], message, line, column)
    return codec.encode(record, _MAX_RECORD)


def position_of(error: BaseException) -> tuple[int | None, int | None]:
    """Line (from 1) and column (from 0, in UTF-8 bytes) of the innermost frame that runs the program's own text."""
    traceback, innermost = error.__traceback__, None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == SOLUTION:
            innermost = traceback
        traceback = traceback.tb_next
    if innermost is None:
        return None, None
    positions = innermost.tb_frame.f_code.co_positions()
    line, _, column, _ = next(itertools.islice(positions, innermost.tb_lasti // 2, None), (None, None, None, None))
    return (line or innermost.tb_lineno), column


def syntax_record(error: BaseException) -> bytes:
    """The record of a compile error: line from 1, column from 0 in characters."""
    if isinstance(error, SyntaxError):
        column = max(0, error.offset - 1) if error.offset else None
        return codec.encode((type(error).__name__, str(error.msg)[:MAX_MESSAGE], error.lineno, column), _MAX_RECORD)
    return codec.encode((type(error).__name__, str(error)[:MAX_MESSAGE], None, None), _MAX_RECORD)


def raise_no_limits_on_integers() -> None:
    """Programs of contests print integers of any length; the CPU limit bounds what that may cost."""
    sys.set_int_max_str_digits(0)

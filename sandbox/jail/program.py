"""A program in its process: its streams, its namespace, its errors, and what the interpreter does at its end."""

from __future__ import annotations

import _sitebuiltins
import atexit
import builtins
import functools
import gc
import io
import itertools
import linecache
import os
import resource
import sys
import types
from collections import deque
from collections.abc import Callable
from typing import Any

from rltf.sandbox import codec

SOLUTION = "<solution>"
EXIT_SYNTAX, EXIT_RECORDED, EXIT_FLUSH_FAILED = 87, 86, 120
RECORD, MILESTONES, FROM_PARTNER, TO_PARTNER = range(3, 7)
MAX_MESSAGE = 500
_MAX_RECORD = 4000

# Saved before any program runs: a program may replace what the modules hold.
_write, _exit, _os_open = os.write, os._exit, os.open

_STREAMS = {
    f"{folder}{name}": number
    for number, names in enumerate((("stdin", "0"), ("stdout", "1"), ("stderr", "2")))
    for folder, name in (("/dev/", names[0]), ("/dev/fd/", names[1]), ("/proc/self/fd/", names[1]))
}
_ENCODED_STREAMS = {os.fsencode(name): number for name, number in _STREAMS.items()}


class ProcessLimits:
    """The limits that the process itself carries. The supervisor's clocks fire before the limit on CPU time does."""

    def __init__(self, address_bytes: int, output_bytes: int) -> None:
        self.address = (address_bytes, address_bytes)
        self.file_size = (output_bytes, output_bytes)

    def apply(self, cpu_s: float) -> None:
        """Apply the limits to this process."""
        # The kernel counts this one in ticks, so it fires early on a busy machine: leave a margin for the supervisor.
        cpu = int(cpu_s) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
        resource.setrlimit(resource.RLIMIT_FSIZE, self.file_size)
        resource.setrlimit(resource.RLIMIT_AS, self.address)


def keep_only(descriptors: tuple[int, ...], max_descriptors: int) -> None:
    """Turn these into descriptors 0, 1, 2... and close all others. None of them is below their count."""
    deque(map(os.dup2, descriptors, range(len(descriptors))), 0)
    os.closerange(len(descriptors), max_descriptors)


def prepare_streams() -> None:
    """Create the streams on descriptors 0 to 2, which every fork inherits, and make them available by name.

    The jail has no `/proc`, which `/dev/stdin` elsewhere points to. Opening such a name here gives the descriptor
    itself, as if it were a pipe.
    """
    for name, number, mode, errors in (
        ("stdin", 0, "r", "strict"),
        ("stdout", 1, "w", "strict"),
        ("stderr", 2, "w", "backslashreplace"),
    ):
        stream = open(number, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115 - stays open
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    io.open = builtins.open = _by_name(io.open)
    os.open = _by_name(os.open)


def _by_name(opens: Any) -> Any:
    keyword = "path" if opens is _os_open else "file"

    @functools.wraps(opens)
    def open(_: Any, *arguments: Any, **options: Any) -> Any:  # noqa: A001 - it replaces the builtin
        number = _stream_number(arguments[0] if arguments else options.get(keyword, -1))
        if number is None:
            return opens(*arguments, **options)
        duplicate = os.dup(number)
        options.pop(keyword, None)
        return duplicate if opens is _os_open else opens(duplicate, *arguments[1:], **options)

    # Bound already: like a builtin, it must not become a method of a class that has it as an attribute.
    return types.MethodType(open, None.__class__)


def _stream_number(file: Any) -> int | None:
    if isinstance(file, int):
        return None
    path = file if isinstance(file, str | bytes) else os.fspath(file)
    return _STREAMS.get(path) if isinstance(path, str) else _ENCODED_STREAMS.get(path)


def adapt_library() -> None:
    """Add what programs expect from Python and a bare interpreter in a jail does not do."""
    for name in ("exit", "quit"):  # `site` would have added them
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    # Contest programs print integers of any length; the CPU limit bounds the cost.
    sys.set_int_max_str_digits(0)
    # The system call is refused, but `dbm` makes it for its own files, which the program may read and write anyway.
    refused = os.chmod
    os.chmod = lambda path, mode, **options: None if os.path.isfile(path) else refused(path, mode, **options)


def remember_source(source: str) -> None:
    """Make the program's lines available to `inspect` and tracebacks."""
    lines = [f"{line}\n" for line in source.split("\n")]
    linecache.cache[SOLUTION] = (len(source), None, lines, SOLUTION)


def compile_program(source: str) -> types.CodeType:
    """The program's code, whatever encoding its text declares. `compile` may raise more than `SyntaxError`."""
    return compile(source, SOLUTION, "exec", dont_inherit=True)


def new_namespace(name: str) -> dict[str, Any]:
    """The globals of a new module `name`, which is added to `sys.modules`."""
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
    """Run the program, record the value that `compute` derives from its namespace, and exit."""
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
    """Shut down as the interpreter does, as far as a program can notice: threads, atexit, open files, streams."""
    try:
        threading = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()
        atexit._run_exitfuncs()
        # A stream that the program defines needs the program's names to flush, so flush it before they are cleared.
        _flush(sys.__dict__.get("stdout"), sys.__dict__.get("stderr"))
        has_classes = any(isinstance(value, type) for value in namespace.values())
        namespace.clear()
        if has_classes:  # only classes of the program can have destructors that still have to run
            gc.collect()
        _flush(sys.__dict__.get("__stdout__"), sys.__dict__.get("__stderr__"))
    except BaseException:  # noqa: BLE001 - as in CPython, a failure at the end changes the exit status
        _exit(EXIT_FLUSH_FAILED)
    _exit(status)


def _flush(*streams: Any) -> None:
    """Flush these streams. Skip those that the program has deleted, closed or detached."""
    for stream in streams:
        try:
            is_closed = stream is None or stream.closed
        except (AttributeError, ValueError):  # not a stream, or one without its buffer
            continue
        if not is_closed:
            stream.flush()


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`."""
    view = memoryview(data)
    while view:
        view = view[_write(descriptor, view) :]


def leave_with_error(error: BaseException) -> None:
    """Record an exception that left the program, and exit."""
    try:
        record = b"E" + record_of(error, *position_of(error))
    except BaseException:  # noqa: BLE001 - the exception's methods belong to the program
        record = b"E" + codec.encode((type.__getattribute__(type(error), "__name__"), "", None, None))
    write_all(RECORD, record)
    _exit(EXIT_RECORDED)


def record_of(error: BaseException, line: int | None, column: int | None) -> bytes:
    """An exception's type, message and position, encoded."""
    try:
        message = str.__str__(str(error))[:MAX_MESSAGE]
    except BaseException:  # noqa: BLE001 - the exception's methods belong to the program
        message = ""
    record = (type.__getattribute__(type(error), "__name__")[:80], message, line, column)
    return codec.encode(record, _MAX_RECORD)


def position_of(error: BaseException) -> tuple[int | None, int | None]:
    """Line (from 1) and column (from 0, in UTF-8 bytes) in the innermost frame that runs the program's own text."""
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

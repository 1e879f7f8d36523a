"""The process that runs one job of one program: from the fork to the exit.

`run_job` never returns. What it leaves behind: an exit status, the files on descriptors 1 to 3, and on the descriptor
`MILESTONES`, which is closed before the program starts, how far it came: nothing (set-up failed), `C` (compiling),
`S` and a record (a syntax error), `R` (the program was started). The process of a check job also talks to its
`checker` on two more descriptors.
"""

from __future__ import annotations

import _sitebuiltins
import atexit
import builtins
import ctypes
import gc
import itertools
import linecache
import os
import random
import resource
import struct
import sys
import types
from collections.abc import Callable
from typing import Any

from sandbox import codec
from sandbox.jail import confinement, streams
from sandbox.jail.request import CALL, CHECK, STDIN, Request, contents

SOLUTION = "<solution>"
EXIT_SYNTAX, EXIT_RECORDED, EXIT_FLUSH_FAILED = 87, 86, 120
RECORD, MILESTONES, _FROM_PARTNER, _TO_PARTNER = range(3, 7)
_LENGTH = struct.Struct("<I")
_MAX_MESSAGE = 500
_MAX_RECORD = 4000

# Taken before any program runs: a program may replace what the modules hold.
_read, _write, _pwrite, _exit, _close = os.read, os.write, os.pwrite, os._exit, os.close


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


def run_job(
    kind: int,
    payload: bytes,
    source: str,
    code: types.CodeType | None,
    program_filter: confinement.ProgramFilter,
    limits: ProcessLimits,
    cpu_s: float,
    seed: int,
) -> None:
    """Confine this process for good, compile the program if that is still to be done, run the job, exit."""
    random.seed(seed)
    limits.apply(cpu_s)
    program_filter.install()
    if code is None:
        _pwrite(MILESTONES, b"C", 0)
        try:
            code = compile_program(source)
            remember_source(source)
        except BaseException as error:  # noqa: BLE001 - whatever the compiler raises is about the program's text
            _pwrite(MILESTONES, b"S" + syntax_record(error), 0)
            _exit(EXIT_SYNTAX)
    task = _task(kind, payload)
    del payload
    _pwrite(MILESTONES, b"R", 0)
    _close(MILESTONES)
    task(code)


def _task(kind: int, payload: bytes) -> Callable[[types.CodeType], None]:
    """What to do with the code; everything of ours that can fail does so before the program starts."""
    if kind == STDIN:
        return _run_main
    if kind == CHECK:
        entry_point = payload.decode()
        return lambda code: _serve_calls(code, entry_point)
    first, second = codec.decode(payload, len(payload))
    if kind == CALL:
        return lambda code: _run_value(code, lambda namespace: _call(namespace, first, second))
    setup = compile(first, "<setup>", "exec", dont_inherit=True) if first else None
    expression = compile(second, "<expression>", "eval", dont_inherit=True)
    return lambda code: _run_value(code, lambda namespace: _evaluate(namespace, setup, expression))


def new_namespace(name: str) -> dict[str, Any]:
    """The globals of a fresh module `name`, which stands in `sys.modules`."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    module.__dict__["__file__"] = SOLUTION
    module.__dict__["__builtins__"] = builtins
    return module.__dict__


def _run_main(code: types.CodeType) -> None:
    namespace = new_namespace("__main__")
    status = 0
    try:
        exec(code, namespace)
    except SystemExit as error:
        status = _exit_status(error)
    except BaseException as error:  # noqa: BLE001 - the border of the program
        leave_with_error(error)
    _finish(namespace, status)


def _run_value(code: types.CodeType, compute: Callable[[dict[str, Any]], Any]) -> None:
    namespace = new_namespace("solution")
    try:
        exec(code, namespace)
        record = b"V" + codec.encode(compute(namespace))
    except SystemExit as error:
        _exit(_exit_status(error))
    except codec.CodecError:
        record = b"X"
    except BaseException as error:  # noqa: BLE001 - the border of the program
        leave_with_error(error)
    write_all(RECORD, record)
    _exit(0)


def _call(namespace: dict[str, Any], function: str, arguments: tuple[Any, ...]) -> Any:
    return find_function(namespace, function)(*arguments)


def find_function(namespace: dict[str, Any], name: str) -> Any:
    """The method `name` of an instance of the program's class `Solution`, else its global `name`."""
    solution = namespace.get("Solution")
    if isinstance(solution, type) and hasattr(solution, name):
        return getattr(solution(), name)
    if name not in namespace:
        raise NameError(f"name {name!r} is not defined")
    return namespace[name]


def _evaluate(namespace: dict[str, Any], setup: types.CodeType | None, expression: types.CodeType) -> Any:
    if setup is not None:
        exec(setup, namespace)
    return eval(expression, namespace)


def _serve_calls(code: types.CodeType, entry_point: str) -> None:
    """Execute the program, then answer the checker's calls until it hangs up (see `checker` and `jobs.CheckJob`)."""
    names, _, source = entry_point.partition("\n")
    definitions = compile(source, "<setup>", "exec", dont_inherit=True)
    namespace = new_namespace("solution")
    try:
        exec(code, namespace)
        exec(definitions, namespace)
        served = [_served(namespace, name) for name in names.split(",")]
        while (request := read_message()) is not None:
            answer = _answer(served, request)
            try:
                write_message(answer)
            except OSError:  # the checker has hung up in the middle
                break
    except SystemExit as error:
        _exit(_exit_status(error))
    except BaseException as error:  # noqa: BLE001 - the border of the program
        leave_with_error(error)
    _exit(0)


# A request is one of these with the place in the table of what is served, then the arguments by the codec. `NEXT` asks
# an iterator for its next values, `CALL_IN_PLACE` for the arguments as the call left them as well.
CALL_PLAIN, CALL_IN_PLACE, NEXT = range(3)
REQUEST = struct.Struct("<BI")
# A reply begins with one of these: a value; a function or an iterator, which stays here and is given a place in the
# table; an iterator's next values; or an exception.
VALUE, FUNCTION, ITERATOR, ITEMS, ERROR = b"V", b"F", b"I", b"N", b"E"


def _served(namespace: dict[str, Any], name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = find_function(namespace, name)
    is_method = namespace.get(name) is not function
    # As LeetCode does: each call on a `Solution` of its own.
    return (lambda *some, **named: find_function(namespace, name)(*some, **named)) if is_method else function


def _answer(served: list[Any], request: bytes) -> bytes:
    mode, place = REQUEST.unpack_from(request)
    positional, named = codec.decode(request[REQUEST.size :], len(request))
    try:
        if mode == NEXT:
            return ITEMS + _next_items(served, place, positional[0])
        value = served[place](*positional, **named)
        changed = (positional, named) if mode == CALL_IN_PLACE else None
        return _reply(value, changed, served)
    except Exception as error:  # noqa: BLE001 - the border of the program
        os.ftruncate(RECORD, 0)
        _pwrite(RECORD, b"E" + _record(error, *_position(error)), 0)
        return ERROR + _encode_raised(error)


def _reply(value: Any, changed: Any, served: list[Any]) -> bytes:
    kind = VALUE
    if hasattr(type(value), "__next__"):
        kind, value = ITERATOR, iter(value)
    elif callable(value) and not codec.is_known(value):
        kind = FUNCTION
    if kind != VALUE:
        served.append(value)
        value = len(served) - 1
    try:
        return kind + codec.encode((value, changed))
    except codec.CodecError:
        return VALUE + codec.encode((codec.Opaque("unknown"), None))


def _next_items(served: list[Any], place: int, count: int) -> bytes:
    """Up to `count` values of an iterator, and whether there are no more."""
    items: list[Any] = []
    try:
        items.extend(itertools.islice(served[place], count))
    except Exception as error:
        if not items:
            raise
        served[place] = _raising(error)
        return _encoded_items(items, is_done=False)
    return _encoded_items(items, is_done=len(items) < count)


def _encoded_items(items: list[Any], *, is_done: bool) -> bytes:
    try:
        return codec.encode((items, is_done))
    except codec.CodecError:
        return codec.encode(([codec.Opaque("unknown")] * len(items), is_done))


def _raising(error: Exception) -> Any:
    raise error
    yield


def _encode_raised(error: Exception) -> bytes:
    """The exception's classes, nearest first, each by module and name; its arguments where they are plain; its text."""
    classes = [(str(kind.__module__), str(kind.__name__)) for kind in type(error).__mro__]
    try:
        return codec.encode((classes, error.args, str(error)), strict=True)
    except Exception:  # noqa: BLE001 - the exception's own methods are the program's
        return codec.encode((classes, None, ""))


def read_message() -> bytes | None:
    """The next message from the other process of a check job, None where it hung up."""
    head = _read_exactly(_LENGTH.size)
    return _read_exactly(_LENGTH.unpack(head)[0]) if head is not None else None


def _read_exactly(size: int) -> bytes | None:
    if size > codec.MAX_BYTES + REQUEST.size:
        return None
    data = bytearray()
    while len(data) < size:
        part = _read(_FROM_PARTNER, min(size - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)


def write_message(data: bytes) -> None:
    """Send a message to the other process of a check job."""
    write_all(_TO_PARTNER, _LENGTH.pack(len(data)) + data)


def _exit_status(error: SystemExit) -> int:
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
        record = b"E" + _record(error, *_position(error))
    except BaseException:  # noqa: BLE001 - the exception's own methods are the program's
        record = b"E" + codec.encode((type.__getattribute__(type(error), "__name__"), "", None, None))
    write_all(RECORD, record)
    _exit(EXIT_RECORDED)


def _record(error: BaseException, line: int | None, column: int | None) -> bytes:
    try:
        message = str.__str__(str(error))[:_MAX_MESSAGE]
    except BaseException:  # noqa: BLE001 - the exception's own methods are the program's
        message = ""
    record = (type.__getattribute__(type(error), "__name__")[:80], message, line, column)
    return codec.encode(record, _MAX_RECORD)


def _position(error: BaseException) -> tuple[int | None, int | None]:
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
        return codec.encode((type(error).__name__, str(error.msg)[:_MAX_MESSAGE], error.lineno, column), _MAX_RECORD)
    return codec.encode((type(error).__name__, str(error)[:_MAX_MESSAGE], None, None), _MAX_RECORD)


def raise_no_limits_on_integers() -> None:
    """Programs of contests print integers of any length; the CPU limit bounds what that may cost."""
    sys.set_int_max_str_digits(0)


_WARM_UPS = 30


def warm_up() -> None:
    """Do now what every program's process would do first, so that no fork pays for it.

    CPython writes to a function's code until it has run a few times, and every page written to after a fork is copied.
    """
    exec(
        compile_program(
            "def f(x):\n    return [y for y in x if y]\nf('a')\ntry:\n    1/0\nexcept Exception as e: pass"
        ),
        {},
    )
    with open(os.memfd_create("request"), "r+b", buffering=0) as file:
        file.write(b"".join(contents("pass", [(STDIN, b"")], 0)))
        for _ in range(_WARM_UPS):
            asked = Request(file.fileno())
            compile_program(asked.source())
            asked.kind(0), asked.payload(0)
            codec.decode(codec.encode([("a", 1)]))
    ctypes.get_errno()

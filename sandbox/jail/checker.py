"""The second process of a check job. It runs the test function, and never a line of the program.

The functions under test live in the program's process. Calls go there and values come back through pipes, encoded by
the codec. So the program can answer what it likes, but it cannot touch the assertions or see what they compare with. If
a call returns a function or an iterator, that stays in the program's process too, and is called from here.
"""

from __future__ import annotations

import _thread
import builtins
import os
import sys
import warnings
from collections.abc import Iterator
from types import CodeType
from typing import Any, NoReturn

from rltf.sandbox import codec
from rltf.sandbox.jail import calls, confinement, program

# What the record says: `check` returned; it raised an exception of its own; it let through what the program raised; the
# program's process is gone; the arguments of a call, which the program had influenced, could not be sent; or the test
# itself is broken, which says nothing about the program.
PASSED, WRONG, RAISED, GONE, UNSENDABLE, BROKEN_TEST = b"P", b"A", b"R", b"D", b"X", b"F"
# Nothing found yet, but the program has answered: from here on, what the test needs depends on the answers.
ANSWERED = b"."
_MAX_ITEMS = 64
# Iteration would mistake these for the end, and `all(map(f, ...))` for success.
_ITERATION = (StopIteration, StopAsyncIteration)


class _Link:
    """The connection to the program's process. `raised` is the last exception that the program raised."""

    def __init__(self) -> None:
        self.raised: Exception | None = None
        self.has_answered = False
        self._lock = _thread.allocate_lock()

    def call(self, place: int, mode: int, positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[bytes, Any]:
        """Make a call and return the kind of the reply and its content."""
        try:
            arguments = codec.encode((positional, named), strict=True)
        except codec.UnknownTypeError as error:
            is_programs = error.kind in (codec.Opaque, codec.OpaqueCallable, _Function)
            _leave(UNSENDABLE if is_programs and self.has_answered else BROKEN_TEST)
        except codec.CodecError:
            _leave(UNSENDABLE if self.has_answered else BROKEN_TEST)
        try:
            with self._lock:  # a test may call from several threads
                calls.write_message(calls.REQUEST.pack(mode, place) + arguments)
                reply = calls.read_message()
        except BrokenPipeError:
            reply = None
        if reply is None:
            _leave(GONE)
        if not self.has_answered:
            self.has_answered = True
            os.pwrite(program.RECORD, ANSWERED, 0)
        try:
            kind, content = reply[:1], codec.decode(reply[1:])
            if kind != calls.ERROR:
                value, rest = content
                return kind, (value, rest)
            self.raised = _exception(*content)
        except Exception:  # noqa: BLE001 - the program made these bytes itself: it has left the protocol
            _leave(GONE)
        raise self.raised

    def iterate(self, place: int) -> Iterator[Any]:
        """The values of an iterator in the program's process, fetched a few at a time."""
        count = 1
        while True:
            _, (items, is_done) = self.call(place, calls.NEXT, (count,), {})
            if not isinstance(items, list):
                _leave(GONE)
            yield from items
            if is_done:
                return
            count = min(2 * count, _MAX_ITEMS)


class _Function:
    """A function of the program, as the test function sees it."""

    def __init__(self, link: _Link, place: int, name: str) -> None:
        self._link = link
        self._place = place
        self.__name__ = self.__qualname__ = name

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return self._ask(calls.CALL_PLAIN, positional, named)

    def in_place(self, *positional: Any, **named: Any) -> Any:
        """A call that leaves mutable arguments as the function changed them (`problems.checks` marks these calls)."""
        return self._ask(calls.CALL_IN_PLACE, positional, named)

    def _ask(self, mode: int, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
        kind, (value, changed) = self._link.call(self._place, mode, positional, named)
        if mode == calls.CALL_IN_PLACE and isinstance(changed, tuple) and len(changed) == 2:
            _mirror_all(positional, named, *changed)
        if kind == calls.FUNCTION and isinstance(value, int):
            return _Function(self._link, value, "function")
        if kind == calls.ITERATOR and isinstance(value, int):
            return self._link.iterate(value)
        return value


def _mirror_all(positional: tuple[Any, ...], named: dict[str, Any], left: Any, left_named: Any) -> None:
    if isinstance(left, tuple) and isinstance(left_named, dict):
        for own, changed in zip(positional, left, strict=False):
            _mirror(own, changed)
        for name, own in named.items():
            _mirror(own, left_named.get(name))


def _mirror(own: Any, changed: Any) -> None:
    """Copy into a mutable argument what the function left in it."""
    if type(own) is not type(changed):
        return
    if isinstance(own, list | bytearray):
        own[:] = changed
    elif isinstance(own, dict):
        own.clear()
        dict.update(own, changed)
    elif isinstance(own, set):
        own.clear()
        own.update(changed)


def _exception(classes: Any, arguments: Any, text: Any) -> Exception:
    """An exception of the nearest class that this process knows, with the same text."""
    known = [kind for module, name in classes if (kind := _known_exception(module, name)) is not None]
    if not known or issubclass(known[0], _ITERATION):
        return RuntimeError(f"{classes[0][1]}: {text}")
    kind = known[0]
    if kind.__name__ != classes[0][1]:  # a class that the program defines keeps its name
        kind = type(classes[0][1], (kind,), {})
    if isinstance(arguments, tuple):
        try:
            made = kind(*arguments)
        except Exception:  # noqa: BLE001 - its constructor takes other arguments than the exception stored
            made = kind.__new__(kind)
            made.args = arguments
        if str(made) == text:
            return made
    made = kind.__new__(kind, text)
    made.args = (text,)
    return made


def _known_exception(module: str, name: str) -> type[Exception] | None:
    """An exception class of a module that is already loaded: a program must not cause an import by naming it."""
    is_standard = module == "builtins" or module.partition(".")[0] in sys.stdlib_module_names
    kind = vars(sys.modules[module]).get(name) if is_standard and module in sys.modules else None
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None


def _leave(record: bytes) -> NoReturn:
    """Write the record and end this process; nothing in the test function can stop that."""
    os.pwrite(program.RECORD, record, 0)
    os._exit(0)


def run_check(
    entry_point: str,
    source: bytes,
    program_filter: confinement.ProgramFilter,
    limits: program.ProcessLimits,
    cpu_s: float,
) -> NoReturn:
    """Confine this process, call `check` of `source` with the first name of `entry_point`, leave a record, and exit."""
    limits.apply(cpu_s)
    program_filter.install()
    link = _Link()
    names = entry_point.partition("\n")[0].split(",")
    functions = [_Function(link, place, name) for place, name in enumerate(names)]
    namespace = program.new_namespace("check")
    namespace.update(zip(names, functions, strict=True))
    # `f(5).__eq__(25)` may give `NotImplemented`, which must not count as true.
    warnings.filterwarnings("error", "NotImplemented should not be used", DeprecationWarning)
    try:
        code = compile(source, "<check>", "exec", dont_inherit=True)
        exec(code, namespace)
        namespace["check"](functions[0])
        record = PASSED if link.has_answered else BROKEN_TEST
    except SystemExit as error:
        record = WRONG if error.code else PASSED if link.has_answered else BROKEN_TEST
    except Exception as error:  # noqa: BLE001 - a wrong value can make the test function fail in any way
        record = RAISED if error is link.raised else WRONG
        if not link.has_answered or _is_undefined(error):
            record = BROKEN_TEST
    _leave(record)


def _is_undefined(error: Exception) -> bool:
    """Whether the test reads a name that it never assigns: it then fails whatever the program answers."""
    if not isinstance(error, NameError) or isinstance(error, UnboundLocalError) or error.__traceback__ is None:
        return False
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code: CodeType = traceback.tb_frame.f_code
    own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars, *vars(builtins)}
    return code.co_filename == "<check>" and error.name not in own

"""The program's side of a check: answering calls that arrive on a pipe (see `checker`)."""

from __future__ import annotations

import itertools
import os
import struct
import types
from collections.abc import Callable
from typing import Any

from rltf.sandbox import codec
from rltf.sandbox.jail import program

_LENGTH = struct.Struct("<I")
# Saved before any program runs: a program may replace what the modules hold.
_read, _pwrite, _exit = os.read, os.pwrite, os._exit


def serve(code: types.CodeType, entry_point: str) -> None:
    """Execute the program, then answer the checker's calls until it hangs up (see `jobs.CheckJob`)."""
    names, _, source = entry_point.partition("\n")
    definitions = compile(source, "<setup>", "exec", dont_inherit=True)
    namespace = program.new_namespace("solution")
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
        _exit(program.exit_status(error))
    except BaseException as error:  # noqa: BLE001 - the border of the program
        program.leave_with_error(error)
    _exit(0)


# A request is one of these, then the index into the table of what is served, then the encoded arguments. `NEXT` asks an
# iterator for its next values. `CALL_IN_PLACE` also asks for the arguments as the call left them.
CALL_PLAIN, CALL_IN_PLACE, NEXT = range(3)
REQUEST = struct.Struct("<BI")
# A reply begins with one of these: a value; a function or an iterator, which stays here and gets an entry in the table;
# an iterator's next values; or an exception.
VALUE, FUNCTION, ITERATOR, ITEMS, ERROR = b"V", b"F", b"I", b"N", b"E"


def _served(namespace: dict[str, Any], name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = program.find_function(namespace, name)
    is_method = namespace.get(name) is not function
    # As on LeetCode, each call gets a `Solution` of its own.
    return (lambda *some, **named: program.find_function(namespace, name)(*some, **named)) if is_method else function


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
        os.ftruncate(program.RECORD, 0)
        _pwrite(program.RECORD, b"E" + program.record_of(error, *program.position_of(error)), 0)
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
    """Up to `count` values from an iterator, and whether it is exhausted."""
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
    """The exception's classes by module and name, nearest first; its arguments if they are plain data; its text."""
    classes = [(str(kind.__module__), str(kind.__name__)) for kind in type(error).__mro__]
    try:
        arguments = error.args
        if isinstance(error, OSError) and error.filename is not None:  # the constructor's third argument
            arguments = (*arguments[:2], error.filename)
        return codec.encode((classes, arguments, str(error)), strict=True)
    except Exception:  # noqa: BLE001 - the exception's methods belong to the program
        return codec.encode((classes, None, ""))


def read_message() -> bytes | None:
    """The next message from the other process of a check job; None if it hung up."""
    head = _read_exactly(_LENGTH.size)
    return _read_exactly(_LENGTH.unpack(head)[0]) if head is not None else None


def _read_exactly(size: int) -> bytes | None:
    if size > codec.MAX_BYTES + REQUEST.size:
        return None
    data = bytearray()
    while len(data) < size:
        part = _read(program.FROM_PARTNER, min(size - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)


def write_message(data: bytes) -> None:
    """Send a message to the other process of a check job."""
    program.write_all(program.TO_PARTNER, _LENGTH.pack(len(data)) + data)

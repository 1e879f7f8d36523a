"""Standard streams as a program expects them, also under the names that Linux gives them.

The jail has no `/proc`, to which `/dev/stdin` leads elsewhere, so opening such a name is answered here: with the
descriptor itself, as if it were a pipe.
"""

from __future__ import annotations

import builtins
import functools
import io
import os
import sys
import types
from typing import Any

_NUMBERS = {
    f"{folder}{name}": number
    for number, names in enumerate((("stdin", "0"), ("stdout", "1"), ("stderr", "2")))
    for folder, name in (("/dev/", names[0]), ("/dev/fd/", names[1]), ("/proc/self/fd/", names[1]))
}
_ENCODED = {os.fsencode(name): number for name, number in _NUMBERS.items()}


def prepare() -> None:
    """Make the streams on descriptors 0 to 2, once, to be inherited by every fork; answer to their names."""
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
    def open(_: Any, *arguments: Any, **options: Any) -> Any:  # noqa: A001 - it stands for the builtin
        number = _number(arguments[0] if arguments else options.get(keyword, -1))
        if number is None:
            return opens(*arguments, **options)
        duplicate = os.dup(number)
        options.pop(keyword, None)
        return duplicate if opens is _os_open else opens(duplicate, *arguments[1:], **options)

    # Bound already, so that like a builtin it is no method of a class that has it as an attribute.
    return types.MethodType(open, None.__class__)


_os_open = os.open


def _number(file: Any) -> int | None:
    if isinstance(file, int):
        return None
    path = file if isinstance(file, str | bytes) else os.fspath(file)
    return _NUMBERS.get(path) if isinstance(path, str) else _ENCODED.get(path)


def flush(*streams: Any) -> None:
    """Flush what can be flushed: streams that a program deleted, closed or detached are passed over."""
    for stream in streams:
        try:
            is_closed = stream is None or stream.closed
        except (AttributeError, ValueError):  # no stream at all, or one without its buffer
            continue
        if not is_closed:
            stream.flush()

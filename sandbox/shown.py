"""What came out of a test, as short text."""

from __future__ import annotations

from reprlib import Repr
from typing import Any

from rltf.sandbox.jobs import Job, RunResult, StdinJob

MAX_SHOWN = 600
"""Most characters of an output or a value."""
_REST = " ..."
_MAX_BITS = 4096  # converting larger integers to digits takes long, and Python refuses the largest


class _Short(Repr):
    """Python's `repr` of a value from the codec, at a cost that does not grow with the value's size."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = self.maxother = MAX_SHOWN
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = self.maxdict = 100

    def repr_int(self, number: int, level: int) -> str:
        if number.bit_length() > _MAX_BITS:
            return f"<an integer of {number.bit_length()} bits>"
        return super().repr_int(number, level)

    def repr_bytes(self, data: bytes | bytearray, level: int) -> str:
        return repr(data[:MAX_SHOWN])

    repr_bytearray = repr_bytes


_short = _Short()


def short_repr(value: Any) -> str:
    """Python's `repr` of a value from the codec or of a test, at a bounded cost."""
    return _short.repr(value)


def shown(job: Job, result: RunResult) -> str:
    """The standard output of a stdin job, or the value of any other job, cut off after `MAX_SHOWN` characters."""
    if isinstance(job, StdinJob):  # UTF-8 takes at most four bytes for a character
        text = result.stdout[: 4 * MAX_SHOWN + 4].decode("utf-8", "replace")
    else:
        text = short_repr(result.value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - len(_REST)] + _REST

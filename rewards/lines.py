"""From lines of a program to tokens of its completion."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

# What ends a line for Python's compiler. `str.splitlines` knows more (form feeds, U+2028...), which would shift lines.
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)?")


def line_starts(program: str) -> list[int]:
    """Where each line begins (offsets in `program`), without an empty one behind the last line end."""
    return [match.start() for match in _LINE.finditer(program) if match[0]]


def line_characters(program: str) -> NDArray[np.int64]:
    """First and last non-blank character of each line (offsets in `program`, both included), int64 [L, 2].

    Row 0 is line 1. A blank line has its last character before its first: (0, -1).
    """
    bounds = []
    for match in _LINE.finditer(program):
        text = match[0].rstrip()
        blank = len(text) - len(text.lstrip())
        bounds.append((match.start() + blank, match.start() + len(text) - 1) if text else (0, -1))
    return np.array(bounds, dtype=np.int64)


def token_range(char_spans: NDArray[np.int32], first: int, last: int) -> tuple[int, int] | None:
    """The tokens (both ends included) from the one that holds character `first` to the one that holds `last`.

    `char_spans` [T, 2] as `Sample` has them. None where no token holds any of these characters, or there are none.
    """
    if first > last:
        return None
    first_token = int(np.searchsorted(char_spans[:, 1], first, side="right"))
    last_token = int(np.searchsorted(char_spans[:, 0], last, side="right")) - 1
    return (first_token, last_token) if first_token <= last_token else None

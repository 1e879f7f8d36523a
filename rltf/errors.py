"""The error that every program of this project reports in one message, without a traceback, with exit status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can fix: a setting, a file, a model, a machine.

    The message is complete as it stands: it names the field or the file and line, says what was expected, and how to
    fix it.
    """


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean NAME?` with the most similar of `names`, or nothing."""
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""

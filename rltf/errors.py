"""The error that every program of this project reports in one message, without a traceback, with exit status 2."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can fix: a setting, a file, a model, a machine.

    The message is complete as it stands: it names the field or the file and line, says what was expected, and how to
    fix it.
    """

"""What a failure of the ring is to the person who started it: one message, and an exit status."""

from __future__ import annotations

import errno
import re

from ray.exceptions import RayActorError, RayTaskError

from errors import UserError

UNUSABLE_INPUT = 2
FAILED = 1

# The last line of a traceback, with what follows it: nothing after it looks like one.
_RAISED = re.compile(
    r"^(?:\w+\.)*(?P<name>\w+(?:Error|Exception)): (?P<text>(?:(?!^(?:\w+\.)*\w+(?:Error|Exception): ).)*)\Z",
    re.MULTILINE | re.DOTALL,
)


def user_message(error: BaseException) -> tuple[str, int]:
    """The innermost cause of `error` in words, and the exit status: 2 where settings or data are to be mended."""
    cause = _innermost(error)
    name, text = type(cause).__name__, str(cause)
    if isinstance(cause, RayActorError) and cause.actor_init_failed and (raised := _RAISED.search(text)):
        name, text = raised["name"], raised["text"].strip()
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full: {cause.filename or 'a file'} cannot be written. Make room, then go on with --resume",
            FAILED,
        )
    if name == UserError.__name__:  # by name: a constructor of an actor that failed leaves text alone
        return text, UNUSABLE_INPUT
    return f"{name}: {text}" if text else name, FAILED


def _innermost(error: BaseException) -> BaseException:
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
            error = error.cause
        else:
            return error

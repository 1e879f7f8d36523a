"""Asking a server again that has too much to do, is starting, or cannot be reached, for a limited time."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from openai import APIConnectionError, APIStatusError, OpenAIError

from rltf.errors import UserError

T = TypeVar("T")
logger = logging.getLogger(__name__)

MAX_WAIT_S = 600.0
_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 60.0
_SAY_EVERY_S = 30.0
_TEMPORARY = (408, 409, 425, 429)


@dataclass(slots=True)
class Patience:
    """Repeats requests to the server at `url` that may succeed later. All requests of an evaluation share it.

    A request is repeated for `max_wait_s` after its first failure. The pauses are those that the server asks for, or
    grow up to a minute. Once a request has failed for good, no other is repeated.
    """

    url: str
    max_wait_s: float = MAX_WAIT_S
    _num_waiting: int = 0
    _said_at: float = -_SAY_EVERY_S
    _has_given_up: bool = False

    async def ask(
        self, request: Callable[[], Awaitable[T]], is_expected: Callable[[OpenAIError], bool] = lambda _: False
    ) -> T:
        """The answer to `request`.

        Raises UserError if it fails for too long, and whatever else the client raises. An error that `is_expected` says
        nothing about the server: other requests are still repeated.
        """
        began, num_tries = 0.0, 0
        while True:
            num_tries += 1
            try:
                return await request()
            except (APIConnectionError, APIStatusError) as error:
                if is_expected(error):
                    raise
                self._has_given_up |= not _is_temporary(error)
                if self._has_given_up:
                    raise
                now = time.monotonic()
                began = began or now
                pause = pause_s(error, num_tries)
                if now - began + pause > self.max_wait_s:
                    self._has_given_up = True
                    raise UserError(
                        f"{self.url}: {in_words(error)}; gave up after {now - began:.0f} s (tries: {num_tries}), "
                        f"because the next try would be {pause:.0f} s later, and the limit is {self.max_wait_s:g} s"
                    ) from error
                await self._pause(pause, error)

    async def _pause(self, seconds: float, error: APIConnectionError | APIStatusError) -> None:
        self._num_waiting += 1
        if time.monotonic() - self._said_at >= _SAY_EVERY_S:
            self._said_at = time.monotonic()
            logger.warning(
                "%s: %s; asking again in %.0f s (%d requests wait, each for at most %.0f s)",
                *(self.url, in_words(error), seconds, self._num_waiting, self.max_wait_s),
            )
        try:
            await asyncio.sleep(seconds)
        finally:
            self._num_waiting -= 1


def pause_s(error: APIConnectionError | APIStatusError, num_tries: int) -> float:
    """The seconds before the next try: what the server asks for, else twice as long each time, less up to a quarter."""
    if isinstance(error, APIStatusError) and (asked := _retry_after_s(error.response.headers.get("retry-after"))):
        return asked
    pause: float = min(_FIRST_PAUSE_S * 2 ** min(num_tries - 1, 16), _MAX_PAUSE_S)
    return pause * random.uniform(0.75, 1)


def _retry_after_s(header: str | None) -> float | None:
    """The seconds in a Retry-After header, which has a number or a date; None if it has neither."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _is_temporary(error: APIConnectionError | APIStatusError) -> bool:
    """Whether the same request may succeed later."""
    return not isinstance(error, APIStatusError) or error.status_code in _TEMPORARY or error.status_code >= 500


def in_words(error: OpenAIError) -> str:
    """Why a request failed."""
    if isinstance(error, APIStatusError):
        return f"status {error.status_code}: {error.response.text[:300]}"
    return str(error.__cause__ or error)

"""Waiting for other processes, never without a deadline, and never without it being known who waits for what."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class StallError(TimeoutError):
    """Something did not answer in time; the message says what, and for how long it was waited for."""


# What this process waits for at this moment, each with the time at which it began to. A process has one event loop.
_waits: dict[int, tuple[str, float]] = {}


async def answer(reply: Awaitable[T], timeout_s: float, what: str) -> T:
    """The value of `reply` (an object reference or a coroutine).

    Raises:
        StallError: it took longer than `timeout_s`.
    """
    key = id(reply)
    _waits[key] = (what, time.monotonic())
    try:
        # Not `wait_for`: in Python 3.11 it loses a cancellation that meets the answer.
        async with asyncio.timeout(timeout_s) as deadline:
            return await reply
    except TimeoutError as error:
        if not deadline.expired():
            raise  # the other side's own
        raise StallError(f"waited {timeout_s:g} s for {what}, in vain") from error
    finally:
        del _waits[key]


async def answer_in_turn(reply: Awaitable[T], timeout_s: float, what: str, moves: Callable[[], object]) -> T:
    """The value of `reply`, which comes after others of its kind: waited for while these come.

    Raises:
        StallError: `moves()` was the same for `timeout_s`.
    """
    future = asyncio.ensure_future(reply)
    try:
        while True:
            seen = moves()
            try:
                return await answer(asyncio.shield(future), timeout_s, what)
            except StallError:
                if future.done():
                    return await future  # it came at this very moment, or the error is its own
                if moves() == seen:
                    raise
    finally:
        future.cancel()


def outstanding() -> str:
    """Who is waited for, since when: one line for each thing, the longest wait first."""
    now = time.monotonic()
    since: dict[str, list[float]] = {}
    for what, began in _waits.values():
        since.setdefault(what, []).append(now - began)
    lines = [
        f"{what}: {max(ages):.0f} s" + (f" (the longest of {len(ages)})" if len(ages) > 1 else "")
        for what, ages in sorted(since.items(), key=lambda pair: -max(pair[1]))
    ]
    return "\n".join(lines) or "nobody is waited for"


class Changes:
    """Wakes everyone who waits, whenever something changed. Check, then wait: nothing comes between the two.

    while not condition():
        await changes.wait()
    """

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self.num_notified = 0

    def notify(self) -> None:
        """Wake all that wait now."""
        self.num_notified += 1
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """Until the next `notify`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

"""Waiting for actors, restarting those that die, and saying what happened: for every part of the program that uses Ray.

Invariants: no wait is without a deadline, and it is known at any moment who waits for what; an actor that dies is
replaced, until it dies again and again without getting anything done.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayError, RayTaskError

from rltf.errors import UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_DEATHS_IN_A_ROW = 3
PINGS_PER_TIMEOUT = 6
EXIT_FAILED = 1
EXIT_UNUSABLE_INPUT = 2
# What happens to the disk below a run, and what to do about it.
_DISK_FAULTS = {
    errno.ENOSPC: ("the disk is full: ", "Make room"),
    errno.EDQUOT: ("the quota of the disk is used up: ", "Make room"),
    errno.EROFS: ("the disk is read-only: ", "Mount it for writing (the kernel does this to a disk that fails)"),
    errno.EIO: ("the disk failed: ", "Check it, or move the run's folder to another one"),
}
_NODE_DIED = "its node has died"  # in Ray's text, which is the only place where it gives the cause
# The last line of a traceback and the lines after it, none of which looks like another exception.
_RAISED = re.compile(
    r"^(?:\w+\.)*(?P<name>\w+(?:Error|Exception)): (?P<text>(?:(?!^(?:\w+\.)*\w+(?:Error|Exception): ).)*)\Z",
    re.MULTILINE | re.DOTALL,
)


class StallError(TimeoutError):
    """Something did not answer in time; the message says what, and how long we waited."""


class GaveUpError(RuntimeError):
    """An actor died again and again without getting anything done."""


@dataclass(slots=True)
class Deaths:
    """Counts the deaths of `who` since it last got something done, and gives up after too many."""

    who: str
    _in_a_row: int = 0

    def note(self, cause: BaseException) -> None:
        """It died of `cause`. Raises GaveUpError if that happened too often in a row."""
        self._in_a_row += not is_blameless(cause)
        if self._in_a_row > MAX_DEATHS_IN_A_ROW:
            raise GaveUpError(
                f"{self.who} died {self._in_a_row} times without getting anything done; the last time: "
                f"{in_words(cause)}"
            ) from cause

    def progressed(self) -> None:
        """It got something done: earlier deaths no longer count."""
        self._in_a_row = 0


@dataclass(slots=True)
class Supervised(Generic[T]):
    """A place for one actor, and the actor that is in it now.

    `spawn(life)` starts an actor, the first (life 0) or the one that takes a dead one's place, and returns its handle
    at once. `name` is what messages call it.

    Usage:
        place = Supervised("generator 0", spawn)
        await place.start(lambda actor: answer(actor.ping.remote(), 60, "..."))
        try:
            await place.actor.work.remote()
            place.progressed()
        except RayActorError as error:
            place.restart(error)    # raises GaveUpError if it died too often
    """

    name: str
    spawn: Callable[[int], T]
    end: Callable[[Any], None] = ray.kill
    num_restarts: int = 0
    actor: T = field(init=False)
    _deaths: Deaths = field(init=False)

    def __post_init__(self) -> None:
        self._deaths = Deaths(self.name)
        self.actor = self.spawn(0)

    async def start(self, ready: Callable[[T], Awaitable[object]]) -> None:
        """Wait until `ready` of the actor returns; actors that die or stall meanwhile are replaced.

        Raises what the actor's constructor raises, whatever else `ready` raises, and GaveUpError.
        """
        while True:
            try:
                await ready(self.actor)
                return
            except (RayActorError, StallError) as error:
                if isinstance(error, RayActorError) and error.actor_init_failed:
                    raise  # it would fail again
                self.restart(error)

    def progressed(self) -> None:
        """The actor got something done: its deaths no longer count against it."""
        self._deaths.progressed()

    def restart(self, cause: BaseException) -> None:
        """End the actor, which `cause` shows to be gone, and start another. Raises GaveUpError if it died too often."""
        self.end(self.actor)
        self._deaths.note(cause)
        self.num_restarts += 1
        self.actor = self.spawn(self.num_restarts)


@dataclass(frozen=True, slots=True)
class Watched:
    """An actor that should be alive: `ping` is a call that it answers even while it works, `end` kills its process."""

    name: str
    ping: Callable[[], Awaitable[object]]
    end: Callable[[], None]


async def end_frozen(watched: Callable[[], Iterable[Watched]], timeout_s: float) -> None:
    """Kill whichever actor does not answer for `timeout_s`, until cancelled.

    Whoever depends on the actor then sees that it died, so a process that hangs is treated like one that crashed.
    """
    pings: dict[str, asyncio.Task[None]] = {}
    async with asyncio.TaskGroup() as group:
        while True:
            for actor in watched():
                if actor.name not in pings or pings[actor.name].done():
                    pings[actor.name] = group.create_task(_end_if_frozen(actor, timeout_s))
            await asyncio.sleep(timeout_s / PINGS_PER_TIMEOUT)


async def _end_if_frozen(actor: Watched, timeout_s: float) -> None:
    began = time.time()
    for _ in range(2):  # if this process was frozen itself, the answer to the first ping is only late
        try:
            await answer(actor.ping(), timeout_s / 2, f"a sign of life from {actor.name}")
            return
        except StallError:
            continue
        except RayError:
            return  # it is dead, and the code that depends on it notices
    since = time.strftime("%H:%M:%S", time.localtime(began))
    logger.warning(
        "%s is frozen: it has not answered for %g s, since %s. Killing its process", actor.name, timeout_s, since
    )
    actor.end()


def is_blameless(cause: BaseException) -> bool:
    """Whether the actor's node died or cannot be reached, which says nothing against the actor's next life.

    Until Ray notices that a node died, about 20 seconds, it may start new actors there, which die with it.
    """
    return isinstance(cause, ActorUnavailableError) or (isinstance(cause, ActorDiedError) and _NODE_DIED in str(cause))


def in_words(cause: BaseException) -> str:
    """Why an actor is gone."""
    if isinstance(cause, ActorUnavailableError):
        return "it cannot be reached"
    if isinstance(cause, ActorDiedError):
        return "its node died" if is_blameless(cause) else "its process died: " + first_line(cause)
    return first_line(cause) or type(cause).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's text that says something; empty if there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def user_message(error: BaseException) -> tuple[str, int]:
    """The innermost cause of `error` in words, and the exit status: 2 if the user can fix settings or data."""
    cause = _innermost(error)
    name, text = type(cause).__name__, str(cause)
    if isinstance(cause, RayActorError) and cause.actor_init_failed and (raised := _RAISED.search(text)):
        name, text = raised["name"], raised["text"].strip()
    if isinstance(cause, OSError) and cause.errno in _DISK_FAULTS:
        fault, cure = _DISK_FAULTS[cause.errno]
        what = cause.filename or "a file"
        return f"{fault}{what} cannot be written. {cure}, then continue with --resume", EXIT_FAILED
    if name == UserError.__name__:  # by name: an actor's constructor that failed leaves only text
        return text, EXIT_UNUSABLE_INPUT
    return f"{name}: {text}" if text else name, EXIT_FAILED


def _innermost(error: BaseException) -> BaseException:
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
            error = error.cause
        else:
            return error


# What this process waits for now, and since when. A process has one event loop.
_waits: dict[int, tuple[str, float]] = {}


async def answer(reply: Awaitable[T], timeout_s: float, what: str) -> T:
    """The value of `reply`, an object reference or a coroutine. Raises StallError after `timeout_s`."""
    key = id(reply)
    _waits[key] = (what, time.monotonic())
    try:
        # Not `wait_for`: in Python 3.11 it loses a cancellation that coincides with the answer.
        async with asyncio.timeout(timeout_s) as deadline:
            return await reply
    except TimeoutError as error:
        if not deadline.expired():
            raise  # the other side's own
        raise StallError(f"timed out after {timeout_s:g} s waiting for {what}") from error
    finally:
        del _waits[key]


async def answer_in_turn(reply: Awaitable[T], timeout_s: float, what: str, moves: Callable[[], object]) -> T:
    """The value of `reply`, which comes after others of its kind: keep waiting as long as those come.

    Raises StallError if `moves()` stays the same for `timeout_s`.
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
    """What this process waits for and how long it has: one line for each thing, the longest wait first."""
    now = time.monotonic()
    since: dict[str, list[float]] = {}
    for what, began in _waits.values():
        since.setdefault(what, []).append(now - began)
    lines = [
        f"{what}: {max(ages):.0f} s" + (f" (the longest of {len(ages)})" if len(ages) > 1 else "")
        for what, ages in sorted(since.items(), key=lambda pair: -max(pair[1]))
    ]
    return "\n".join(lines) or "nothing"


class Changes:
    """Wakes everyone who waits whenever something changed. Check, then wait: nothing can come between the two.

    while not condition():
        await changes.wait()
    """

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self.num_notified = 0

    def notify(self) -> None:
        """Wake everyone who waits now."""
        self.num_notified += 1
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return at the next `notify`, or after `timeout_s`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait([future], timeout=timeout_s)
        finally:
            self._waiting.discard(future)
            future.cancel()

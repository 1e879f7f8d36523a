"""A generator's side of weight updates: phase by phase, on the thread of its engine, between two engine steps."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

PHASE_TIMEOUT_S = 60.0
"""Longest time for one phase of an update sent by the learner. A copy takes seconds, a check a little longer."""


class TransferError(RuntimeError):
    """Weights did not reach a generator. It may hold half of them and must be replaced."""


class WeightsMismatchError(TransferError):
    """A generator received weights that differ from those the learner published, so it would sample another policy."""


class WeightsGoneError(RuntimeError):
    """The learner died before it sent any of the weights."""


class TransferPhase(StrEnum):
    """A part of a weight update. Weights from the object store are one LOAD; the learner sends in several phases."""

    LOAD = "load"
    """Load buckets from the object store."""
    READY = "ready"
    """Requested by the generator itself, before the others. If updates drain, nothing is in flight from here on."""
    CONNECT = "connect"
    """Open a connection to the learner. Only before its first update."""
    START = "start"
    """Pause sampling and prepare to receive."""
    UPDATE = "update"
    """Receive weights."""
    FINISH = "finish"
    """Sample with the received weights."""
    GIVE_UP = "give up"
    """Requested by the generator itself if no START follows READY. Sampling continues as before."""


@dataclass(frozen=True, slots=True)
class _Step:
    phase: TransferPhase
    payload: Mapping[str, Any]
    reply: Future[None] = field(default_factory=Future)


class WeightReceiver:
    """Any thread requests a phase with `ask`, which waits for it; the engine's thread does it in `take_part`.

    `do` does a phase. `work` is notified when there is something to do, and its lock guards `is_asked`. `loaded` is
    called with each new version and the seconds that sampling was paused for it. If `drains`, READY and LOAD must be
    done while nothing is in flight. No wait is longer than `timeout_s`.
    """

    def __init__(
        self,
        do: Callable[[TransferPhase, Mapping[str, Any]], None],
        work: threading.Condition,
        loaded: Callable[[int, float], None],
        *,
        drains: bool,
        timeout_s: float,
    ) -> None:
        self._do = do
        self._work = work
        self._loaded = loaded
        self._drains = drains
        self._timeout_s = timeout_s
        self._steps: deque[_Step] = deque()
        self._failure: Exception | None = None
        self.is_receiving = False
        """Whether an update sent by the learner has started and is not finished."""

    @property
    def is_asked(self) -> bool:
        """Whether there is something to take part in."""
        return bool(self._steps)

    def ask(self, phase: TransferPhase, payload: Mapping[str, Any]) -> None:
        """Have the engine's thread do a phase, and wait. Raises TimeoutError, or the failure passed to `fail`."""
        step = _Step(phase, payload)
        with self._work:
            if self._failure is not None:
                raise self._failure
            self._steps.append(step)
            self._work.notify()
        step.reply.result(timeout=self._timeout_s)

    def fail(self, failure: Exception) -> None:
        """Raise `failure` to everyone who asks, now or later. The lock must be held."""
        self._failure = failure
        self._work.notify()
        for step in self._steps:
            step.reply.set_exception(failure)
        self._steps.clear()

    def take_part(self) -> None:
        """Do the next phase, and those that follow while nothing may be sampled.

        Raises TransferError if the update broke off, and half of the weights may have arrived.
        """
        is_paused, began = False, time.monotonic()
        while True:
            step = self._next()
            phase = step.phase
            if phase is TransferPhase.READY:
                is_paused = self._drains
            elif phase is TransferPhase.START:
                is_paused = self.is_receiving = True
                began = time.monotonic()
            elif phase is TransferPhase.GIVE_UP and self.is_receiving:
                raise TransferError("a weight update broke off; half of the weights may have arrived")
            elif phase in (TransferPhase.FINISH, TransferPhase.GIVE_UP):
                is_paused = False
            self._do(phase, step.payload)
            if phase in (TransferPhase.LOAD, TransferPhase.FINISH):
                self.is_receiving = False
                self._loaded(step.payload["version"], time.monotonic() - began)
            with self._work:
                if self._failure is not None:
                    raise self._failure
                self._steps.popleft()
            step.reply.set_result(None)
            if not is_paused:
                return

    def _next(self) -> _Step:
        with self._work:
            self._work.wait_for(lambda: self._steps or self._failure, self._timeout_s)
            if self._failure is not None:
                raise self._failure
            if not self._steps:
                raise TransferError(f"a weight update did not continue within {self._timeout_s:g} s")
            return self._steps[0]

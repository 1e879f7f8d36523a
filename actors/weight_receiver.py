"""A generator's part in weight updates that the learner sends, phase by phase, on the thread of its engine."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from actors.messages import TransferError, TransferPhase


@dataclass(frozen=True, slots=True)
class _Step:
    phase: TransferPhase
    payload: Mapping[str, Any]
    reply: Future[None]


class WeightReceiver:
    """`ask` has a phase done and waits for it, on any thread; `take_part` does what is asked, on the engine's.

    `engine` has a `receive` (`VllmEngine.receive`). `work` is notified when there is something to do, and its lock
    guards `is_asked`. `loaded` is called with each new version and the seconds that sampling stood still for it. Where
    updates drain (`drains`), READY must be done when nothing is in flight. Nothing is waited for longer than
    `timeout_s`.
    """

    def __init__(
        self,
        engine: Any,
        work: threading.Condition,
        loaded: Callable[[int, float], None],
        *,
        drains: bool,
        timeout_s: float,
    ) -> None:
        self._engine = engine
        self._work = work
        self._loaded = loaded
        self._drains = drains
        self._timeout_s = timeout_s
        self._steps: deque[_Step] = deque()
        self._failure: Exception | None = None
        self.is_receiving = False
        """Whether weights have begun to come and are not complete."""

    @property
    def is_asked(self) -> bool:
        """Whether there is something to take part in."""
        return bool(self._steps)

    def ask(self, phase: TransferPhase, payload: Mapping[str, Any]) -> None:
        """Have the engine's thread do a phase. Raises what `fail` was given, and TimeoutError."""
        step = _Step(phase, payload, Future())
        with self._work:
            if self._failure is not None:
                raise self._failure
            self._steps.append(step)
            self._work.notify()
        step.reply.result(timeout=self._timeout_s)

    def fail(self, failure: Exception) -> None:
        """Nothing can be taken part in any more: whoever asks gets `failure`. The lock must be held."""
        self._failure = failure
        self._work.notify()
        for step in self._steps:
            step.reply.set_exception(failure)
        self._steps.clear()

    def take_part(self) -> None:
        """Do what is asked, and, as long as nothing may be sampled meanwhile, what is asked next.

        Raises:
            TransferError: the update broke off, and half of the weights may have come.
        """
        stands, began = False, 0.0
        while True:
            step = self._next()
            if step.phase is TransferPhase.READY:
                stands = self._drains
            elif step.phase is TransferPhase.START:
                stands = self.is_receiving = True
                began = time.monotonic()
            elif step.phase is TransferPhase.GIVE_UP and self.is_receiving:
                raise TransferError("a weight update broke off: half of the weights may have come")
            elif step.phase in (TransferPhase.FINISH, TransferPhase.GIVE_UP):
                stands = False
            self._engine.receive(step.phase, step.payload)
            if step.phase is TransferPhase.FINISH:
                self.is_receiving = False
                self._loaded(step.payload["version"], time.monotonic() - began)
            with self._work:
                if self._failure is not None:
                    raise self._failure
                self._steps.popleft()
            step.reply.set_result(None)
            if not stands:
                return

    def _next(self) -> _Step:
        with self._work:
            self._work.wait_for(lambda: self._steps or self._failure, self._timeout_s)
            if self._failure is not None:
                raise self._failure
            if not self._steps:
                raise TransferError(f"a weight update did not go on within {self._timeout_s:g} s")
            return self._steps[0]

"""The generators as one service: a rollout asked for is a rollout got, whichever actor samples it and however often
one dies on the way.

Every request is outstanding at exactly one generator. A generator that dies or stalls is replaced by a new one with the
newest weights, and what was outstanding there is asked for again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError

from actors.messages import GeneratorError, GeneratorStats, RolloutHandle, RolloutRequest
from actors.weights import WeightsHandle
from ring.waiting import StallError, answer

logger = logging.getLogger(__name__)

POLL_S = 5.0
ANSWER_S = 60.0
MAX_DEATHS_IN_A_ROW = 3
# What ends a generator's usefulness: its process died, it does not answer, or its engine failed.
_GONE = (RayActorError, StallError, GeneratorError)


class GeneratorFailedError(RuntimeError):
    """A generator died again and again without finishing a rollout in between."""


@dataclass(slots=True)
class _Slot:
    """One place for a generator: the actor in it, and what it was asked for."""

    index: int
    actor: Any
    outstanding: dict[str, tuple[RolloutRequest, asyncio.Future[RolloutHandle]]] = field(default_factory=dict)
    deaths_in_a_row: int = 0
    poller: asyncio.Task[None] | None = None


class GeneratorPool:
    """`spawn(i)` starts the i-th generator actor and returns its handle at once; it is ready when it answers `ping`."""

    def __init__(self, spawn: Callable[[int], Any], num_generators: int, *, start_timeout_s: float) -> None:
        self._spawn = spawn
        self._start_timeout_s = start_timeout_s
        self._slots = [_Slot(index, spawn(index)) for index in range(num_generators)]
        self._weights: WeightsHandle | None = None
        self.num_replaced = 0

    async def start(self) -> None:
        """Wait until all generators are ready, and begin to collect what they finish."""
        await asyncio.gather(*(self._ready(slot) for slot in self._slots))
        for slot in self._slots:
            slot.poller = asyncio.create_task(self._collect(slot), name=f"generator {slot.index}")

    async def close(self) -> None:
        """Stop collecting. The actors die with the job."""
        pollers = [slot.poller for slot in self._slots if slot.poller is not None]
        for poller in pollers:
            poller.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)

    async def too_long(self) -> list[str]:
        """See `Generator.too_long`."""
        found: list[str] = await answer(
            self._slots[0].actor.too_long.remote(), self._start_timeout_s, "a generator to encode all prompts"
        )
        return found

    async def sample(self, request: RolloutRequest) -> RolloutHandle:
        """The rollout of a request, by the generator with the least to do.

        Raises ValueError where the request cannot be served (a prompt longer than the context), GeneratorFailedError
        where generators die again and again.
        """
        slot = min(self._slots, key=lambda slot: len(slot.outstanding))
        future: asyncio.Future[RolloutHandle] = asyncio.get_running_loop().create_future()
        slot.outstanding[request.rollout_id] = (request, future)
        await self._submit(slot, [request])
        return await future

    async def update_weights(self, weights: WeightsHandle) -> None:
        """Have every generator sample with `weights` from now on; one that does not manage is replaced."""
        self._weights = weights
        await asyncio.gather(*(self._update(slot, weights) for slot in self._slots))

    @property
    def num_outstanding(self) -> int:
        """Samples asked for and not yet finished."""
        return sum(request.num_samples for slot in self._slots for request, _ in slot.outstanding.values())

    async def stats(self) -> list[GeneratorStats]:
        """What each generator has done so far; one that does not answer now is left out."""
        replies = (
            answer(slot.actor.stats.remote(), ANSWER_S, f"generator {slot.index}'s counts") for slot in self._slots
        )
        found = await asyncio.gather(*replies, return_exceptions=True)
        return [stats for stats in found if isinstance(stats, GeneratorStats)]

    async def _ready(self, slot: _Slot) -> None:
        await answer(slot.actor.ping.remote(), self._start_timeout_s, f"generator {slot.index} to start")

    async def _update(self, slot: _Slot, weights: WeightsHandle) -> None:
        actor = slot.actor
        try:
            await answer(actor.update_weights.remote(weights), ANSWER_S, f"generator {slot.index} to load weights")
        except _GONE as error:
            await self._replace(slot, actor, error)

    async def _submit(self, slot: _Slot, requests: list[RolloutRequest]) -> None:
        actor = slot.actor
        try:
            await answer(actor.submit.remote(requests), ANSWER_S, f"generator {slot.index} to take requests")
        except _GONE as error:
            await self._replace(slot, actor, error)
        except ValueError as error:
            for request in requests:
                _, future = slot.outstanding.pop(request.rollout_id)
                future.set_exception(error)

    async def _collect(self, slot: _Slot) -> None:
        while True:
            actor = slot.actor
            try:
                handles: list[RolloutHandle] = await answer(
                    actor.take.remote(POLL_S), POLL_S + ANSWER_S, f"rollouts from generator {slot.index}"
                )
            except _GONE as error:
                await self._replace(slot, actor, error)
                continue
            for handle in handles:
                slot.deaths_in_a_row = 0
                _, future = slot.outstanding.pop(handle.rollout_id, (None, None))
                if future is not None and not future.done():
                    future.set_result(handle)

    async def _replace(self, slot: _Slot, actor: Any, cause: BaseException) -> None:
        """Put a new generator into the slot, unless another caller has done so since `actor` failed."""
        if slot.actor is not actor:
            return
        slot.deaths_in_a_row += 1
        self.num_replaced += 1
        logger.warning(
            "generator %d is gone (%s): a new one starts, %d rollouts are sampled again",
            slot.index, _in_words(cause), len(slot.outstanding),
        )  # fmt: skip
        if slot.deaths_in_a_row > MAX_DEATHS_IN_A_ROW:
            failure = GeneratorFailedError(
                f"generator {slot.index} died {slot.deaths_in_a_row} times without finishing a rollout; the last time: "
                f"{_in_words(cause)}"
            )
            for _, future in slot.outstanding.values():
                future.set_exception(failure)
            slot.outstanding.clear()
            raise failure
        kill(actor)
        slot.actor = self._spawn(slot.index)
        await self._ready(slot)
        if self._weights is not None:
            await self._update(slot, self._weights)
        await self._submit(slot, [request for request, _ in slot.outstanding.values()])


def kill(actor: Any) -> None:
    """End an actor that may be dead already."""

    ray.kill(actor)


def _in_words(cause: BaseException) -> str:
    if isinstance(cause, ActorUnavailableError):
        return "it cannot be reached"
    if isinstance(cause, ActorDiedError):
        return "its process died: " + str(cause).splitlines()[0]
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__

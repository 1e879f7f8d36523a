"""The generators as one service: every requested rollout arrives, no matter how many generators die meanwhile.

    waiting -> a generator's inbox -> outstanding there -> its future

Every request is in exactly one of these places. Generators take requests as they have room, so fast ones sample more.
One task serves each generator and alone talks to the actor. If the actor dies or stalls, its requests go back to the
ones that wait, and another one starts with the newest weights.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError, RayTaskError

from rltf.actors.messages import FETCH_TURNS_S, GeneratorError, GeneratorStats, RolloutRequest
from rltf.supervise import Changes, GaveUpError, StallError, Supervised, Watched, answer, answer_in_turn, in_words
from rltf.transport.weight_receiver import TransferError, WeightsGoneError
from rltf.transport.weights import WeightsHandle

logger = logging.getLogger(__name__)

POLL_S = 5.0
ANSWER_S = 60.0
SUBMIT_S = ANSWER_S + FETCH_TURNS_S
SAMPLE_S = 3600.0
CLOSE_S = 20.0


class Finished(Protocol):
    """What a generator gives for a request."""

    @property
    def rollout_id(self) -> str:
        """The id of the request."""


H = TypeVar("H", bound=Finished)
Pending = tuple[RolloutRequest, asyncio.Future[H]]


@dataclass(slots=True)
class _Slot(Generic[H]):
    """One generator, and what was requested from it.

    The actor is `ready` once it has answered. `tried` are the weights last sent to it; `loaded` says whether it has
    any. Only `serving` ones get requests.
    """

    index: int
    place: Supervised[Any]
    outstanding: dict[str, Pending[H]] = field(default_factory=dict)
    inbox: list[RolloutRequest] = field(default_factory=list)
    changed: Changes = field(default_factory=Changes)
    tried: WeightsHandle | None = None
    ready: bool = False
    loaded: bool = False
    serving: bool = False
    num_outstanding: int = 0  # samples; kept up to date because every request compares all slots by it

    def ask(self, pending: Pending[H]) -> None:
        request, _ = pending
        self.outstanding[request.rollout_id] = pending
        self.num_outstanding += _num_samples(request)
        self.inbox.append(request)
        self.changed.notify()

    def settle(self, rollout_id: str) -> asyncio.Future[H] | None:
        """The future that waits for this rollout from here; None if nobody does any more."""
        if rollout_id not in self.outstanding:
            return None
        request, future = self.outstanding.pop(rollout_id)
        self.num_outstanding -= _num_samples(request)
        return None if future.done() else future

    def give_back(self) -> dict[str, Pending[H]]:
        """Everything requested here that has not come."""
        pending, self.outstanding, self.inbox, self.num_outstanding = self.outstanding, {}, [], 0
        return pending


class GeneratorPool(Generic[H]):
    """`spawn(index, life)` starts a generator and returns its handle at once; it is ready when it answers `ping`.

    `life` is different each time. At most `max_samples` are outstanding at a generator, or a single request.
    """

    def __init__(
        self,
        spawn: Callable[[int, int], Any],
        num_generators: int,
        *,
        max_samples: int,
        start_timeout_s: float,
        load_timeout_s: float = ANSWER_S,
        end: Callable[[Any], None] = ray.kill,
    ) -> None:
        self._max_samples = max_samples
        self._start_timeout_s = start_timeout_s
        self._load_timeout_s = load_timeout_s
        self._slots = [
            _Slot[H](index, Supervised(f"generator {index}", partial(spawn, index), end))
            for index in range(num_generators)
        ]
        self._waiting: deque[Pending[H]] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._weights: WeightsHandle | None = None
        self._failure: Exception | None = None
        self._num_finished = 0

    async def start(self) -> None:
        """Wait until all generators are ready, and begin to hand out requests and to collect what they finish.

        Those that die meanwhile are replaced. Raises what a generator's constructor raises, and GaveUpError.
        """
        await asyncio.gather(*(slot.place.start(partial(self._ready, slot)) for slot in self._slots))
        self._tasks = [asyncio.create_task(self._keep_serving(slot), name=slot.place.name) for slot in self._slots]

    async def close(self) -> None:
        """Stop collecting. The actors end with the job."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def end_engines(self) -> None:
        """After `close`: end the engines with their processes, as far as the generators answer."""
        closing = (
            answer(slot.place.actor.close.remote(), CLOSE_S, f"{slot.place.name} to end its engine")
            for slot in self._slots
            if slot.ready
        )
        await asyncio.gather(*closing, return_exceptions=True)

    @property
    def num_replaced(self) -> int:
        """How many generators took the place of one that died."""
        return sum(slot.place.num_restarts for slot in self._slots)

    def watched(self) -> list[Watched]:
        """The generators that have started."""
        return [
            Watched(slot.place.name, slot.place.actor.ping.remote, partial(slot.place.end, slot.place.actor))
            for slot in self._slots
            if slot.ready
        ]

    async def too_long(self) -> list[str]:
        """See `Generator.too_long`; whichever generator lives to answer."""
        return await answer(self._too_long(), self._start_timeout_s, "a generator to encode all prompts")

    async def _too_long(self) -> list[str]:
        slot = self._slots[0]
        while self._failure is None:
            actor = slot.place.actor
            try:
                found: list[str] = await actor.too_long.remote()
                return found
            except RayActorError:
                while slot.place.actor is actor and self._failure is None:
                    await slot.changed.wait()
        raise self._failure

    async def sample(self, request: RolloutRequest) -> H:
        """The rollout of a request, from a generator with room for it.

        Raises ValueError if the request cannot be served (a prompt longer than the context), ObjectLostError or
        GetTimeoutError if the dialogue that it continues is gone, GaveUpError if generators die again and again, and
        StallError if no rollout comes at all.
        """
        if self._failure is not None:
            raise self._failure
        future: asyncio.Future[H] = asyncio.get_running_loop().create_future()
        if request.previous:
            self._waiting.appendleft((request, future))  # a dialogue under way gets staler than one that has not begun
        else:
            self._waiting.append((request, future))
        self._hand_out()
        return await answer_in_turn(future, SAMPLE_S, "generators to sample rollouts", lambda: self._num_finished)

    def use(self, weights: WeightsHandle) -> None:
        """Have every generator sample with `weights` from now on: whatever is requested later is sampled with them."""
        self._weights = weights
        for slot in self._slots:
            slot.changed.notify()

    @property
    def num_outstanding(self) -> int:
        """Samples that are requested and not yet finished."""
        waiting = sum(request.num_samples for request, _ in self._waiting)
        return waiting + sum(request.num_samples for slot in self._slots for request, _ in slot.outstanding.values())

    async def stats(self) -> list[GeneratorStats]:
        """What each generator has done so far, except those that do not answer now."""
        replies = (
            answer(slot.place.actor.stats.remote(), ANSWER_S, f"{slot.place.name}'s counts") for slot in self._slots
        )
        found = await asyncio.gather(*replies, return_exceptions=True)
        return [stats for stats in found if isinstance(stats, GeneratorStats)]

    def _hand_out(self) -> None:
        """Give waiting requests to the generators with the least to do."""
        while self._waiting:
            most = self._max_samples - _num_samples(self._waiting[0][0])
            free = [s for s in self._slots if s.serving and (not s.outstanding or s.num_outstanding <= most)]
            if not free:
                return
            request, future = self._waiting.popleft()
            if future.done():
                continue  # nobody waits for it any more
            slot = min(free, key=lambda slot: slot.num_outstanding)
            slot.ask((request, future))

    async def _ready(self, slot: _Slot[H], actor: Any) -> None:
        await answer(actor.ping.remote(), self._start_timeout_s, f"{slot.place.name} to start")
        slot.ready = True

    async def _ready_again(self, slot: _Slot[H]) -> None:
        """Wait for a generator that takes another's place: for ever, while others sample."""
        while True:
            try:
                return await self._ready(slot, slot.place.actor)
            except StallError as error:
                if not any(other.serving for other in self._slots):
                    raise
                logger.warning("%s: is there room for it? The others go on meanwhile", error)

    async def _keep_serving(self, slot: _Slot[H]) -> None:
        """Serve one generator after the other in the slot, until the pool closes or gives up."""
        while True:
            try:
                await self._serve(slot)
            except Exception as error:
                if not _is_gone(error):  # a bug: tell everyone who waits for a rollout
                    self._fail(error)
                    raise
                if not self._replace(slot, error):
                    return

    async def _serve(self, slot: _Slot[H]) -> None:
        """Talk to the slot's actor; raises what ends it."""
        await self._ready_again(slot)
        tasks = [asyncio.create_task(self._feed(slot)), asyncio.create_task(self._collect(slot))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _feed(self, slot: _Slot[H]) -> None:
        """Weights first, then requests: whatever is requested after a publication is sampled with it."""
        while True:
            if self._weights is not None and self._weights is not slot.tried:
                await self._load(slot, self._weights)
            slot.serving = slot.loaded or self._weights is None
            self._hand_out()
            if slot.inbox and slot.serving:
                requests, slot.inbox = slot.inbox, []
                await self._submit(slot, requests)
            elif self._weights is slot.tried:
                await slot.changed.wait()

    async def _load(self, slot: _Slot[H], weights: WeightsHandle) -> None:
        slot.tried = weights
        try:
            reply = slot.place.actor.update_weights.remote(weights)
            await answer(reply, self._load_timeout_s, f"{slot.place.name} to load weights")
            slot.loaded = True
        except (ObjectLostError, WeightsGoneError):
            logger.warning(
                "weights version %d died with the learner that published them: %s goes on %s",
                weights.version, slot.place.name, "with those it has" if slot.loaded else "with the next ones",
            )  # fmt: skip

    async def _submit(self, slot: _Slot[H], requests: list[RolloutRequest]) -> None:
        """Hand over first turns, and then those of dialogues, which may have died with the rollout store."""
        for some in ([r for r in requests if not r.previous], [r for r in requests if r.previous]):
            try:
                if some:
                    await answer(slot.place.actor.submit.remote(some), SUBMIT_S, f"{slot.place.name} to take requests")
            except (ValueError, ObjectLostError, GetTimeoutError) as error:
                for request in some:
                    if future := slot.settle(request.rollout_id):
                        future.set_exception(error)

    async def _collect(self, slot: _Slot[H]) -> None:
        while True:
            handles: list[H] = await answer(
                slot.place.actor.take.remote(POLL_S), POLL_S + ANSWER_S, f"rollouts from {slot.place.name}"
            )
            for handle in handles:
                slot.place.progressed()
                self._num_finished += 1
                if future := slot.settle(handle.rollout_id):
                    future.set_result(handle)
            if handles:
                self._hand_out()

    def _replace(self, slot: _Slot[H], cause: BaseException) -> bool:
        """Put another generator into the slot, and let its requests wait for any; False if the pool gives up."""
        slot.ready = slot.serving = slot.loaded = False
        slot.tried = None
        requests = slot.give_back()
        self._waiting.extendleft(reversed(requests.values()))
        try:
            slot.place.restart(cause)
        except GaveUpError as error:
            self._fail(error)
            return False
        logger.warning(
            "%s is gone (%s): the %d rollouts that it was sampling are sampled again, and a new one starts",
            slot.place.name, in_words(cause), len(requests),
        )  # fmt: skip
        slot.changed.notify()
        self._hand_out()
        return True

    def _fail(self, failure: Exception) -> None:
        """No generator can be relied on any more: every request, now or later, is told why."""
        self._failure = failure
        for slot in self._slots:
            slot.changed.notify()
        pending = [*self._waiting, *(p for slot in self._slots for p in slot.outstanding.values())]
        self._waiting.clear()
        for _, future in pending:
            if not future.done():
                future.set_exception(failure)


def _is_gone(error: Exception) -> bool:
    """Whether a generator is of no more use: its process or node died, it does not answer, or its engine failed."""
    if isinstance(error, RayTaskError):
        return isinstance(error, (GeneratorError, TransferError, TimeoutError))  # not whatever else its method raised
    return isinstance(error, (RayError, StallError, GeneratorError, TransferError))


def _num_samples(request: RolloutRequest) -> int:
    return request.num_samples + request.greedy

"""The generators as one service: a rollout asked for is a rollout got, whichever actor samples it and however often
one dies on the way.

    waiting -> a generator's inbox -> outstanding there -> its future

Every request is in exactly one of these places. Generators take requests as they get room, so that fast ones sample
more. One task looks after each generator: it alone talks to the actor, and when the actor dies or stalls it hands the
requests back to those that wait, starts another with the newest weights, and goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError

from actors.messages import GeneratorStats, RolloutHandle, RolloutRequest
from controller.deaths import in_words, is_blameless, is_gone
from controller.waiting import Changes, StallError, answer, answer_in_turn
from transport.weight_receiver import WeightsGoneError
from transport.weights import WeightsHandle

logger = logging.getLogger(__name__)

POLL_S = 5.0
ANSWER_S = 60.0
SAMPLE_S = 3600.0
MAX_DEATHS_IN_A_ROW = 3

Pending = tuple[RolloutRequest, asyncio.Future[RolloutHandle]]


class GeneratorFailedError(RuntimeError):
    """A generator died again and again without finishing a rollout in between."""


@dataclass(slots=True)
class _Slot:
    """One place for a generator: the actor in it, and what it was asked for.

    `tried` are the weights last sent to the actor, `loaded` says whether it has any; `serving` ones get requests.
    """

    index: int
    actor: Any
    outstanding: dict[str, Pending] = field(default_factory=dict)
    inbox: list[RolloutRequest] = field(default_factory=list)
    changed: Changes = field(default_factory=Changes)
    tried: WeightsHandle | None = None
    loaded: bool = False
    serving: bool = False
    deaths_in_a_row: int = 0
    num_outstanding: int = 0  # samples; kept, since every request compares all slots by it

    def ask(self, pending: Pending) -> None:
        request, _ = pending
        self.outstanding[request.rollout_id] = pending
        self.num_outstanding += _num_samples(request)
        self.inbox.append(request)
        self.changed.notify()

    def settle(self, rollout_id: str) -> asyncio.Future[RolloutHandle] | None:
        """Who waits for this rollout from here; None where nobody does any more."""
        if rollout_id not in self.outstanding:
            return None
        request, future = self.outstanding.pop(rollout_id)
        self.num_outstanding -= _num_samples(request)
        return None if future.done() else future

    def give_back(self) -> dict[str, Pending]:
        """All that was asked for here and has not come."""
        pending, self.outstanding, self.inbox, self.num_outstanding = self.outstanding, {}, [], 0
        return pending


class GeneratorPool:
    """`spawn(i, life)` starts the i-th generator and returns its handle at once; it is ready when it answers `ping`.

    `life` is another number each time. A generator gets no more requests while `max_samples` are outstanding there.
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
        self._spawn = spawn
        self._end = end
        self._max_samples = max_samples
        self._start_timeout_s = start_timeout_s
        self._load_timeout_s = load_timeout_s
        self._slots = [_Slot(index, spawn(index, 0)) for index in range(num_generators)]
        self._waiting: deque[Pending] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._weights: WeightsHandle | None = None
        self._failure: Exception | None = None
        self._num_finished = 0
        self.num_replaced = 0

    async def start(self) -> None:
        """Wait until all generators are ready, and begin to hand out requests and to collect what they finish.

        Those that die meanwhile are replaced. Raises what a generator's constructor raises.
        """
        await asyncio.gather(*(self._come_up(slot) for slot in self._slots))
        self._tasks = [
            asyncio.create_task(self._look_after(slot), name=f"generator {slot.index}") for slot in self._slots
        ]

    async def close(self) -> None:
        """Stop collecting. The actors die with the job."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def too_long(self) -> list[str]:
        """See `Generator.too_long`; whichever generator lives to answer."""
        return await answer(self._too_long(), self._start_timeout_s, "a generator to encode all prompts")

    async def _too_long(self) -> list[str]:
        slot = self._slots[0]
        while self._failure is None:
            actor = slot.actor
            try:
                found: list[str] = await actor.too_long.remote()
                return found
            except RayActorError:
                while slot.actor is actor and self._failure is None:
                    await slot.changed.wait()
        raise self._failure

    async def sample(self, request: RolloutRequest) -> RolloutHandle:
        """The rollout of a request, by a generator with room for it.

        Raises ValueError where the request cannot be served (a prompt longer than the context), GeneratorFailedError
        where generators die again and again, StallError where no rollout comes at all.
        """
        if self._failure is not None:
            raise self._failure
        future: asyncio.Future[RolloutHandle] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        self._hand_out()
        return await answer_in_turn(future, SAMPLE_S, "generators to sample rollouts", lambda: self._num_finished)

    def use(self, weights: WeightsHandle) -> None:
        """Have every generator sample with `weights` from now on: whatever is asked for later is sampled with them."""
        self._weights = weights
        for slot in self._slots:
            slot.changed.notify()

    @property
    def num_outstanding(self) -> int:
        """Samples asked for and not yet finished."""
        waiting = sum(request.num_samples for request, _ in self._waiting)
        return waiting + sum(request.num_samples for slot in self._slots for request, _ in slot.outstanding.values())

    async def stats(self) -> list[GeneratorStats]:
        """What each generator has done so far; one that does not answer now is left out."""
        replies = (
            answer(slot.actor.stats.remote(), ANSWER_S, f"generator {slot.index}'s counts") for slot in self._slots
        )
        found = await asyncio.gather(*replies, return_exceptions=True)
        return [stats for stats in found if isinstance(stats, GeneratorStats)]

    def _hand_out(self) -> None:
        """Give waiting requests to the generators with the least to do."""
        while self._waiting:
            free = [
                s for s in self._slots if s.serving and (not s.outstanding or s.num_outstanding < self._max_samples)
            ]
            if not free:
                return
            request, future = self._waiting.popleft()
            if future.done():
                continue  # nobody waits for it any more
            slot = min(free, key=lambda slot: slot.num_outstanding)
            slot.ask((request, future))

    async def _ready(self, slot: _Slot) -> None:
        await answer(slot.actor.ping.remote(), self._start_timeout_s, f"generator {slot.index} to start")

    async def _placed(self, slot: _Slot) -> None:
        """Wait for a generator that takes another's place: for ever, while there are others that sample."""
        while True:
            try:
                return await self._ready(slot)
            except StallError as error:
                if not any(other.serving for other in self._slots):
                    raise
                logger.warning("%s: is there room for it? The others go on, and it is waited for", error)

    async def _come_up(self, slot: _Slot) -> None:
        """The first generator of the slot, or the first that lives long enough."""
        while True:
            try:
                return await self._ready(slot)
            except RayActorError as error:
                if error.actor_init_failed or not self._replace(slot, error):
                    raise

    async def _look_after(self, slot: _Slot) -> None:
        """One generator after the other in the slot, until the pool closes or they die again and again."""
        while True:
            try:
                await self._serve(slot)
            except Exception as error:
                if not is_gone(error):  # a fault of this program: whoever waits for a rollout is told
                    self._fail(error, slot.outstanding)
                    raise
                if not self._replace(slot, error):
                    return

    async def _serve(self, slot: _Slot) -> None:
        """Talk to the slot's actor; raises what ends it."""
        await self._placed(slot)
        tasks = [asyncio.create_task(self._feed(slot)), asyncio.create_task(self._collect(slot))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _feed(self, slot: _Slot) -> None:
        """Weights, then requests: what is asked for after a publication is sampled with it."""
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

    async def _load(self, slot: _Slot, weights: WeightsHandle) -> None:
        slot.tried = weights
        try:
            reply = slot.actor.update_weights.remote(weights)
            await answer(reply, self._load_timeout_s, f"generator {slot.index} to load weights")
            slot.loaded = True
        except (ObjectLostError, WeightsGoneError):
            logger.warning(
                "weights version %d are gone with the learner that published them: generator %d goes on %s",
                weights.version, slot.index, "with those it has" if slot.loaded else "when the next ones are there",
            )  # fmt: skip

    async def _submit(self, slot: _Slot, requests: list[RolloutRequest]) -> None:
        try:
            await answer(slot.actor.submit.remote(requests), ANSWER_S, f"generator {slot.index} to take requests")
        except ValueError as error:
            for request in requests:
                if future := slot.settle(request.rollout_id):
                    future.set_exception(error)

    async def _collect(self, slot: _Slot) -> None:
        while True:
            handles: list[RolloutHandle] = await answer(
                slot.actor.take.remote(POLL_S), POLL_S + ANSWER_S, f"rollouts from generator {slot.index}"
            )
            for handle in handles:
                slot.deaths_in_a_row = 0
                self._num_finished += 1
                if future := slot.settle(handle.rollout_id):
                    future.set_result(handle)
            if handles:
                self._hand_out()

    def _replace(self, slot: _Slot, cause: BaseException) -> bool:
        """Put a new generator into the slot, whose requests wait for any; False where it is not worth it any more."""
        slot.deaths_in_a_row += not is_blameless(cause)
        self.num_replaced += 1
        slot.serving = slot.loaded = False
        slot.tried = None
        requests = slot.give_back()
        self._end(slot.actor)
        if slot.deaths_in_a_row > MAX_DEATHS_IN_A_ROW:
            self._fail(
                GeneratorFailedError(
                    f"generator {slot.index} died {slot.deaths_in_a_row} times without finishing a rollout; the last "
                    f"time: {in_words(cause)}"
                ),
                requests,
            )
            return False
        logger.warning(
            "generator %d is gone (%s): the %d rollouts that it was sampling are sampled again, and a new one starts",
            slot.index, in_words(cause), len(requests),
        )  # fmt: skip
        slot.actor = self._spawn(slot.index, self.num_replaced)
        slot.changed.notify()
        self._waiting.extendleft(reversed(requests.values()))
        self._hand_out()
        return True

    def _fail(self, failure: Exception, requests: dict[str, Pending]) -> None:
        """No generator can be relied on any more: every request, made or to come, gets to know why."""
        self._failure = failure
        for slot in self._slots:
            slot.changed.notify()
        pending = [*requests.values(), *self._waiting, *(p for slot in self._slots for p in slot.outstanding.values())]
        self._waiting.clear()
        for _, future in pending:
            if not future.done():
                future.set_exception(failure)


def _num_samples(request: RolloutRequest) -> int:
    return request.num_samples + request.greedy

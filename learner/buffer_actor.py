"""The online buffer as a Ray actor: it owns the rollouts that it hands out.

It puts them into the object store itself: an object dies with the process that put it (Ray 2.56 removed
`ray.put(_owner=...)`), and this one outlives the producers. The price is one copy within shared memory.

Where the actor dies, Ray starts it again under the same handle and makes the calls again that were under way. Its
rollouts are gone with it, and its new `incarnation` tells whoever counts them. So every message may come late or twice:
rollouts are known by their ids, requests by their tickets.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import ray

from learner.buffer import BufferItem, BufferStats, Drop, DropReason, OnlineBuffer, RefT, SampleMeta
from learner.data import Experiences, load_rollouts
from settings import BufferSettings

RolloutRef = ray.ObjectRef[Experiences]


@dataclass(frozen=True, slots=True)
class TakeRequest:
    """What the driver wants of the buffer, and what it has to tell.

    Rollouts of `num_samples` samples for a learner at `version`, once `at_least` are buffered; or those `named`.
    `finished` and `lost` are taken earlier and done with. `incarnation` and `cursor` are those of the last reply.
    """

    ticket: str
    num_samples: int
    version: int
    timeout_s: float
    at_least: int = 0
    named: tuple[str, ...] | None = None
    finished: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    incarnation: str = ""
    cursor: int = 0


@dataclass(frozen=True, slots=True)
class TakeReply(Generic[RefT]):
    """`items` is empty where too few came in time, or there was something to tell: drops, or a new incarnation."""

    incarnation: str
    items: tuple[BufferItem[RefT], ...]
    drops: tuple[Drop, ...]
    cursor: int


class BufferServer:
    """`OnlineBuffer` for callers that wait, and the owner of the objects whose references it holds.

    `add` is called by whoever graded a rollout, the rest by the driver, which keeps the ledger. `put` makes references.
    """

    def __init__(self, settings: BufferSettings, put: Callable[[Experiences], Any] = ray.put) -> None:
        self.incarnation = uuid.uuid4().hex
        self._buffer: OnlineBuffer[RolloutRef] = OnlineBuffer(settings)
        self._put = put
        self._changed = asyncio.Condition()
        self._last: tuple[str, TakeReply[RolloutRef]] | None = None
        gc.freeze()  # modules, which the collector need not look through while rollouts come and go

    def __repr__(self) -> str:
        """What Ray puts before each line of this actor's log, and before its methods in the dashboard."""
        return "buffer"

    async def add(self, rollouts: Sequence[tuple[str, Experiences]]) -> str:
        """Append rollouts (id, graded samples) in order; their data goes into the object store.

        Returns the incarnation that holds them.
        """
        async with self._changed:
            for rollout_id, experiences in rollouts:
                self._buffer.add(BufferItem(self._put(experiences), SampleMeta.of(rollout_id, experiences)))
            self._changed.notify_all()
            return self.incarnation

    async def take(self, request: TakeRequest) -> TakeReply[RolloutRef]:
        """Hand out rollouts, waiting up to `timeout_s` for them, or until there is something else to tell.

        A request that comes a second time gets the answer of the first.
        """
        items: list[BufferItem[RolloutRef]] | None = None

        def answerable() -> bool:
            nonlocal items
            if request.incarnation != self.incarnation:
                return True
            if request.named is not None:
                items = self._buffer.take_named(request.named)
            else:
                items = self._buffer.take(request.num_samples, request.version, request.at_least)
            return items is not None or self._buffer.num_drops > request.cursor

        async with self._changed:
            if self._last is not None and self._last[0] == request.ticket:
                return self._last[1]
            self._buffer.finish(request.finished)
            self._buffer.drop(request.lost, DropReason.LOST)
            if not answerable() and request.timeout_s > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait_for(answerable), request.timeout_s)
            cursor = request.cursor if request.incarnation == self.incarnation else 0
            drops = tuple(self._buffer.drops_after(cursor))
            reply = TakeReply(self.incarnation, tuple(items or ()), drops, self._buffer.num_drops)
            self._last = request.ticket, reply
            return reply

    async def refuse(self, rollout_ids: Sequence[str], reason: DropReason) -> None:
        """See `OnlineBuffer.drop`."""
        self._buffer.drop(rollout_ids, reason)

    async def contents(self) -> list[BufferItem[RolloutRef]]:
        """The buffered rollouts, oldest first: what a checkpoint keeps."""
        return self._buffer.items()

    async def load(self, path: Path) -> tuple[str, list[BufferItem[RolloutRef]]]:
        """Add the rollouts of a checkpoint; returns the incarnation that holds them, and them."""
        await self.add(load_rollouts(path))
        return self.incarnation, self._buffer.items()

    async def pid(self) -> int:
        """Of the process that this incarnation lives in."""
        return os.getpid()

    async def stats(self) -> BufferStats:
        """See `OnlineBuffer.stats`."""
        return self._buffer.stats()


BufferActor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(BufferServer)
"""`BufferServer` as a Ray actor."""

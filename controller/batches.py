"""What the learner is given: batches of references, taken from the online buffer and entered in the ledger."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from controller.ledger import Ledger, State, ids
from controller.waiting import StallError, answer
from learner.buffer import BufferItem, DropReason
from learner.buffer_actor import TakeReply, TakeRequest
from settings import Settings

logger = logging.getLogger(__name__)

POLL_S = 5.0
# A buffer that died is up again within seconds, on another node within half a minute.
ANSWER_S = 120.0

Batch = list[BufferItem[Any]]


class InterruptedRunError(RuntimeError):
    """A deterministic run lost what cannot be had again as it was: it goes on from its last checkpoint."""


@dataclass(slots=True)
class BatchSource:
    """Batches in the order in which they are trained; the first one is trained next.

    Usage:
        batch, ahead = await supply.batches(step, version)     # waits for the first, not for the second
        supply.done(report.trained, report.lost, step)         # the first one is used up
    """

    settings: Settings
    ledger: Ledger
    buffer: Any
    taken: deque[Batch] = field(default_factory=deque)
    _partial: Batch = field(default_factory=list)
    _incarnation: str = ""
    _cursor: int = 0
    _finished: list[str] = field(default_factory=list)
    _lost: list[str] = field(default_factory=list)

    async def batches(self, step: int, version: int, meanwhile: Callable[[], Awaitable[object]]) -> tuple[Batch, Batch]:
        """The batch of the update after `step`, at weights `version`, and the one after it where it is there already.

        Calls `meanwhile` now and then while it waits, and raises what that raises. Raises StallError where
        `learner.fetch_timeout_s` pass without enough fresh samples.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.settings.learner.fetch_timeout_s
        self._drop_stale(step, version)
        while not self.taken:
            timeout_s = min(POLL_S, deadline - clock())
            if timeout_s <= 0:
                raise self._starved(step, version)
            await self._fill(step, version, timeout_s)
            if not self.taken:
                await meanwhile()
        if len(self.taken) < 2 and step + 1 < self.settings.run.num_steps:
            await self._fill(step, version, 0.0)
        return self.taken[0], self.taken[1] if len(self.taken) > 1 else []

    def done(self, trained: Sequence[str], lost: Sequence[str], step: int) -> None:
        """Update number `step` was made with the first batch, or with what was left of it."""
        self.taken.popleft()
        for rollout_id in trained:
            self.ledger.trained(rollout_id, step)
        for rollout_id in lost:
            self.ledger.drop(rollout_id, DropReason.LOST)
        if lost:
            logger.warning("%d rollouts died with the buffer before they were trained on: dropped as lost", len(lost))
        self._finished += trained
        self._lost += lost

    async def contents(self) -> Batch:
        """All rollouts that are buffered or taken, in the order of their use: what a checkpoint keeps."""
        buffered: Batch = await answer(self.buffer.contents.remote(), ANSWER_S, "the buffer to list its rollouts")
        return [*(item for batch in (*self.taken, self._partial) for item in batch), *buffered]

    async def restore(
        self, incarnation: str, items: Sequence[BufferItem[Any]], batches: Sequence[Sequence[str]]
    ) -> None:
        """Enter what the buffer has loaded from a checkpoint; `batches` had been taken from it already."""
        self._incarnation = incarnation
        for item in items:
            self.ledger.graded(item.meta.rollout_id, item.meta.num_samples, incarnation)
        held = {item.meta.rollout_id for item in items} & self.ledger.live.keys()
        for names in batches:
            request = self._request(0, 0, POLL_S, named=tuple(name for name in names if name in held))
            batch = await self._ask(request)
            if batch:
                self.taken.append(batch)

    async def _fill(self, step: int, version: int, timeout_s: float) -> None:
        """Take a snapshot for the updates that no batch is there for, and split it into them."""
        every, batch_size = self.settings.buffer.refresh_every, self.settings.learner.batch_size
        first = step + len(self.taken)
        num_batches = min(every - first % every, self.settings.run.num_steps - first)
        num_samples = num_batches * batch_size - _num_samples(self._partial)
        self._partial += await self._take(num_samples, version + first // every - step // every, timeout_s)
        if _num_samples(self._partial) >= num_batches * batch_size:
            self.taken.extend(split(self._partial, num_batches))
            self._partial = []

    async def _take(self, num_samples: int, version: int, timeout_s: float) -> Batch:
        named = self._named(num_samples) if self.settings.run.deterministic else None
        if named == ():  # not all there yet
            await _pause(self.ledger, timeout_s)
            return []
        return await self._ask(self._request(num_samples, version, timeout_s, named))

    def _request(self, num_samples: int, version: int, timeout_s: float, named: tuple[str, ...] | None) -> TakeRequest:
        started = self.ledger.num_trained > 0 or self.taken
        return TakeRequest(
            ticket=uuid.uuid4().hex,
            num_samples=num_samples,
            version=version,
            timeout_s=timeout_s,
            at_least=0 if started else self.settings.buffer.start_samples,
            named=named,
            finished=tuple(self._finished),
            lost=tuple(self._lost),
            incarnation=self._incarnation,
            cursor=self._cursor,
        )

    async def _ask(self, request: TakeRequest) -> Batch:
        """Take rollouts; those that the ledger does not let go to the learner are refused."""
        reply: TakeReply[Any] = await answer(
            self.buffer.take.remote(request), request.timeout_s + ANSWER_S, "the buffer to hand out rollouts"
        )
        self._finished.clear()
        self._lost.clear()
        self._note(reply)
        accepted = [i for i in reply.items if self.ledger.taken(i.meta.rollout_id, i.meta.num_samples)]
        if len(accepted) < len(reply.items):
            refused = [i.meta.rollout_id for i in reply.items if i not in accepted]
            logger.warning("the buffer held rollouts that the ledger has closed: %s", ", ".join(refused))
            await answer(self.buffer.refuse.remote(refused, DropReason.DUPLICATE), ANSWER_S, "the buffer")
        return accepted

    def _named(self, num_samples: int) -> tuple[str, ...]:
        """The first rollouts in the order of issue that hold `num_samples`; none while one of them is on its way."""
        names: list[str] = []
        for rollout in sorted(self.ledger.live.values(), key=lambda rollout: rollout.position):
            if num_samples <= 0:
                break
            if rollout.state < State.BUFFERED:
                return ()
            if rollout.state is State.BUFFERED:
                names.append(rollout.rollout_id)
                num_samples -= rollout.num_samples
        return tuple(names) if num_samples <= 0 else ()

    def _note(self, reply: TakeReply[Any]) -> None:
        """Enter what the buffer tells: what it dropped, or that it is another one and those of the last are gone."""
        if self._incarnation not in ("", reply.incarnation):
            if self.settings.run.deterministic:
                raise InterruptedRunError("the buffer died, and with it rollouts that cannot be had again as they were")
            logger.warning("the buffer is gone: its process died, and a new one has taken its place, empty")
        self._incarnation, self._cursor = reply.incarnation, reply.cursor
        for drop in reply.drops:
            self.ledger.drop(drop.rollout_id, drop.reason, drop.num_samples)
        lost = self.ledger.buffer_is(reply.incarnation)
        if lost:
            logger.warning(
                "%d samples of %d rollouts died with the buffer (%s): dropped as lost, others are sampled instead",
                sum(rollout.num_samples for rollout in lost), len(lost), ids(lost),
            )  # fmt: skip

    def _drop_stale(self, step: int, version: int) -> None:
        """Drop what has become too stale since it was taken: weights went out that were not foreseen."""
        every, bound = self.settings.buffer.refresh_every, self.settings.buffer.max_off_policy_versions
        for index, batch in enumerate((*self.taken, self._partial)):
            at_use = version + (step + index) // every - step // every
            stale = [item for item in batch if at_use - item.meta.version > bound]
            for item in stale:
                batch.remove(item)
                self.ledger.drop(item.meta.rollout_id, DropReason.STALE)
            self._lost += [item.meta.rollout_id for item in stale]
        self.taken = deque(batch for batch in self.taken if batch)

    def _starved(self, step: int, version: int) -> StallError:
        learner = self.settings.learner
        return StallError(
            f"update {step + 1} timed out after {learner.fetch_timeout_s:g} s (learner.fetch_timeout_s) waiting for "
            f"{learner.batch_size} samples at most {self.settings.buffer.max_off_policy_versions} versions older than "
            f"weights {version}"
        )


def split(items: Batch, num_batches: int) -> list[Batch]:
    """Whole rollouts in `num_batches` batches, as even in samples as these allow; empty ones are left out."""
    total, before = _num_samples(items), 0
    batches: list[Batch] = [[] for _ in range(num_batches)]
    for item in items:
        batches[before * num_batches // total].append(item)
        before += item.meta.num_samples
    return [batch for batch in batches if batch]


def _num_samples(items: Batch) -> int:
    return sum(item.meta.num_samples for item in items)


async def _pause(ledger: Ledger, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await ledger.changes.wait()
    except TimeoutError:
        return

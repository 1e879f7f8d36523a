"""The learner as one service: calls with a deadline, and another learner where one dies."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from controller.deaths import in_words, is_blameless
from controller.waiting import StallError, answer
from files import newest_checkpoint
from learner.sft import SftProgress, SftReport
from problems.types import Problem

logger = logging.getLogger(__name__)

ANSWER_S = 600.0
WARM_START_S = 24 * 3600.0
PROGRESS_S = 1.0
MAX_DEATHS_IN_A_ROW = 3


class LearnerGoneError(RuntimeError):
    """The learner died, or did not answer in time; the message says which. `is_blameless` where its node did."""

    def __init__(self, why: str, *, is_blameless: bool = False) -> None:
        super().__init__(why)
        self.is_blameless = is_blameless


class LearnerFailedError(RuntimeError):
    """Learners died again and again without an update in between."""


@dataclass(slots=True)
class LearnerService:
    """`spawn` starts a learner actor and returns its handle at once; `folder` holds the checkpoints of this run.

    Usage:
        step = await service.start(checkpoint)              # None: the initial model, warm-started where asked for
        report = await service.call("step", items, ahead)   # LearnerGoneError: then
        step = await service.replace(error, version=7)      # from the newest checkpoint in `folder`
    """

    spawn: Callable[[], Any]
    references: Sequence[Problem]
    folder: Path
    warm_start: bool
    on_warm_start: Callable[[SftProgress], None]
    end: Callable[[Any], None] = ray.kill
    warm_started: SftReport | None = None
    num_replaced: int = 0
    _actor: Any = field(init=False)
    _deaths_in_a_row: int = 0

    def __post_init__(self) -> None:
        self._actor = self.spawn()  # at once, so that it starts beside the other actors

    async def start(self, checkpoint: Path | None, version: int = 0) -> int:
        """Prepare the learner from `checkpoint`, at `version` or later; returns the number of updates it has made.

        Raises LearnerFailedError where learners die of it again and again.
        """
        try:
            return await self._prepare(checkpoint, version)
        except LearnerGoneError as error:
            logger.warning("the learner is gone (%s) before it was ready: a new one starts", error)
            return await self.replace(error, version)

    async def _prepare(self, checkpoint: Path | None, version: int) -> int:
        await self.call("set_references", self.references)
        if checkpoint is not None:
            return int(await self.call("resume", checkpoint, version))
        if self.warm_start:
            self.warm_started = await self._warm_start()
        return int(await self.call("at_least_version", version))

    async def call(self, method: str, *arguments: Any, deadline_s: float = ANSWER_S, shown: str | None = None) -> Any:
        """The value of the learner's `method`, a call that is `shown` so in the Ray dashboard.

        Raises what the method raises, LearnerGoneError where none answers.
        """
        call = getattr(self._actor, method)
        if shown is not None:
            call = call.options(name=shown)
        try:
            value = await answer(call.remote(*arguments), deadline_s, f"the learner to answer `{method}`")
        except RayTaskError:
            raise  # the method's own, also where that is of one of the types below
        except (RayError, StallError) as error:
            if isinstance(error, RayActorError) and error.actor_init_failed:
                raise  # it would fail again
            raise LearnerGoneError(in_words(error), is_blameless=is_blameless(error)) from error
        if method == "step":
            self._deaths_in_a_row = 0
        return value

    async def replace(self, cause: LearnerGoneError, version: int) -> int:
        """Start another learner from the newest checkpoint of this run; returns its number of updates.

        Its next weights are newer than `version`. Raises LearnerFailedError where learners die again and again.
        """
        while True:
            self._deaths_in_a_row += not cause.is_blameless
            self.num_replaced += 1
            self.end(self._actor)
            if self._deaths_in_a_row > MAX_DEATHS_IN_A_ROW:
                raise LearnerFailedError(
                    f"{self._deaths_in_a_row} learners died without an update in between; the last: {cause}"
                ) from cause
            self._actor = self.spawn()
            try:
                return await self._prepare(newest_checkpoint(self.folder), version)
            except LearnerGoneError as error:
                logger.warning("the new learner is gone too (%s): another one starts", error)
                cause = error

    async def _warm_start(self) -> SftReport:
        task = asyncio.ensure_future(self.call("sft", deadline_s=WARM_START_S))
        try:
            while not task.done():
                await asyncio.wait([task], timeout=PROGRESS_S)
                state: SftProgress | None = await self.call("progress")
                if state is not None:
                    self.on_warm_start(state)
        finally:
            task.cancel()
        report: SftReport = await task
        return report


def step_shown(step: int, num_steps: int) -> str:
    """The update after `step` as the Ray dashboard shows it: in a long run a range of updates.

    Ray exports a series for every name that a call ever had, so that there are a hundred of them at most.
    """
    every = math.ceil(num_steps / 100)
    first = step // every * every + 1
    last = min(first + every - 1, num_steps)
    return f"learner.step {first}{f'-{last}' if last > first else ''} of {num_steps}"

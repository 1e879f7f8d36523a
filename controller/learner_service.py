"""The learner as one service: calls with a deadline, and another learner if one dies."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from rltf.controller.events import Emit, Said
from rltf.files import newest_whole_checkpoint, set_aside
from rltf.learner.sft import SftReport
from rltf.problems.types import Problem
from rltf.supervise import StallError, Supervised, Watched, answer, in_words

logger = logging.getLogger(__name__)

T = TypeVar("T")

ANSWER_S = 600.0
SFT_S = 24 * 3600.0
PROGRESS_S = 1.0


class LearnerGoneError(RuntimeError):
    """The learner died or did not answer in time; the message says which."""


@dataclass(slots=True)
class LearnerService:
    """`spawn` starts a learner actor and returns its handle at once; `folder` holds the checkpoints of this run.

    Usage:
        step = await service.start(checkpoint)      # None: the initial model, after SFT if `sft` says so
        weights = await service.call(lambda learner: learner.publish.remote(), "publish")
        step = await service.replace(error, version=7)      # after LearnerGoneError: from the newest checkpoint
    """

    spawn: Callable[[int], Any]
    references: Sequence[Problem]
    folder: Path
    sft: bool
    emit: Emit
    end: Callable[[Any], None] = ray.kill
    sft_report: SftReport | None = None
    is_ready: bool = False
    place: Supervised[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.place = Supervised("the learner", self.spawn, self.end)  # at once, so that it starts beside the others

    async def start(self, checkpoint: Path | None, version: int = 0) -> int:
        """Prepare the learner from `checkpoint`, at `version` or later; returns the number of updates it has made.

        Raises GaveUpError if learners die of it again and again.
        """
        try:
            return await self._prepare(checkpoint, version)
        except LearnerGoneError as error:
            logger.warning("the learner is gone (%s) before it was ready: a new one starts", error)
            return await self.replace(error, version)

    async def call(self, method: Callable[[Any], Awaitable[T]], what: str, *, deadline_s: float = ANSWER_S) -> T:
        """The value of a call to the learner: `method` makes it on the handle it gets, and `what` says what it is for.

        Raises what the method raises, and LearnerGoneError if no learner answers.
        """
        try:
            return await answer(method(self.place.actor), deadline_s, f"the learner to {what}")
        except RayTaskError:
            raise  # the method's own, even if it is also of one of the types below
        except (RayError, StallError) as error:
            if isinstance(error, RayActorError) and error.actor_init_failed:
                raise  # it would fail again
            raise LearnerGoneError(in_words(error)) from error

    def watched(self) -> list[Watched]:
        """The learner, once it has started."""
        learner = self.place.actor
        return [Watched("the learner", learner.progress.remote, partial(self.end, learner))] if self.is_ready else []

    async def replace(self, cause: LearnerGoneError, version: int) -> int:
        """Start another learner from the newest checkpoint of this run; returns its number of updates.

        Its next weights are newer than `version`. Raises GaveUpError if learners die again and again.
        """
        while True:
            self.is_ready = False
            self.place.restart(cause.__cause__ or cause)
            try:
                return await self._prepare(await self._newest_whole(), version)
            except LearnerGoneError as error:
                logger.warning("the new learner is gone too (%s): another one starts", error)
                cause = error

    async def _newest_whole(self) -> Path | None:
        """The newest checkpoint that is whole; newer ones, which are damaged, are set aside."""
        # In a thread, because it reads whole checkpoints.
        checkpoint, damaged = await asyncio.to_thread(newest_whole_checkpoint, self.folder)
        for path, found in damaged.items():
            text = f"checkpoint {path} is damaged and is set aside as {set_aside(path).name}: {found}"
            logger.warning("%s", text)
            self.emit(Said(text))
        return checkpoint

    async def _prepare(self, checkpoint: Path | None, version: int) -> int:
        await self.call(lambda learner: learner.set_references.remote(self.references), "take the reference programs")
        self.is_ready = True
        if checkpoint is not None:
            return await self.call(lambda learner: learner.resume.remote(checkpoint, version), f"resume {checkpoint}")
        if self.sft:
            self.sft_report = await self._run_sft()
        return await self.call(lambda learner: learner.at_least_version.remote(version), "set its version")

    async def _run_sft(self) -> SftReport:
        stage = self.call(lambda learner: learner.sft.remote(), "fine-tune", deadline_s=SFT_S)
        task: asyncio.Future[SftReport] = asyncio.ensure_future(stage)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=PROGRESS_S)
                state = await self.call(lambda learner: learner.progress.remote(), "tell its progress")
                if state is not None:
                    self.emit(state)
        finally:
            task.cancel()
        return await task


def shown_step(step: int, num_steps: int) -> str:
    """The name of the update after `step` in the Ray dashboard: in a long run, a range of updates.

    Ray exports a series for every name that a call ever had, so there are at most a hundred of them.
    """
    every = math.ceil(num_steps / 100)
    first = step // every * every + 1
    last = min(first + every - 1, num_steps)
    return f"learner.step {first}{f'-{last}' if last > first else ''} of {num_steps}"

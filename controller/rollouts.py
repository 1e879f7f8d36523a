"""Rollouts on their way: which problem is sampled next, what is graded, and what happens when one is lost.

next problem -> GeneratorPool.sample -> SandboxPool.submit(grade_rollout) -> [worker -> buffer]
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray.exceptions import GetTimeoutError, ObjectLostError

from actors.messages import RolloutHandle, RolloutRequest
from controller.breaker import Breaker
from controller.ledger import Ledger, Live
from controller.problem_sampler import ProblemSampler
from controller.reports import GradedRollout, GradedSample
from controller.waiting import answer_in_turn
from learner.buffer import DropReason
from rewards import ProgramReward
from sandbox.pool import CallLostError
from settings import Settings

logger = logging.getLogger(__name__)

GRADE_S = 3600.0
DRAIN_S = 3600.0
NUM_SHOWN = 2
MAX_SHOWN = 16
# Between generator and grader, a rollout is in the rollout store, and may be gone when the grader asks for it.
LOST = (ObjectLostError, GetTimeoutError)


class Generators(Protocol):
    """What samples: see `controller.generators.GeneratorPool`."""

    async def sample(self, request: RolloutRequest) -> RolloutHandle: ...


class Graders(Protocol):
    """What grades: see `sandbox.pool.SandboxPool`."""

    async def submit(self, method: str, *arguments: Any, num_items: int = 1) -> Any: ...


@dataclass(slots=True)
class GradingCounts:
    """What generators and sandboxes did: tokens sampled of graded programs, these by the isolation they ran under,
    tests, programs lost to the grader's faults, and the seconds of all workers that grading took.
    """

    isolation: dict[str, int] = field(default_factory=dict)
    num_tests: int = 0
    num_faults: int = 0
    num_sampled_tokens: int = 0
    grading_s: float = 0.0

    def add(self, graded: GradedRollout) -> None:
        """Count one rollout."""
        level = graded.isolation.value
        self.isolation[level] = self.isolation.get(level, 0) + graded.num_samples + graded.num_faults
        self.num_tests += graded.num_tests
        self.num_faults += graded.num_faults
        self.num_sampled_tokens += graded.num_tokens
        self.grading_s += graded.seconds


@dataclass(slots=True)
class Sampling:
    """Keeps as many samples under way as `allow` said, for ever.

    `greedy` holds what the greedy baselines know of each problem, `shown` programs to show since somebody took them.
    """

    settings: Settings
    ledger: Ledger
    order: ProblemSampler
    generators: Generators
    graders: Graders
    on_graded: Callable[[GradedRollout], None]
    greedy: dict[str, ProgramReward] = field(default_factory=dict)
    shown: list[GradedSample] = field(default_factory=list)
    grading: GradingCounts = field(default_factory=GradingCounts)
    breaker: Breaker = field(default_factory=Breaker)
    _num_graded: int = 0
    _allowed: int = 0
    _turns: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    def allow(self, num_samples: int) -> None:
        """So many samples may be useful from now on (see `controller.problem_sampler.capacity`)."""
        self._allowed = num_samples
        self.ledger.changes.notify()

    async def run(self) -> None:
        """Sample until cancelled. What is issued in the ledger already, by a run that this one resumes, comes first."""
        num_samples = self.settings.generator.num_generations
        async with asyncio.TaskGroup() as rollouts:
            for rollout in self.ledger.issued():
                rollouts.create_task(self._see_through(rollout))
            while True:
                while self.ledger.num_useful < self._allowed:
                    task_id = self.order.next()
                    position = self.order.position
                    rollout = self.ledger.issue(f"r{position}", position, task_id, num_samples)
                    rollouts.create_task(self._see_through(rollout))
                await self.ledger.changes.wait()

    async def drained(self) -> None:
        """Until every rollout is in the buffer, or further. Raises StallError where that takes too long."""
        what = "all rollouts to be sampled and graded"
        await answer_in_turn(self._drained(), DRAIN_S, what, lambda: self._num_graded)

    async def _drained(self) -> None:
        while self.ledger.on_the_way():
            await self.ledger.changes.wait()

    async def _see_through(self, rollout: Live | None) -> None:
        """Sample and grade a rollout; where it is lost on the way, another one of the same problem."""
        while rollout is not None:
            if self.settings.run.deterministic:
                # What a rollout leaves behind for the next one of its problem must not depend on which is graded first.
                async with self._turns[rollout.task_id]:
                    rollout = await self._attempt(rollout)
            else:
                rollout = await self._attempt(rollout)

    async def _attempt(self, rollout: Live) -> Live | None:
        """The rollout to go on with, where this one is lost; its experiences go to the buffer without passing here."""
        try:
            handle = await self.generators.sample(self._request(rollout))
            self.ledger.generated(rollout.rollout_id)
            num_shown = NUM_SHOWN if len(self.shown) < MAX_SHOWN else 0
            previous = self.greedy.get(rollout.task_id)
            call = self.graders.submit("grade_rollout", handle.ref, previous, num_shown, num_items=handle.num_samples)
            what = "sandbox workers to grade rollouts"
            graded: GradedRollout = await answer_in_turn(call, GRADE_S, what, lambda: self._num_graded)
        except LOST:
            return self._issue_again(rollout)
        except CallLostError as error:
            logger.warning("rollout %s of %s is dropped: %s", rollout.rollout_id, rollout.task_id, error)
            self.ledger.drop_on_the_way(rollout.rollout_id, DropReason.UNGRADED)
            self.breaker.note(rollout.num_samples, rollout.num_samples, str(error))
        else:
            self._account(graded)
        return None

    def _issue_again(self, lost: Live) -> Live | None:
        """Its object died with the process that held it: the samples are dropped, the problem keeps its place."""
        if not self.ledger.drop_on_the_way(lost.rollout_id, DropReason.LOST):
            return None
        name, _, attempt = lost.rollout_id.partition(".")
        again = f"{name}.{int(attempt or 0) + 1}"
        logger.warning(
            "rollout %s of %s died with the process that held it: %d samples dropped as lost, its problem is sampled "
            "again as %s", lost.rollout_id, lost.task_id, lost.num_samples, again,
        )  # fmt: skip
        return self.ledger.issue(again, lost.position, lost.task_id, self.settings.generator.num_generations)

    def _request(self, rollout: Live) -> RolloutRequest:
        generator, run = self.settings.generator, self.settings.run
        return RolloutRequest(
            rollout_id=rollout.rollout_id,
            task_id=rollout.task_id,
            num_samples=generator.num_generations,
            greedy=self.settings.rewards.needs_greedy,
            temperature=generator.temperature,
            top_p=generator.top_p,
            max_tokens=generator.max_tokens,
            seed=seed_of(run.seed, "rollout", rollout.position) if run.deterministic else None,
        )

    def _account(self, graded: GradedRollout) -> None:
        self._num_graded += 1
        self.ledger.graded(graded.rollout_id, graded.num_samples, graded.buffer)
        self.grading.add(graded)
        self.on_graded(graded)
        num_programs = graded.num_samples + graded.num_faults
        self.breaker.note(num_programs, graded.num_faults, graded.fault)
        self.order.note(graded.task_id, solved=graded.num_passed == graded.num_samples > 0)
        if graded.greedy is not None:
            self.greedy[graded.task_id] = graded.greedy
        self.shown.extend(graded.shown)


def seed_of(*parts: object) -> int:
    """A seed of 31 bits that follows from what it is for."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:4], "little") >> 1

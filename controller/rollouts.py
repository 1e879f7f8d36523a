"""The life of a rollout before the buffer: sampled, graded, and sampled again if it is lost.

next problem -> GeneratorPool.sample -> SandboxPool.submit(grade_rollout) -> [worker -> buffer]
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ray.exceptions import GetTimeoutError, ObjectLostError, RayError

from rltf.actors.messages import RolloutHandle, RolloutRequest
from rltf.controller.dialogues import Dialogues, Generators, Graders
from rltf.controller.grading import GradedRollout, UngradedRollout
from rltf.controller.ledger import DropReason, Ledger, Live, State
from rltf.controller.problem_sampler import ProblemSampler
from rltf.controller.samples import GradedSample
from rltf.errors import UserError
from rltf.rewards import ProgramReward
from rltf.sandbox.pool import CallLostError
from rltf.seeds import seed_of
from rltf.settings import Settings
from rltf.supervise import GaveUpError, StallError, answer, answer_in_turn
from rltf.transport.rollouts import Rollout

logger = logging.getLogger(__name__)

GRADE_S = 3600.0
DRAIN_S = 3600.0
FETCH_S = 60.0
# A problem whose rollouts are lost so often in a row shows that something is wrong with the rollout store.
MAX_LOST_IN_A_ROW = 10
# So many rollouts without a signal show that there is nothing to learn.
MAX_SILENT_IN_A_ROW = 500
NUM_SHOWN = 2
MAX_SHOWN = 16
# The share of the last BREAKER_WINDOW programs that may be lost to grader errors, once BREAKER_MIN_SEEN were seen.
MAX_ERROR_SHARE = 0.1
BREAKER_WINDOW = 1000
BREAKER_MIN_SEEN = 200
# The rollout store holds a rollout until it is graded, and may die before the grader fetches it.
LOST = (ObjectLostError, GetTimeoutError)
# Where a rollout is until it is graded: another worker may have graded one that is further along.
UNGRADED = (State.ISSUED, State.GENERATED)


class GraderFailedError(RuntimeError):
    """The sandbox fails on so many programs that training on the rest would mean nothing."""


@dataclass(slots=True)
class GradingCounts:
    """What generators and sandbox workers did since the last update.

    `isolation` counts graded programs by isolation level, `num_sampled_tokens` their tokens; `num_faults` programs were
    lost to grader errors, `num_truncated` reached the token limit, and `num_silent_groups` of `num_groups` rollouts
    carry no signal; `grading_s` are seconds of all workers.
    """

    isolation: dict[str, int] = field(default_factory=dict)
    num_tests: int = 0
    num_faults: int = 0
    num_sampled_tokens: int = 0
    num_truncated: int = 0
    num_groups: int = 0
    num_silent_groups: int = 0
    grading_s: float = 0.0

    def add(self, graded: GradedRollout) -> None:
        """Count one rollout."""
        level = graded.isolation.value
        self.isolation[level] = self.isolation.get(level, 0) + graded.num_samples + graded.num_faults
        self.num_tests += graded.num_tests
        self.num_faults += graded.num_faults
        self.num_sampled_tokens += graded.num_tokens
        self.num_truncated += graded.num_truncated
        if graded.num_samples:
            self.num_groups += 1
            self.num_silent_groups += not graded.has_signal
        self.grading_s += graded.seconds


class Breaker:
    """Stops the run if the graders failed on too many of the last programs, however long the run is."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, int]] = deque()

    def note(self, num_programs: int, num_errors: int, cause: str) -> None:
        """The graders failed on `num_errors` of `num_programs` more. Raises GraderFailedError, with `cause`."""
        self._recent.append((num_programs, num_errors))
        while (num_seen := sum(num for num, _ in self._recent)) - self._recent[0][0] >= BREAKER_WINDOW:
            self._recent.popleft()
        total_errors = sum(errors for _, errors in self._recent)
        if num_errors and num_seen >= BREAKER_MIN_SEEN and total_errors > MAX_ERROR_SHARE * num_seen:
            raise GraderFailedError(
                f"the sandbox failed on {total_errors} of the last {num_seen} programs; the last time: "
                f"{cause}; `python -m sandbox doctor` says what is wrong with a machine"
            )


@dataclass(slots=True)
class RolloutLoop:
    """Keeps as many samples in flight or trained on as `allow` says, until it is cancelled.

    `greedy` holds what the greedy baselines know about each problem; `shown` holds programs to show, until they are
    taken.
    """

    settings: Settings
    ledger: Ledger
    sampler: ProblemSampler
    generators: Generators
    graders: Graders
    on_graded: Callable[[GradedRollout], None]
    on_ungraded: Callable[[UngradedRollout], None]
    greedy: dict[str, ProgramReward] = field(default_factory=dict)
    shown: list[GradedSample] = field(default_factory=list)
    grading: GradingCounts = field(default_factory=GradingCounts)
    breaker: Breaker = field(default_factory=Breaker)
    dialogues: Dialogues = field(init=False)
    _num_graded: int = 0
    _num_silent: int = 0
    _allowed: int = 0
    _turns: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    def __post_init__(self) -> None:
        self.dialogues = Dialogues(self.generators, self.graders, self.settings.generator.max_turns)

    def allow(self, num_samples: int) -> None:
        """`num_samples` may be useful in all (see `controller.problems.capacity`)."""
        self._allowed = num_samples
        self.ledger.changes.notify()

    def allow_at_least(self, num_samples: int) -> None:
        """The next update cannot be made without `num_samples` in all."""
        if num_samples > self._allowed:
            self.allow(num_samples)

    async def run(self) -> None:
        """Sample until cancelled. Rollouts that the ledger of a resumed run has issued already come first."""
        num_samples = self.settings.generator.num_generations
        async with asyncio.TaskGroup() as rollouts:
            for rollout in self.ledger.issued():
                rollouts.create_task(self._see_through(rollout))
            while True:
                while self.ledger.num_useful < self._allowed:
                    task_id = self.sampler.next()
                    position = self.sampler.position
                    rollout = self.ledger.issue(f"r{position}", position, task_id, num_samples)
                    rollouts.create_task(self._see_through(rollout))
                await self.ledger.changes.wait()

    async def drained(self) -> None:
        """Wait until every rollout has reached the buffer. Raises StallError if that takes too long."""
        what = "all rollouts to be sampled and graded"
        await answer_in_turn(self._drained(), DRAIN_S, what, lambda: self._num_graded)

    async def _drained(self) -> None:
        while self.ledger.on_the_way():
            await self.ledger.changes.wait()

    async def _see_through(self, rollout: Live | None) -> None:
        """Sample and grade a rollout; if it is lost on the way, another one of the same problem."""
        while rollout is not None:
            if self.settings.run.deterministic:
                # What a rollout leaves for the next one of its problem must not depend on which is graded first.
                async with self._turns[rollout.task_id]:
                    rollout = await self._attempt(rollout)
            else:
                rollout = await self._attempt(rollout)

    async def _attempt(self, rollout: Live) -> Live | None:
        """The rollout to continue with if this one is lost. Its experiences go to the buffer, not through here."""
        try:
            request = self._request(rollout)
            handle = await self.generators.sample(request)
            handle = await self.dialogues.continued(request, handle)
            self.ledger.generated(rollout.rollout_id)
            num_shown = NUM_SHOWN if len(self.shown) < MAX_SHOWN else 0
            previous = self.greedy.get(rollout.task_id)
            call = self.graders.submit("grade_rollout", handle.refs, previous, num_shown, num_items=rollout.num_samples)
            what = "sandbox workers to grade rollouts"
            graded: GradedRollout = await answer_in_turn(call, GRADE_S, what, lambda: self._num_graded)
        except LOST:
            return self._issue_again(rollout)
        except CallLostError as error:
            self.ledger.drop(rollout.rollout_id, DropReason.UNGRADED, *UNGRADED)
            await self.note_ungraded(handle, rollout.task_id, rollout.num_samples, error)
        else:
            self._account(graded)
        return None

    async def note_ungraded(self, handle: RolloutHandle, task_id: str, num_programs: int, cause: CallLostError) -> None:
        """No worker survived these programs: keep them for people to look at. The breaker may end the run."""
        try:
            fetched: list[Rollout] = await answer(
                asyncio.gather(*handle.refs), FETCH_S, f"the programs of rollout {handle.rollout_id}"
            )
            completions = [completion for rollout in fetched for completion in rollout.completions]
            programs = {completion.completion_id: completion.program for completion in completions}
        except (RayError, StallError):
            programs = {}  # they died with the rollout store
        logger.warning(
            "rollout %s of %s cannot be graded: %s. Its programs: %s",
            handle.rollout_id, task_id, cause, ", ".join(programs) or "lost too",
        )  # fmt: skip
        self.on_ungraded(UngradedRollout(task_id, str(cause), programs))
        self.breaker.note(num_programs, num_programs, str(cause))

    def _issue_again(self, lost: Live) -> Live | None:
        """Replace a rollout that died with the process that held it; its problem keeps its place in the order."""
        if not self.ledger.drop(lost.rollout_id, DropReason.LOST, *UNGRADED):
            return None
        name, _, attempt = lost.rollout_id.partition(".")
        num_lost = int(attempt or 0) + 1
        if num_lost >= MAX_LOST_IN_A_ROW:
            raise lost_too_often(lost.task_id)
        again = f"{name}.{num_lost}"
        logger.warning(
            "rollout %s of %s died with the process that held it: %d samples dropped as lost, its problem is sampled "
            "again as %s", lost.rollout_id, lost.task_id, lost.num_samples, again,
        )  # fmt: skip
        return self.ledger.issue(again, lost.position, lost.task_id, lost.num_samples)

    def _request(self, rollout: Live) -> RolloutRequest:
        generator, run = self.settings.generator, self.settings.run
        return RolloutRequest(
            rollout_id=rollout.rollout_id,
            task_id=rollout.task_id,
            num_samples=rollout.num_samples,  # of a resumed run, which may have had another num_generations
            greedy=self.settings.rewards.needs_greedy,
            temperature=generator.temperature,
            top_p=generator.top_p,
            max_tokens=generator.max_tokens,
            seed=seed_of(run.seed, "rollout", rollout.position) if run.deterministic else None,
        )

    def _account(self, graded: GradedRollout) -> None:
        self._num_graded += 1
        if (added := graded.added) is None:
            reason = _reason_to_drop(graded)
            self.ledger.drop(graded.rollout_id, reason, *UNGRADED)
            self._count_silence(reason)
        elif added.meta is None:  # it was buffered by another worker, which did not live to say so, and evicted
            self.ledger.drop(graded.rollout_id, DropReason.EVICTED, *UNGRADED)
        else:
            self._num_silent = 0
            self.ledger.buffer(graded.rollout_id, added.meta, added.epoch, graded.num_overlong)
            for rollout_id in added.evicted:
                self.ledger.drop(rollout_id, DropReason.EVICTED, State.BUFFERED)
        self.grading.add(graded)
        self.on_graded(graded)
        num_programs = graded.num_samples + graded.num_faults
        self.breaker.note(num_programs, graded.num_faults, graded.fault)
        self.sampler.note(graded.task_id, graded.num_passed, graded.num_samples)
        if graded.greedy is not None:
            self.greedy[graded.task_id] = graded.greedy
        self.shown.extend(graded.shown)

    def _count_silence(self, reason: DropReason) -> None:
        """Raise UserError if filters drop everything, since such a run would never advance."""
        self._num_silent = self._num_silent + 1 if reason in _FILTERS else 0
        if self._num_silent >= MAX_SILENT_IN_A_ROW:
            setting, why = _FILTERS[reason]
            raise UserError(
                f"{setting} dropped {self._num_silent} rollouts in a row, because {why}, or set it to false"
            )


# What may drop a whole rollout, and what to do if it drops all of them.
_FILTERS = {
    DropReason.SILENT: (
        "rewards.filter_groups",
        "all programs of each earned the same: train on problems that the model solves sometimes, fine-tune it first "
        "(learner.sft.num_steps)",
    ),
    DropReason.OVERLONG: (
        "rewards.overlong_filter",
        "all their samples were cut off: raise generator.max_tokens, fine-tune the model first (learner.sft.num_steps)",
    ),
}


def _reason_to_drop(graded: GradedRollout) -> DropReason:
    """Why a rollout is not in the buffer as a whole. Some of a silent one may have been overlong."""
    if not graded.num_samples:
        return DropReason.UNGRADED
    return DropReason.OVERLONG if graded.num_overlong == graded.num_samples else DropReason.SILENT


def lost_too_often(task_id: str) -> GaveUpError:
    """What ends a run in which the rollouts of a problem never reach a grader."""
    return GaveUpError(f"{MAX_LOST_IN_A_ROW} rollouts of {task_id} in a row died with the process that held them")

"""The controller: which update is made next, when weights go out, and what happens when something dies.

    RolloutLoop:   next problem -> generators -> sandbox pool -> [worker -> buffer]
    BatchSource:   buffer -> batches of references
    Controller:    learner.step(batch) -> every refresh_every: learner.publish -> generators; more problems admitted

Sampling and training run at the same time and meet only in the buffer. Only ids, counts and references pass through
here; the ledger, which outlives every actor, knows where each rollout is.

| what dies | what is lost | what happens |
|---|---|---|
| generator | what it was sampling | others sample it; a new one starts with the newest weights |
| sandbox worker | nothing | other workers grade its rollouts again; each counts once |
| rollout store | rollouts that wait to be graded | dropped as lost; their problems are sampled again |
| buffer | the rollouts in it | dropped as lost; others are sampled in their place |
| learner | updates since the last checkpoint | undone, their samples dropped as rewound; a new one resumes there |
| node | what the actors on it lose | the same, on other nodes or on the one that takes its place |
| driver | everything since the last checkpoint | `--resume` continues there; what was in flight is sampled again |
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ray.actor import ActorProxy

from rltf.actors.messages import RolloutHandle, RolloutRequest
from rltf.controller.batches import BatchSource, InterruptedRunError
from rltf.controller.dialogues import Graders
from rltf.controller.events import Emit, Evaluated, EvaluationProgress, Graded, Refreshed, Rewound, Said, Step, Ungraded
from rltf.controller.generators import GeneratorPool
from rltf.controller.learner_service import ANSWER_S, LearnerGoneError, LearnerService, shown_step
from rltf.controller.ledger import DropReason, Ledger, State
from rltf.controller.problem_sampler import Passes, ProblemSampler
from rltf.controller.problems import capacity
from rltf.controller.rollouts import (
    LOST,
    MAX_LOST_IN_A_ROW,
    GraderFailedError,
    GradingCounts,
    RolloutLoop,
    lost_too_often,
)
from rltf.controller.state import dump_state, read_state
from rltf.evaluation import Tally, evaluate_tally
from rltf.files import checkpoints, newest_checkpoint, prune, step_of
from rltf.learner.buffer import BufferServer
from rltf.learner.metrics import StepReport
from rltf.problems.fingerprints import ShortFingerprints
from rltf.problems.types import Problem
from rltf.sandbox.pool import CallLostError
from rltf.sandbox.verdict import Outcome
from rltf.settings import Settings
from rltf.supervise import StallError, answer, answer_in_turn, outstanding
from rltf.transport.weights import WeightsHandle

logger = logging.getLogger(__name__)

EVALUATION_S = 3600.0
LOAD_S = 600.0
WATCH_S = 30.0
# If no rollout or update moves for so long, the log says what is waited for.
STALL_S = 120.0


@dataclass(slots=True)
class Controller:
    """One run, from the first published weights to the last update. `step` updates have been made.

    `evaluation_sets` has the task ids of each named set of `held_out`. `measured` are results of training problems from
    before the run.
    """

    settings: Settings
    train: Sequence[Problem]
    held_out: Sequence[Problem]
    generators: GeneratorPool[RolloutHandle]
    pool: Graders
    buffer: ActorProxy[BufferServer]
    learner: LearnerService
    emit: Emit
    fingerprints: dict[str, ShortFingerprints] = field(default_factory=dict)
    evaluation_sets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    measured: Mapping[str, Passes] = field(default_factory=dict)
    step: int = 0
    version: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    rollouts: RolloutLoop = field(init=False)
    batches: BatchSource = field(init=False)
    _published_at: int = -1
    _num_evaluated: int = 0

    def __post_init__(self) -> None:
        run, problems = self.settings.run, self.settings.problems
        sampler = ProblemSampler(
            [problem.task_id for problem in self.train],
            run.seed,
            skip_solved=problems.skip_solved,
            skip_unsolved=problems.skip_unsolved,
            measured=self.measured,
        )
        self.rollouts = RolloutLoop(
            self.settings,
            self.ledger,
            sampler,
            self.generators,
            self.pool,
            on_graded=lambda rollout: self.emit(Graded(rollout)),
            on_ungraded=lambda rollout: self.emit(Ungraded(rollout)),
        )
        self.batches = BatchSource(self.settings, self.ledger, self.buffer, self.rollouts.allow_at_least)

    async def restore(self, checkpoint: Path) -> None:
        """Continue the run that wrote `checkpoint`. Raises UserError if it does not fit."""
        state = read_state(checkpoint)
        self.ledger = self.rollouts.ledger = self.batches.ledger = state.ledger
        self.rollouts.greedy = state.greedy
        if not self.rollouts.sampler.restore(state.order):
            self._say("the problems to train on have changed: the order of the current pass over them is a new one")
        reply = self.buffer.load.remote(checkpoint / "trainer_state" / "rollouts.npz")
        loaded = await answer(reply, LOAD_S, f"the buffer to load {checkpoint}")
        await self.batches.restore(*loaded, state.batches)
        self._drop_removed()
        logger.info(
            "resumed from %s: %s; %d rollouts are sampled again",
            checkpoint, self.ledger.counts(), len(self.ledger.issued()),
        )  # fmt: skip

    def _drop_removed(self) -> None:
        """Drop the rollouts to sample again whose problem is no longer one to train on."""
        known = {problem.task_id for problem in self.train}
        removed = [rollout for rollout in self.ledger.issued() if rollout.task_id not in known]
        for rollout in removed:
            self.ledger.drop(rollout.rollout_id, DropReason.LOST)
        if removed:
            self._say(f"{len(removed)} rollouts of problems that are no longer there are dropped as lost")

    def _say(self, text: str) -> None:
        logger.warning("%s", text)
        self.emit(Said(text))

    async def run(self) -> None:
        """Train from `step` to `run.num_steps`, evaluating on the way. Whatever fails in any stage ends the run."""
        # What exists now lives as long as the run: scanning it took the collector a fifth of the driver's time.
        gc.collect()
        gc.freeze()
        try:
            await self._run()
        finally:
            gc.unfreeze()

    async def _run(self) -> None:
        while self._published_at < 0 and not await self._surviving(self.publish):
            pass
        async with asyncio.TaskGroup() as stages:
            rollouts = stages.create_task(self._explaining(self.rollouts.run()), name="rollouts")
            watch = stages.create_task(self._watch(), name="watch")
            try:
                await self._explaining(self._learn())
            finally:
                rollouts.cancel()
                watch.cancel()

    async def evaluate(self) -> None:
        """Emit pass@k on the held-out problems, if any, with the learner's current weights."""
        while not await self._surviving(self._evaluate):
            pass

    async def _evaluate(self) -> None:
        if not self.held_out:
            return
        await self.publish()
        tallies = [Tally(self.held_out, self.evaluation_sets) for _ in range(self.settings.generator.max_turns)]
        self._num_evaluated = 0
        evaluated = asyncio.gather(*(self._evaluate_one(problem) for problem in self.held_out))
        outcomes = await answer_in_turn(evaluated, EVALUATION_S, "the evaluation", lambda: self._num_evaluated)
        for problem, dialogues in zip(self.held_out, outcomes, strict=True):
            for number, tally in enumerate(tallies):
                for dialogue in dialogues:
                    tally.add(problem.task_id, dialogue[min(number, len(dialogue) - 1)])
        tally = tallies[-1]
        try:
            result = evaluate_tally(tally, self.settings.evaluation.ks)
        except ValueError as error:
            raise GraderFailedError(f"the sandbox failed on {tally.num_ungraded} programs, so {error}") from error
        for name in (name for name in self.evaluation_sets if name not in result.sets):
            self._say(f"step {self.step}: no pass@k on {name}, because the sandbox failed on its programs")
        num_passed = {task: tally.num_passed[task] for task in tally.num_samples}
        by_turn = [evaluate_tally(one, [1]).pass_at[1] for one in tallies] if len(tallies) > 1 else []
        self.emit(Evaluated(self.step, result, num_passed, tuple(by_turn)))

    async def publish(self) -> None:
        """Have the generators sample with the learner's current weights, unless they do already."""
        if self._published_at == self.step:
            return
        if self.settings.run.deterministic and self._published_at >= 0 and self.step < self.settings.run.num_steps:
            await self.rollouts.drained()  # so that every rollout is sampled with one version of the weights
        began = time.monotonic()
        weights: WeightsHandle = await self.learner.call(lambda learner: learner.publish.remote(), "publish weights")
        self._published_at, self.version = self.step, weights.version
        self.generators.use(weights)
        self.rollouts.allow(capacity(self.settings, num_trained=self.ledger.num_trained, step=self.step))
        self.emit(Refreshed(weights.version, tuple(self.rollouts.shown), time.monotonic() - began))
        self.rollouts.shown = []

    async def save_checkpoint(self) -> Path:
        """Write a checkpoint of the learner and of this run's state; returns its folder.

        A rollout that is in the ledger but not among the items, or the other way round, is sampled again.
        """
        items = await self.batches.contents()
        state = dump_state(self.rollouts, self.batches, self.fingerprints)
        step, keep, folder = self.step, self.settings.checkpoint.keep, self.learner.folder
        path: Path = await self.learner.call(
            lambda learner: learner.save_checkpoint.remote(folder, state, items, keep), "save a checkpoint"
        )
        prune(folder, keep)  # the learner prunes its own node, which may be another one
        self.ledger.checkpointed(min(map(step_of, checkpoints(folder)), default=step))
        return path

    async def save_interrupted(self) -> Path | None:
        """The newest checkpoint, written now if possible; None if there is none."""
        is_boundary = self.step % self.settings.buffer.refresh_every == 0
        if self.step and (is_boundary or not self.settings.run.deterministic):
            return await self.save_checkpoint()
        return newest_checkpoint(self.learner.folder)

    def report(self) -> str:
        """Where every sample is, and what is waited for since when."""
        return f"after update {self.step}: {self.ledger.counts()}\nwaiting for:\n{outstanding()}"

    async def _learn(self) -> None:
        while self.step < self.settings.run.num_steps:
            await self._surviving(self._round)

    async def _round(self) -> None:
        """One update, and what is due after it."""
        num_steps = self.settings.run.num_steps
        if self._published_at < 0:
            await self.publish()
        if not await self._update():
            return
        if self.step % self.settings.buffer.refresh_every == 0 and self.step < num_steps:
            await self.publish()
        if self.step % self.settings.checkpoint.every == 0 or self.step == num_steps:
            await self.save_checkpoint()
        if self.step % self.settings.evaluation.every == 0 and self.step < num_steps:
            await self._evaluate()

    async def _update(self) -> bool:
        """Make an update; False if all of its rollouts were lost."""
        began = time.monotonic()
        batch, ahead = await self.batches.batches(self.step, self.version, self._check_learner)
        waited_s = time.monotonic() - began
        name = shown_step(self.step, self.settings.run.num_steps)
        call = asyncio.ensure_future(
            self.learner.call(
                lambda learner: learner.step.options(name=name).remote(batch, ahead),
                "make an update",
                # The learner itself waits no longer than that for the objects, and then says for which.
                deadline_s=self.settings.learner.fetch_timeout_s + ANSWER_S,
            )
        )
        try:
            report: StepReport = await asyncio.shield(call)
        except asyncio.CancelledError:
            # Let the update finish, so that checkpoint and metrics are of the same step.
            self._note(await call, waited_s)
            raise
        self._note(report, waited_s)
        return report.metrics is not None

    async def _check_learner(self) -> None:
        """Notice a learner that dies while nothing is asked of it: generators could not load its weights."""
        await self.learner.call(lambda learner: learner.progress.remote(), "answer")

    def _note(self, report: StepReport, waited_s: float) -> None:
        self.learner.place.progressed()
        metrics = report.metrics
        self.batches.done(report.trained, report.lost, self.step if metrics is None else metrics.step)
        if metrics is None:
            return
        self.step = metrics.step
        counts = self.ledger.counts()
        metrics = metrics.with_driver(waited_s, self.ledger.num_in(State.BUFFERED), counts.dropped)
        self.emit(Step(metrics, self.rollouts.grading, counts))
        self.rollouts.grading = GradingCounts()

    async def _surviving(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do `work`; False if the learner died and another has taken its place. Ends a deterministic run."""
        try:
            await work()
        except LearnerGoneError as error:
            if self.settings.run.deterministic:
                raise InterruptedRunError(f"the learner died ({error})") from error
            await self._replace_learner(error)
            return False
        return True

    async def _replace_learner(self, cause: LearnerGoneError) -> None:
        last = self.step
        self.step = await self.learner.replace(cause, self.version)
        num_undone = self.ledger.rewind(self.step)
        self._published_at = -1
        origin = f"checkpoint step-{self.step}" if self.step else "the model that RL starts from"
        why = (
            f"the learner is gone ({cause}): a new one continues from {origin}; {last - self.step} updates are undone, "
            f"and the {num_undone} samples they were made with are dropped as rewound"
        )
        logger.warning("%s", why)
        self.emit(Rewound(self.step, why))

    async def _watch(self) -> None:
        """Write to the log what is waited for whenever nothing moves."""
        clock = asyncio.get_running_loop().time
        seen, since, said = self._mark(), clock(), False
        while True:
            await asyncio.sleep(WATCH_S)
            if (mark := self._mark()) != seen:
                seen, since, said = mark, clock(), False
            elif clock() - since >= STALL_S and not said:
                said = True
                logger.warning("nothing has moved for %.0f s\n%s", clock() - since, self.report())

    def _mark(self) -> object:
        return self.step, self.ledger.changes.num_notified

    async def _explaining(self, stage: Awaitable[None]) -> None:
        try:
            await stage
        except StallError as error:
            raise StallError(f"{error}\n{self.report()}") from error

    async def _evaluate_one(self, problem: Problem) -> list[list[Outcome]]:
        """The outcomes of the programs for a held-out problem, turn by turn."""
        wanted = self.settings.evaluation
        request = RolloutRequest(
            rollout_id=f"e{self.step}/{problem.task_id}",
            task_id=problem.task_id,
            num_samples=wanted.num_samples if wanted.temperature > 0 else 0,
            greedy=wanted.temperature == 0,
            temperature=wanted.temperature or 1.0,
            top_p=wanted.top_p,
            max_tokens=self.settings.generator.max_tokens,
            seed=self.settings.run.seed,
        )
        outcomes = await self._graded(request)
        self._num_evaluated += 1
        self.emit(EvaluationProgress(self._num_evaluated, len(self.held_out)))
        return outcomes

    async def _graded(self, request: RolloutRequest) -> list[list[Outcome]]:
        """Sample and grade programs that nothing is learned from."""
        num_programs = request.num_samples + request.greedy
        for attempt in range(MAX_LOST_IN_A_ROW):
            asked = replace(request, rollout_id=f"{request.rollout_id}.{attempt}") if attempt else request
            handle = await self.generators.sample(asked)
            try:
                handle = await self.rollouts.dialogues.continued(asked, handle)
                call = self.pool.submit("evaluate_rollout", handle.refs, num_items=num_programs)
                outcomes: list[list[Outcome]] = await call
            except LOST:
                logger.warning("the rollout store died with programs for %s: sampling them again", request.task_id)
            except CallLostError as error:
                await self.rollouts.note_ungraded(handle, request.task_id, num_programs, error)
                return [[Outcome.INFRASTRUCTURE_ERROR]] * num_programs
            else:
                num_errors = sum(turns[-1] is Outcome.INFRASTRUCTURE_ERROR for turns in outcomes)
                self.rollouts.breaker.note(num_programs, num_errors, f"programs for {request.task_id}")
                return outcomes
        raise lost_too_often(request.task_id)

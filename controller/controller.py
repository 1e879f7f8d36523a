"""The ring in motion, on the driver: which update is made next, when weights go out, and what becomes of a run in which
something dies.

    Sampling: next problem -> generators -> sandbox pool -> [worker -> buffer]
    BatchSource:   buffer -> batches of references
    Controller:     learner.step(batch) -> every refresh_every: learner.publish -> generators; more problems admitted

Sampling and training run at the same time and meet only in the buffer. What passes through here is ids, counts and
references; where each rollout is stands in the ledger, which outlives every actor.

| who dies | what is lost | what is done |
|---|---|---|
| generator | what it was sampling | others sample it; a new one starts with the newest weights |
| sandbox worker | nothing | its rollouts are graded again by others, and counted once |
| rollout store | rollouts that wait to be graded | dropped as lost; their problems are sampled again |
| buffer | the rollouts in it | dropped as lost; others are sampled in their place |
| learner | updates since the last checkpoint | undone, their samples dropped as rewound; a new one goes on from there |
| node | what the actors on it lose | the same, on other nodes or on the one that takes its place |
| driver | everything since the last checkpoint | `--resume` goes on from there; what was in flight is sampled again |
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from actors.messages import RolloutRequest
from controller.batches import BatchSource, InterruptedRunError
from controller.generators import GeneratorPool
from controller.learner_service import ANSWER_S, LearnerGoneError, LearnerService, step_shown
from controller.ledger import Ledger, LedgerCounts, State
from controller.problem_sampler import ProblemSampler, capacity
from controller.reports import EvaluatedRollout, GradedRollout, GradedSample
from controller.rollouts import LOST, Graders, GradingCounts, Sampling
from controller.state import RunState, rollouts_of
from controller.waiting import StallError, answer, answer_in_turn, outstanding
from evaluation import EvaluationResult
from evaluation.result import Tally, evaluate_tally
from files import newest_checkpoint, prune
from learner.buffer import BufferItem
from learner.metrics import StepMetrics, StepReport
from problems.types import Problem
from settings import Settings
from transport.weights import WeightsHandle

logger = logging.getLogger(__name__)

EVALUATION_S = 3600.0
LOAD_S = 600.0
WATCH_S = 30.0
# After so long without any rollout or update moving, the log says who waits for what.
STALL_S = 120.0


class Listener(Protocol):
    """Who is told how the run goes."""

    def on_step(self, metrics: StepMetrics, grading: GradingCounts, ledger: LedgerCounts) -> None:
        """After every update, with what was graded since the last."""

    def on_graded(self, graded: GradedRollout) -> None:
        """After a rollout's programs were graded."""

    def on_refresh(self, version: int, shown: Sequence[GradedSample], seconds: float) -> None:
        """After every publication of weights, which took `seconds`, with some programs graded since the last."""

    def on_evaluation(self, step: int, result: EvaluationResult, num_passed: Mapping[str, int]) -> None:
        """After every evaluation; `num_passed` programs of each problem did."""

    def on_rewind(self, step: int, why: str) -> None:
        """The updates after `step` are undone, and will be made again."""


@dataclass(slots=True)
class Controller:
    """One run, from published first weights to the last update. `step` updates have been made."""

    settings: Settings
    train: Sequence[Problem]
    held_out: Sequence[Problem]
    generators: GeneratorPool
    pool: Graders
    buffer: Any
    learner: LearnerService
    listener: Listener
    step: int = 0
    version: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    sampling: Sampling = field(init=False)
    supply: BatchSource = field(init=False)
    _published_at: int = -1
    _num_evaluated: int = 0

    def __post_init__(self) -> None:
        run, problems = self.settings.run, self.settings.problems
        order = ProblemSampler([problem.task_id for problem in self.train], run.seed, problems.skip_solved)
        self.sampling = Sampling(self.settings, self.ledger, order, self.generators, self.pool, self.listener.on_graded)
        self.supply = BatchSource(self.settings, self.ledger, self.buffer)

    async def restore(self, checkpoint: Path) -> None:
        """Go on where the run was that wrote `checkpoint`. Raises UserError where it does not fit."""
        state = RunState.load(checkpoint)
        self.ledger = self.sampling.ledger = self.supply.ledger = state.restored_ledger()
        self.sampling.order.restore(state.order)
        self.sampling.greedy = state.restored_greedy()
        loaded: tuple[str, list[BufferItem[Any]]] = await answer(
            self.buffer.load.remote(rollouts_of(checkpoint)), LOAD_S, f"the buffer to load {checkpoint}"
        )
        await self.supply.restore(*loaded, state.batches)
        again = self.ledger.issued()
        logger.info(
            "resumed from %s: what was done after it is done again; %s; %d rollouts are sampled again",
            checkpoint, self.ledger.counts(), len(again),
        )  # fmt: skip

    async def run(self) -> None:
        """Train from `step` to `run.num_steps`, evaluating on the way. Whatever fails in any stage ends the run."""
        # What is here now lives as long: for the collector to look through it took a fifth of the driver's time.
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
            sampling = stages.create_task(self._explained(self.sampling.run()), name="sampling")
            watch = stages.create_task(self._watch(), name="watch")
            try:
                await self._explained(self._learn())
            finally:
                sampling.cancel()
                watch.cancel()

    async def evaluate(self) -> None:
        """Tell the listener pass@k on the held-out problems, if any, with the learner's present weights."""
        while not await self._surviving(self._evaluate):
            pass

    async def _evaluate(self) -> None:
        if not self.held_out:
            return
        await self.publish()
        wanted = self.settings.evaluation
        tally = Tally(self.held_out)
        rollouts = (self._evaluate_one(problem) for problem in self.held_out)
        evaluated = asyncio.gather(*rollouts)
        for rollout in await answer_in_turn(evaluated, EVALUATION_S, "the evaluation", lambda: self._num_evaluated):
            for outcome in rollout.outcomes:
                tally.add(rollout.task_id, outcome)
        result = evaluate_tally(tally, wanted.ks)
        self.listener.on_evaluation(self.step, result, {task: tally.num_passed[task] for task in tally.num_samples})

    async def publish(self) -> None:
        """Have the generators sample with the learner's present weights, where they do not yet."""
        if self._published_at == self.step:
            return
        if self.settings.run.deterministic and self._published_at >= 0 and self.step < self.settings.run.num_steps:
            await self.sampling.drained()  # so that all of a rollout is sampled with the same weights
        began = time.monotonic()
        weights: WeightsHandle = await self.learner.call("publish")
        self._published_at, self.version = self.step, weights.version
        self.generators.use(weights)
        self.sampling.allow(capacity(self.settings, num_trained=self.ledger.num_trained, step=self.step))
        self.listener.on_refresh(weights.version, self.sampling.shown, time.monotonic() - began)
        self.sampling.shown = []

    async def save_checkpoint(self) -> Path:
        """Write a checkpoint of the learner and of this run's state; returns its folder.

        A rollout that is entered in the ledger but not among the items, or the other way round, is sampled again.
        """
        items = await self.supply.contents()
        state = RunState.of(self.sampling, self.supply).dumps()
        step, keep = self.step, self.settings.checkpoint.keep
        path: Path = await self.learner.call("save_checkpoint", self.learner.folder, state, items, keep)
        # The learner does so on its own node, which may be another.
        prune(self.learner.folder, keep)
        self.ledger.checkpointed(step)
        return path

    async def save_interrupted(self) -> Path | None:
        """The newest checkpoint, written now where that may be; None where there is none."""
        is_boundary = self.step % self.settings.buffer.refresh_every == 0
        if self.step and (is_boundary or not self.settings.run.deterministic):
            return await self.save_checkpoint()
        return newest_checkpoint(self.learner.folder)

    def report(self) -> str:
        """Where every sample is, and who waits for what since when."""
        return f"after update {self.step}: {self.ledger.counts()}\nwaited for at this moment:\n{outstanding()}"

    async def _learn(self) -> None:
        while self.step < self.settings.run.num_steps:
            await self._surviving(self._round)

    async def _round(self) -> None:
        """One update, and what is due after it."""
        every, num_steps = self.settings.buffer.refresh_every, self.settings.run.num_steps
        if self._published_at < 0:
            await self.publish()
        if not await self._update():
            return
        if self.step % every == 0 and self.step < num_steps:
            await self.publish()
        if self.step % self.settings.checkpoint.every == 0 or self.step == num_steps:
            await self.save_checkpoint()
        if self.step % self.settings.evaluation.every == 0 and self.step < num_steps:
            await self._evaluate()

    async def _update(self) -> bool:
        """Whether an update was made: not where all of its rollouts were lost."""
        began = time.monotonic()
        # A learner that dies while nobody asks it for anything takes its weights along: generators could not load them.
        batch, ahead = await self.supply.batches(self.step, self.version, lambda: self.learner.call("progress"))
        waited_s = time.monotonic() - began
        # The learner itself waits no longer than that for the objects, and then says for which.
        deadline_s = self.settings.learner.fetch_timeout_s + ANSWER_S
        shown = step_shown(self.step, self.settings.run.num_steps)
        call = asyncio.ensure_future(self.learner.call("step", batch, ahead, deadline_s=deadline_s, shown=shown))
        try:
            report: StepReport = await asyncio.shield(call)
        except asyncio.CancelledError:
            # Samples still come: the update under way ends, so that checkpoint and metrics tell of the same step.
            self._note(await call, waited_s)
            raise
        self._note(report, waited_s)
        return report.metrics is not None

    def _note(self, report: StepReport, waited_s: float) -> None:
        metrics = report.metrics
        self.supply.done(report.trained, report.lost, self.step if metrics is None else metrics.step)
        if metrics is None:
            return
        self.step = metrics.step
        counts = self.ledger.counts()
        metrics = metrics.with_driver(waited_s, self.ledger.num_in(State.BUFFERED), counts.dropped)
        self.listener.on_step(metrics, self.sampling.grading, counts)
        self.sampling.grading = GradingCounts()

    async def _surviving(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do `work`; False where the learner died and another has taken its place. Deterministic runs end then."""
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
            f"the learner is gone ({cause}): a new one goes on from {origin}; {last - self.step} updates are undone, "
            f"the {num_undone} samples that they were made with dropped as rewound"
        )
        logger.warning("%s", why)
        self.listener.on_rewind(self.step, why)

    async def _watch(self) -> None:
        """Say in the log who waits for what, where nothing moves."""
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

    async def _explained(self, stage: Awaitable[None]) -> None:
        try:
            await stage
        except StallError as error:
            raise StallError(f"{error}\n{self.report()}") from error

    async def _evaluate_one(self, problem: Problem) -> EvaluatedRollout:
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
        while True:
            handle = await self.generators.sample(request)
            try:
                rollout: EvaluatedRollout = await self.pool.submit(
                    "evaluate_rollout", handle.ref, num_items=handle.num_samples
                )
            except LOST:
                logger.warning("programs for %s died with the rollout store: they are sampled again", problem.task_id)
                continue
            self._num_evaluated += 1
            return rollout

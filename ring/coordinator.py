"""The ring in motion, on the driver: which problem is sampled next, what is graded, when weights go out.

    next problem -> GeneratorPool.sample -> SandboxPool.submit(grade_rollout) -> [worker -> buffer]
    learner.step -> every refresh_every: learner.publish -> GeneratorPool.update_weights -> more problems admitted

Sampling and training run at the same time and meet only in the buffer. What passes through here is ids, counts and
references.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.messages import RolloutRequest
from evaluation import EvaluationResult
from evaluation.result import Tally, evaluate_tally
from learner.metrics import StepMetrics
from problems.types import Problem
from rewards import ProgramReward
from ring.generators import GeneratorPool
from ring.ledger import Admission, Ledger, ProblemOrder
from ring.reports import EvaluatedRollout, GradedRollout, GradedSample
from ring.waiting import answer
from sandbox.pool import SandboxPool
from settings import Settings

LEARNER_ANSWER_S = 600.0
EVALUATION_S = 3600.0
NUM_SHOWN = 2
MAX_SHOWN = 16
# The share of graded programs that may be lost to the grader before the run stops, and from how many on it is asked.
MAX_FAULT_SHARE = 0.1
MIN_GRADED = 200


class GraderFaultError(RuntimeError):
    """The sandbox fails on too many programs for what is left to mean anything."""


@dataclass(slots=True)
class GradingCounts:
    """What generators and sandboxes did: tokens sampled of graded programs, these by the isolation they ran under,
    tests, and programs lost to the grader's faults.
    """

    isolation: dict[str, int] = field(default_factory=dict)
    num_tests: int = 0
    num_faults: int = 0
    num_sampled_tokens: int = 0

    def add(self, graded: GradedRollout) -> None:
        """Count one rollout."""
        level = graded.isolation.value
        self.isolation[level] = self.isolation.get(level, 0) + graded.num_samples + graded.num_faults
        self.num_tests += graded.num_tests
        self.num_faults += graded.num_faults
        self.num_sampled_tokens += graded.num_tokens


class Listener(Protocol):
    """Who is told how the run goes."""

    def on_step(self, metrics: StepMetrics, grading: GradingCounts) -> None:
        """After every update, with what was graded since the last."""

    def on_graded(self, graded: GradedRollout) -> None:
        """After a rollout's programs were graded."""

    def on_refresh(self, version: int, shown: Sequence[GradedSample], seconds: float) -> None:
        """After every publication of weights, which took `seconds`, with some programs graded since the last."""

    def on_evaluation(self, step: int, result: EvaluationResult, num_passed: Mapping[str, int]) -> None:
        """After every evaluation; `num_passed` programs of each problem did."""


@dataclass(slots=True)
class Ring:
    """One run, from published first weights to the last update.

    `learner` and `buffer` are actor handles. `ledger` counts where samples are.
    """

    settings: Settings
    train: Sequence[Problem]
    held_out: Sequence[Problem]
    generators: GeneratorPool
    pool: SandboxPool
    learner: Any
    listener: Listener
    ledger: Ledger = field(default_factory=Ledger)
    step: int = 0
    _num_publications: int = -1
    _published_at: int = -1
    _num_faults: int = 0
    _grading: GradingCounts = field(default_factory=GradingCounts)
    _greedy: dict[str, ProgramReward] = field(default_factory=dict)
    _shown: list[GradedSample] = field(default_factory=list)
    _order: ProblemOrder | None = None
    _admit: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Train from `step` to `run.num_steps`, evaluating on the way. Whatever fails in any stage ends the run."""
        if self._published_at != self.step:
            await self.publish()
        async with asyncio.TaskGroup() as stages:
            sampling = stages.create_task(self._sample(), name="sampling")
            try:
                await self._learn()
            finally:
                sampling.cancel()

    async def evaluate(self) -> EvaluationResult | None:
        """pass@k on the held-out problems with the learner's present weights; None where there are none."""
        if not self.held_out:
            return None
        if self._published_at != self.step:
            await self.publish()
        wanted = self.settings.evaluation
        tally = Tally(self.held_out)
        rollouts = (self._evaluate_one(problem) for problem in self.held_out)
        for rollout in await answer(asyncio.gather(*rollouts), EVALUATION_S, "the evaluation"):
            for outcome in rollout.outcomes:
                tally.add(rollout.task_id, outcome)
        result = evaluate_tally(tally, wanted.ks)
        self.listener.on_evaluation(self.step, result, {task: tally.num_passed[task] for task in tally.num_samples})
        return result

    async def publish(self) -> None:
        """Have the generators sample with the learner's present weights."""
        began = time.monotonic()
        weights = await answer(self.learner.publish.remote(), LEARNER_ANSWER_S, "the learner to publish weights")
        self._published_at = self.step
        await self.generators.update_weights(weights)
        self._num_publications += 1
        self._admit.set()
        self.listener.on_refresh(weights.version, self._shown, time.monotonic() - began)
        self._shown = []

    async def _learn(self) -> None:
        learner, every = self.settings.learner, self.settings.buffer.refresh_every
        num_steps = self.settings.run.num_steps
        while self.step < num_steps:
            deadline_s = learner.fetch_timeout_s + LEARNER_ANSWER_S
            # Named, so that the dashboard says which update the learner is at.
            step = self.learner.step.options(name=f"learner.step {self.step + 1} of {num_steps}").remote()
            update = asyncio.ensure_future(answer(step, deadline_s, "an update of the learner"))
            try:
                await asyncio.shield(update)
            except asyncio.CancelledError:
                # Samples still come: the update under way ends, so that checkpoint and metrics tell of the same step.
                self._note(await update)
                raise
            self._note(update.result())
            if self.step % every == 0 and self.step < num_steps:
                await self.publish()
            if self.step % learner.checkpoint_every == 0 or self.step == num_steps:
                await self.save_checkpoint()
            if self.step % self.settings.evaluation.every == 0 and self.step < num_steps:
                await self.evaluate()

    def _note(self, metrics: StepMetrics) -> None:
        self.step = metrics.step
        self.ledger.num_dropped_by_buffer = sum(metrics.dropped.values())
        self.listener.on_step(metrics, self._grading)
        self._grading = GradingCounts()

    async def save_checkpoint(self) -> Any:
        """Write a checkpoint of the learner; returns its folder."""
        folder = self.settings.run.folder.resolve() / "checkpoints"
        return await answer(
            self.learner.save_checkpoint.remote(folder), LEARNER_ANSWER_S, "the learner to write a checkpoint"
        )

    async def _sample(self) -> None:
        """Keep as many samples under way as have a use, for ever."""
        settings = self.settings
        admission = Admission.of(settings.buffer, settings.learner.batch_size, settings.run.num_steps - self.step)
        task_ids = [problem.task_id for problem in self.train]
        order = self._order = ProblemOrder(task_ids, settings.run.seed, settings.problems.skip_solved)
        num_samples = settings.generator.samples_per_problem
        async with asyncio.TaskGroup() as rollouts:
            while True:
                self._admit.clear()
                while self.ledger.num_useful + num_samples <= admission.num_allowed(self._num_publications):
                    self.ledger.num_issued += num_samples
                    task_id = order.next()
                    rollouts.create_task(self._rollout(f"r{order.position}", task_id))
                await self._admit.wait()

    async def _rollout(self, rollout_id: str, task_id: str) -> None:
        """Sample and grade one rollout; its experiences go to the buffer without passing here."""
        generator = self.settings.generator
        handle = await self.generators.sample(
            RolloutRequest(
                rollout_id=rollout_id,
                task_id=task_id,
                num_samples=generator.samples_per_problem,
                greedy=self.settings.rewards.needs_greedy,
                temperature=generator.temperature,
                top_p=generator.top_p,
                max_tokens=generator.max_tokens,
                seed=None,
            )
        )
        num_shown = NUM_SHOWN if len(self._shown) < MAX_SHOWN else 0
        graded: GradedRollout = await self.pool.submit(
            "grade_rollout", handle.ref, self._greedy.get(task_id), num_shown, num_items=handle.num_samples
        )
        self._account(graded)

    def _account(self, graded: GradedRollout) -> None:
        self.ledger.num_graded += graded.num_samples
        self.ledger.num_lost += graded.num_faults
        self._num_faults += graded.num_faults
        self._grading.add(graded)
        self.listener.on_graded(graded)
        num_seen = self.ledger.num_graded + self._num_faults
        if num_seen >= MIN_GRADED and self._num_faults > MAX_FAULT_SHARE * num_seen:
            raise GraderFaultError(
                f"the sandbox failed on {self._num_faults} of {num_seen} programs; "
                "`python -m sandbox doctor` says what is wrong with this machine"
            )
        if self._order is not None:
            self._order.note(graded.task_id, solved=graded.num_passed == graded.num_samples > 0)
        if graded.greedy is not None:
            self._greedy[graded.task_id] = graded.greedy
        self._shown.extend(graded.shown)
        self._admit.set()

    async def _evaluate_one(self, problem: Problem) -> EvaluatedRollout:
        wanted = self.settings.evaluation
        handle = await self.generators.sample(
            RolloutRequest(
                rollout_id=f"e{self.step}/{problem.task_id}",
                task_id=problem.task_id,
                num_samples=wanted.num_samples if wanted.temperature > 0 else 0,
                greedy=wanted.temperature == 0,
                temperature=wanted.temperature or 1.0,
                top_p=wanted.top_p,
                max_tokens=self.settings.generator.max_tokens,
                seed=self.settings.run.seed,
            )
        )
        rollout: EvaluatedRollout = await self.pool.submit("evaluate_rollout", handle.ref, num_items=handle.num_samples)
        return rollout

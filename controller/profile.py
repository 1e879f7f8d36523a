"""A short measured run: the figures that `controller.planner` works with, and what they came to in that run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from actors.messages import GeneratorStats
from controller.controller import Controller
from controller.grading import GradedRollout, GradedSample
from controller.ledger import LedgerCounts
from controller.planner import Figures, Plan
from controller.rollouts import GradingCounts
from errors import UserError
from evaluation import EvaluationResult
from learner.metrics import StepMetrics
from settings import Settings
from supervise import Changes


@dataclass(slots=True)
class Profile:
    """The listener of a ring whose first updates are looked at.

    Usage:
        profile = Profile()                                     # given to the ring as its listener
        figures, observed = await profile.measure(ring, 8)
    """

    steps: list[StepMetrics] = field(default_factory=list)
    grading: list[GradingCounts] = field(default_factory=list)
    publish_s: list[float] = field(default_factory=list)
    _changes: Changes = field(default_factory=Changes)

    async def measure(self, controller: Controller, num_updates: int) -> tuple[Figures, Plan]:
        """Run `ring` until a first snapshot was trained on and `num_updates` updates more were made.

        Raises what the ring raises, and UserError where nothing was sampled meanwhile.
        """
        skipped = controller.settings.buffer.refresh_every
        run = asyncio.create_task(controller.run(), name="profile")
        try:
            await self._until(skipped, run)
            began, before = time.monotonic(), await controller.generators.stats()
            num_published = len(self.publish_s)
            await self._until(skipped + num_updates, run)
            seconds, after = time.monotonic() - began, await controller.generators.stats()
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
        last = slice(skipped, skipped + num_updates)
        return _reckoned(
            controller.settings,
            self.steps[last],
            self.grading[last],
            self.publish_s[num_published:],
            (before, after),
            seconds,
        )

    async def _until(self, num_steps: int, run: asyncio.Task[None]) -> None:
        while len(self.steps) < num_steps:
            changed = asyncio.ensure_future(self._changes.wait())
            await asyncio.wait([run, changed], return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if run.done():
                await run

    def on_step(self, metrics: StepMetrics, grading: GradingCounts, ledger: LedgerCounts) -> None:
        """After every update."""
        self.steps.append(metrics)
        self.grading.append(grading)
        self._changes.notify()

    def on_graded(self, graded: GradedRollout) -> None:
        """The ring counts it."""

    def on_refresh(self, version: int, shown: Sequence[GradedSample], seconds: float) -> None:
        """After every publication of weights."""
        self.publish_s.append(seconds)

    def on_evaluation(self, step: int, result: EvaluationResult, num_passed: Mapping[str, int]) -> None:
        """Nothing is evaluated in a short run."""

    def on_rewind(self, step: int, why: str) -> None:
        """A learner that died has made these figures worthless."""
        raise UserError(f"the short run was disturbed: {why}")


def _reckoned(
    settings: Settings,
    steps: Sequence[StepMetrics],
    grading: Sequence[GradingCounts],
    publish_s: Sequence[float],
    stats: tuple[Sequence[GeneratorStats], Sequence[GeneratorStats]],
    seconds: float,
) -> tuple[Figures, Plan]:
    """The figures of `seconds` in which `steps` were made."""
    num_programs = sum(sum(counts.isolation.values()) for counts in grading)
    num_tokens, busy_s, updating_s, num_loads = _between(*stats)
    grading_s = sum(counts.grading_s for counts in grading)
    if not (num_programs and num_tokens):
        raise UserError("nothing was sampled in the short run: raise --plan.num_updates")
    computing_s = sum(step.seconds - step.wait_s for step in steps)
    figures = Figures(
        tokens_per_s=num_tokens / busy_s,
        tokens_per_program=sum(counts.num_sampled_tokens for counts in grading) / num_programs,
        programs_per_s=num_programs / grading_s,
        update_s=computing_s / len(steps),
        publish_s=sum(publish_s) / max(1, len(publish_s)),
        load_s=updating_s / max(1, num_loads),
    )
    num_snapshots = len(steps) / settings.buffer.refresh_every
    num_generators, num_workers = settings.generator.num_generators, settings.sandbox.max_workers
    observed = Plan(
        round_s=seconds / num_snapshots,
        serial_s=((busy_s + updating_s) / num_generators + grading_s / num_workers + computing_s + sum(publish_s))
        / num_snapshots,
        generator_idle=max(0.0, 1 - (busy_s + updating_s) / num_generators / seconds),
        sandbox_idle=max(0.0, 1 - grading_s / num_workers / seconds),
        learner_idle=max(0.0, 1 - (computing_s + sum(publish_s)) / seconds),
        staleness_mean=sum(step.staleness_mean for step in steps) / len(steps),
    )
    return figures, observed


def _between(before: Sequence[GeneratorStats], after: Sequence[GeneratorStats]) -> tuple[int, float, float, int]:
    """What the generators did between the two: tokens, seconds busy, seconds loading weights, loads."""
    earlier = {stats.name: stats for stats in before}
    pairs = [(earlier[now.name], now) for now in after if now.name in earlier]
    return (
        sum(now.num_tokens - then.num_tokens for then, now in pairs),
        sum(now.busy_s - then.busy_s for then, now in pairs),
        sum(now.updating_s - then.updating_s for then, now in pairs),
        sum(now.num_updates - then.num_updates for then, now in pairs),
    )

"""A short run of a job, which measures the figures that `controller.planner` needs."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import ray

from rltf.actors.messages import GeneratorStats
from rltf.controller.cluster import check_resources
from rltf.controller.controller import Controller
from rltf.controller.events import Began, Emit, Event, Refreshed, Rewound, Step
from rltf.controller.job_checks import check_job
from rltf.controller.planner import Figures, Forecast, Plan, forecast
from rltf.controller.problems import ProblemSets
from rltf.controller.ray_session import ray_running
from rltf.controller.rollouts import GradingCounts
from rltf.controller.start import start_controller
from rltf.entry import run_until_interrupted
from rltf.errors import UserError
from rltf.learner.metrics import StepMetrics
from rltf.settings import PlanOptions, Settings
from rltf.supervise import Changes


@dataclass(slots=True)
class Profile:
    """Collects the events of a run and measures its first updates.

    Usage:
        profile = Profile()
        controller = Controller(..., emit=profile.emit)
        figures, observed = await profile.measure(controller, 8)
    """

    steps: list[StepMetrics] = field(default_factory=list)
    grading: list[GradingCounts] = field(default_factory=list)
    publish_s: list[float] = field(default_factory=list)
    _changes: Changes = field(default_factory=Changes)

    async def measure(self, controller: Controller, num_updates: int) -> tuple[Figures, Plan]:
        """Run until the first snapshot is trained on, and measure the `num_updates` updates after it.

        Raises what the run raises, and UserError if nothing was sampled meanwhile.
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
        return _figures(
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

    def emit(self, event: Event) -> None:
        """Keep what the figures are made from. Raises UserError if a learner died, which makes them worthless."""
        match event:
            case Step(metrics, grading):
                self.steps.append(metrics)
                self.grading.append(grading)
                self._changes.notify()
            case Refreshed(seconds=seconds):
                self.publish_s.append(seconds)
            case Rewound(why=why):
                raise UserError(f"the short run was disturbed: {why}")


def measured_forecast(settings: Settings, plan: PlanOptions, emit: Emit) -> Forecast:
    """The forecast for the job of `settings`. A short run measures the figures that `plan` lacks.

    Raises UserError if the cluster has no room for the job, and what a job raises for unusable settings and problems.
    """
    given = {field.name: getattr(plan, field.name) for field in fields(Figures)}
    measured: dict[str, float] = {}
    observed, cpus, gpus = None, plan.num_cpus, plan.num_gpus
    if None in given.values() or cpus is None or gpus is None:
        with tempfile.TemporaryDirectory() as folder:
            shortened, problems = _shortened(settings, plan.num_updates, Path(folder)), None
            if None in given.values():  # unusable input is reported before anything starts
                check_resources(settings)
                problems = check_job(shortened)
            emit(Began("Ray"))
            with ray_running(settings.cluster):
                resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
                cpus = resources["CPU"] if cpus is None else cpus
                gpus = resources.get("GPU", 0.0) if gpus is None else gpus
                if problems is not None:
                    run = _short_run(shortened, plan.num_updates, problems, emit)
                    figures, observed = run_until_interrupted(run, lambda num_signals: None)
                    measured = asdict(figures)
    figures = Figures(**{name: measured[name] if value is None else value for name, value in given.items()})
    return forecast(settings, figures, cpus, gpus, observed)


async def _short_run(settings: Settings, num_updates: int, problems: ProblemSets, emit: Emit) -> tuple[Figures, Plan]:
    profile = Profile()

    def emit_both(event: Event) -> None:
        profile.emit(event)
        if not isinstance(event, Step):  # the short run makes more updates than it measures
            emit(event)

    actors, controller = await start_controller(settings, problems, emit_both)
    emit(Began(f"{num_updates} updates"))
    measured = await profile.measure(controller, num_updates)
    await actors.close()
    return measured


def _shortened(settings: Settings, num_updates: int, folder: Path) -> Settings:
    """The same job in its own folder, without evaluation and checkpoints, long enough to keep all stages busy."""
    every = settings.buffer.refresh_every
    num_steps = num_updates + (2 + settings.buffer.max_off_policy_versions) * every
    return settings.model_copy(
        update={
            "run": settings.run.model_copy(update={"dir": folder, "num_steps": num_steps + 1, "log_batches": 0}),
            "problems": settings.problems.model_copy(update={"evaluation": ()}),
            "learner": settings.learner.model_copy(
                update={"optim": settings.learner.optim.model_copy(update={"decay_steps": 0})}
            ),
            "checkpoint": settings.checkpoint.model_copy(update={"every": num_steps * every}),
        }
    )


def _figures(
    settings: Settings,
    steps: Sequence[StepMetrics],
    grading: Sequence[GradingCounts],
    publish_s: Sequence[float],
    stats: tuple[Sequence[GeneratorStats], Sequence[GeneratorStats]],
    seconds: float,
) -> tuple[Figures, Plan]:
    """The figures of a stretch of `seconds`, in which the updates `steps` were made."""
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
    """What the generators did in between: tokens, seconds busy, seconds loading weights, number of loads."""
    earlier = {stats.name: stats for stats in before}
    pairs = [(earlier[now.name], now) for now in after if now.name in earlier]
    return (
        sum(now.num_tokens - then.num_tokens for then, now in pairs),
        sum(now.busy_s - then.busy_s for then, now in pairs),
        sum(now.updating_s - then.updating_s for then, now in pairs),
        sum(now.num_updates - then.num_updates for then, now in pairs),
    )

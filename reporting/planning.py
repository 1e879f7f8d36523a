"""`launch.py --plan`: what a ring will do, on the cluster at hand or on another, and how large it should be."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from dataclasses import asdict, fields
from pathlib import Path

import ray
from rich.console import Console
from rich.table import Table

from controller.cluster import check_resources
from controller.connection import start_ray
from controller.errors import UNUSABLE_INPUT, user_message
from controller.planner import Figures, Plan, Shape, balanced, predict, room_beside
from controller.problem_sets import ProblemSets, load_problem_sets
from controller.profile import Profile
from controller.start import start_controller
from reporting.progress import Progress
from sandbox.limits import Limits
from settings import PlanOptions, Settings

logger = logging.getLogger(__name__)

UNITS = {
    "tokens_per_s": "tokens a second of a generator",
    "tokens_per_program": "tokens a program",
    "programs_per_s": "programs a second of a sandbox worker",
    "update_s": "s an update",
    "publish_s": "s of the learner to publish",
    "load_s": "s of a generator to load",
}


def plan_ring(settings: Settings, plan: PlanOptions, console: Console) -> int:
    """Print what the ring of `settings` will do; returns the exit status.

    Figures that `plan` does not give are measured in a short run. Raises UserError where there is nothing to
    plan, and what a job raises for settings and problems that cannot be used.
    """
    given = {field.name: getattr(plan, field.name) for field in fields(Figures)}
    figures, observed, cpus, gpus = None, None, plan.num_cpus, plan.num_gpus
    if None in given.values() or cpus is None or gpus is None:
        with Progress(plan.num_updates, console) as progress, tempfile.TemporaryDirectory() as folder:
            try:
                shortened, problems = _shortened(settings, plan, Path(folder)), None
                if None in given.values():  # what cannot be used is said before anything starts
                    check_resources(settings)
                    problems = load_problem_sets(shortened.problems, Limits.of(settings.sandbox))
                progress.stage("Ray")
                start_ray(settings)
                resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
                cpus = resources["CPU"] if cpus is None else cpus
                gpus = resources.get("GPU", 0.0) if gpus is None else gpus
                if problems is not None:
                    figures, observed = asyncio.run(_short_run(shortened, plan, problems, progress))
            except KeyboardInterrupt:
                return 130
            except Exception as error:  # the process border: said in words
                message, status = user_message(error)
                if status != UNUSABLE_INPUT:
                    logger.exception("the short run failed")
                console.print(f"launch.py --plan: {message}", style="red", highlight=False, markup=False)
                return status
            finally:
                ray.shutdown()
    measured = {} if figures is None else asdict(figures)
    figures = Figures(**{name: measured[name] if value is None else value for name, value in given.items()})
    _print(settings, figures, observed, (cpus, gpus), console)
    return 0


async def _short_run(
    settings: Settings, plan: PlanOptions, problems: ProblemSets, progress: Progress
) -> tuple[Figures, Plan]:
    profile = Profile()
    actors, controller = await start_controller(settings, problems, progress, profile)
    progress.stage(f"{plan.num_updates} updates")
    measured = await profile.measure(controller, plan.num_updates)
    await actors.close()
    return measured


def _shortened(settings: Settings, plan: PlanOptions, folder: Path) -> Settings:
    """The same job without evaluation and checkpoints, in a folder of its own, long enough not to be short of work."""
    every = settings.buffer.refresh_every
    num_steps = plan.num_updates + (2 + settings.buffer.max_off_policy_versions) * every
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


def _print(
    settings: Settings, figures: Figures, observed: Plan | None, cluster: tuple[float, float], console: Console
) -> None:
    configured = Shape.of(settings, figures)
    best, fitting = balanced(configured), balanced(configured, room_beside(settings, *cluster))
    columns = [("as configured", configured, predict(configured))]
    if observed is not None:
        columns.insert(0, ("the short run", configured, observed))
    columns += [
        (f"best on {cluster[0]:g} CPUs, {cluster[1]:g} GPUs", fitting, predict(fitting)),
        ("balanced", best, predict(best)),
    ]
    table = Table(
        title=f"Snapshots of {configured.snapshot} samples, at most {configured.max_off_policy_versions} versions old"
    )
    table.add_column("")
    for name, _, _ in columns:
        table.add_column(name, justify="right")
    rows = {
        "generators": [str(shape.num_generators) for _, shape, _ in columns],
        "sandbox workers": [str(shape.num_workers) for _, shape, _ in columns],
        "seconds a snapshot": [f"{plan.round_s:.2f}" for _, _, plan in columns],
        "one stage after the other": [f"{plan.serial_s:.2f}" for _, _, plan in columns],
        "generators idle": [f"{100 * plan.generator_idle:.0f} %" for _, _, plan in columns],
        "sandboxes idle": [f"{100 * plan.sandbox_idle:.0f} %" for _, _, plan in columns],
        "learner idle": [f"{100 * plan.learner_idle:.0f} %" for _, _, plan in columns],
        "mean staleness": [f"{plan.staleness_mean:.2f} versions" for _, _, plan in columns],
        "bottleneck": [plan.bottleneck for _, _, plan in columns],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    said = ", ".join(f"{value:.4g} {UNITS[name]}" for name, value in asdict(figures).items())
    console.print(f"Reckoned with {said}.", soft_wrap=True)
    console.print(table)

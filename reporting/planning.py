"""`launch.py --plan`: what a ring will do, and how large it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from ring.plan import Figures, Shape, balanced, predict, room_beside
from settings import Settings

UNITS = {
    "tokens_per_s": "tokens a second of a generator",
    "tokens_per_program": "tokens a program",
    "programs_per_s": "programs a second of a sandbox worker",
    "update_s": "s an update",
    "publish_s": "s of the learner to publish",
    "load_s": "s of a generator to load",
}


def plan_ring(settings: Settings, console: Console) -> None:
    """Print what the ring of `settings` will do, and with how many generators and sandbox workers it is balanced.

    Raises PlanError where `settings.plan` lacks a figure, or the cluster in it has no room for a ring.
    """
    figures = Figures.of(settings)
    configured = Shape.of(settings, figures)
    columns = [("as configured", configured)]
    plan = settings.plan
    if plan.num_cpus is not None and plan.num_gpus is not None:
        fitting = balanced(configured, room_beside(settings, plan.num_cpus, plan.num_gpus))
        columns.append((f"best on {plan.num_cpus:g} CPUs, {plan.num_gpus:g} GPUs", fitting))
    columns.append(("balanced", balanced(configured)))
    said = ", ".join(f"{value:.4g} {UNITS[name]}" for name, value in asdict(figures).items())
    console.print(f"Reckoned with {said}.", soft_wrap=True)
    console.print(_table(columns))


def _table(columns: Sequence[tuple[str, Shape]]) -> Table:
    (_, configured), *_ = columns
    table = Table(
        title=f"A ring of snapshots of {configured.snapshot} samples, max_staleness {configured.max_staleness}"
    )
    table.add_column("")
    for name, _ in columns:
        table.add_column(name, justify="right")
    shapes = [shape for _, shape in columns]
    plans = [predict(shape) for shape in shapes]
    rows = {
        "generators": [str(shape.num_generators) for shape in shapes],
        "sandbox workers": [str(shape.num_workers) for shape in shapes],
        "seconds a snapshot": [f"{plan.round_s:.2f}" for plan in plans],
        "one stage after the other": [f"{plan.serial_s:.2f}" for plan in plans],
        "generators idle": [f"{100 * plan.generator_idle:.0f} %" for plan in plans],
        "sandboxes idle": [f"{100 * plan.sandbox_idle:.0f} %" for plan in plans],
        "learner idle": [f"{100 * plan.learner_idle:.0f} %" for plan in plans],
        "mean staleness": [f"{plan.staleness_mean:.2f} versions" for plan in plans],
        "bottleneck": [plan.bottleneck for plan in plans],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table

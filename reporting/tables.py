"""Tables that `launch.py` prints: what a job will do, what it did, and how a replay compares with its run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from rltf.files import newest_checkpoint
from rltf.reporting.charts import Row
from rltf.reporting.rows import ALL, evaluations_of, metrics_of, shown_groups, task_ids_of
from rltf.settings import GIB, MIB, Settings
from rltf.settings_sources import to_yaml

if TYPE_CHECKING:
    from rltf.controller.memory import Card, Need
    from rltf.controller.planner import Forecast
    from rltf.learner.metrics import UpdateStats
    from rltf.learner.replay import ReplayedUpdate

COMPARED = ("loss", "loss_sl", "loss_coarse", "loss_fine", "loss_adaptive", "loss_kl", "grad_norm", "entropy")
UNITS = {
    "tokens_per_s": "tokens/s per generator",
    "tokens_per_program": "tokens per program",
    "programs_per_s": "programs/s per sandbox worker",
    "update_s": "s per update",
    "publish_s": "s for the learner to publish weights",
    "load_s": "s for a generator to load weights",
}


def print_dry_run(settings: Settings, said: Sequence[str], console: Console) -> None:
    """Print the settings as YAML, the resources that each actor will request from Ray, and what is `said` of them."""
    console.print(to_yaml(settings), highlight=False, markup=False, soft_wrap=True)
    table = Table(title="Resources the actors request")
    for column in ("actor", "number", "CPUs each", "GPUs each", "memory"):
        table.add_column(column, justify="left" if column == "actor" else "right")
    generator, sandbox, learner = settings.generator, settings.sandbox, settings.learner
    workers = f"{sandbox.min_workers} to {sandbox.max_workers}"
    cache = f"{generator.kv_cache_bytes / MIB:,.0f} MiB cache" if generator.num_gpus == 0 else ""
    table.add_row(
        "generator", str(generator.num_generators), f"{generator.num_cpus:g}", f"{generator.num_gpus:g}", cache
    )
    table.add_row(
        "sandbox", workers, f"{sandbox.num_cpus:g}", "0", f"{sandbox.memory_bytes / MIB:,.0f} MiB per program"
    )
    table.add_row("learner", "1", f"{learner.num_cpus:g}", f"{learner.num_gpus:g}", "")
    table.add_row("buffer", "1", "0", "0", f"at most {settings.buffer.max_bytes / MIB:,.0f} MiB of samples")
    table.add_row("rollout store", "1", "0", "0", "")
    console.print(table)
    for text in said:
        console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


def print_summary(folder: Path, stages: Sequence[tuple[str, float]], seconds: float, console: Console) -> None:
    """Print pass@k before and after, the duration of each stage, and where checkpoint and report are."""
    rows = evaluations_of(folder)
    if rows:
        console.print(_held_out_table(rows))
    console.print(", ".join(f"{name} {taken:.0f} s" for name, taken in stages) + f"; {seconds:.0f} s in total")
    checkpoint = newest_checkpoint(folder / "checkpoints")
    if checkpoint is not None:
        console.print(f"Checkpoint: {checkpoint}")
        console.print(
            f"Try it: .venv/bin/python evaluate.py --model {checkpoint} --problems 'starter:test[:20]' "
            f"--num-samples 4 --k 1 --output {folder / 'try'}",
            soft_wrap=True,
        )
    console.print(f"Report: {folder / 'report.html'}")


def _held_out_table(evaluations: Sequence[Row]) -> Table:
    """pass@k of each set, or of all problems, in its first evaluation and in the last one."""
    after = evaluations[-1]
    has_both = evaluations[0]["step"] < after["step"]
    table = Table(title=f"Held-out problems ({after['num_problems']}), 95 % intervals")
    for column in ("", "before", "after", "gain") if has_both else ("", "after"):
        table.add_column(column, justify="right")
    for group in shown_groups(after):
        before = next(row for row in evaluations if group in shown_groups(row))
        of_set = "" if group == ALL else f"{group} ({len(task_ids_of(after, group))}) "
        for name in (name for name in after if name.startswith("pass@") and name in before):
            gain = f"{100 * (after[name][group] - before[name][group]):+.1f} points"
            cells = (with_interval(before, name, group), with_interval(after, name, group), gain)
            table.add_row(of_set + name, *(cells if has_both else cells[1:2]))
    return table


def with_interval(row: Row, name: str, group: str = ALL) -> str:
    """pass@k of a group in an evaluation with its interval: `61.5 % [58.0, 65.0]`."""
    low, high = row["intervals"][name][group]
    return f"{100 * row[name][group]:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def print_memory(need: Need, cards: Sequence[Card], advice: Sequence[str], console: Console) -> None:
    """Print what learner and generators need, which of the `cards` that fits into, and what to change."""
    table = Table(title=f"Memory in GiB, calculated for {need.num_parameters / 1e9:.2f} billion parameters")
    for column in ("", "each learner worker", "each generator's GPU"):
        table.add_column(column, justify="right" if column else "left")
    learner, generator = need.learner, need.generator
    for name, of_learner, of_generator in (
        ("weights", learner.weights, generator.weights),
        ("gradients", learner.gradients, 0),
        ("AdamW", learner.optimizer, 0),
        ("frozen policies, critic", learner.copies, 0),
        ("gathered weights", learner.gathered, 0),
        ("weights being sent", learner.snapshot, 0),
        ("keys and values", 0, generator.cache),
        ("working memory", learner.working, generator.working),
        ("together", learner.total, generator.total),
    ):
        table.add_row(name, *(f"{size / GIB:.1f}" if size else "" for size in (of_learner, of_generator)))
    console.print(table)
    for card in cards:
        if card.fits:
            sizes = f"{card.needed / GIB:.1f} of {card.usable / GIB:.1f} GiB"
            console.print(f"{card.actors}: fits, {sizes}", highlight=False)
    for text in advice:
        console.print(text, style="yellow", highlight=False, soft_wrap=True)


def print_plan(forecast: Forecast, console: Console) -> None:
    """Print the figures that a forecast is based on, and its rings side by side."""
    given = ", ".join(f"{value:.4g} {UNITS[name]}" for name, value in asdict(forecast.figures).items())
    console.print(f"Based on {given}.", soft_wrap=True)
    shape, _ = forecast.setups["as configured"]
    table = Table(
        title=f"{shape.snapshot} samples between publications, at most {shape.max_off_policy_versions} versions old"
    )
    table.add_column("")
    for name in forecast.setups:
        table.add_column(name, justify="right")
    rings = forecast.setups.values()
    table.add_row("generators", *(str(ring.num_generators) for ring, _ in rings))
    table.add_row("sandbox workers", *(str(ring.num_workers) for ring, _ in rings))
    table.add_row("seconds per snapshot", *(f"{plan.round_s:.2f}" for _, plan in rings))
    table.add_row("one stage after the other", *(f"{plan.serial_s:.2f}" for _, plan in rings))
    table.add_row("generators idle", *(f"{100 * plan.generator_idle:.0f} %" for _, plan in rings))
    table.add_row("sandboxes idle", *(f"{100 * plan.sandbox_idle:.0f} %" for _, plan in rings))
    table.add_row("learner idle", *(f"{100 * plan.learner_idle:.0f} %" for _, plan in rings))
    table.add_row("mean staleness", *(f"{plan.staleness_mean:.2f} versions" for _, plan in rings))
    table.add_row("bottleneck", *(plan.bottleneck for _, plan in rings))
    console.print(table)


def print_replay(run: Path, updates: Iterable[ReplayedUpdate], changed: Sequence[str], console: Console) -> int:
    """Replay the updates and print a row for each beside the run's own numbers; returns the exit status.

    With no `changed` settings every update must reproduce the weights of the run bit for bit: the status is 1 if one
    does not. With changed settings each row shows how its numbers moved.
    """
    rows = {row["step"]: row for row in metrics_of(run)}
    table = Table(title=f"Replay of {run}" + (f" with a different {', '.join(changed)}" if changed else ""))
    for column in ("update", *COMPARED, "weights"):
        table.add_column(column, justify="right")
    num_updates, first_difference, failure = 0, None, None
    try:
        for update in updates:
            num_updates += 1
            if not update.is_same and first_difference is None:
                first_difference = update.step
            cells = [_compared(name, update.stats, rows.get(update.step, {})) for name in COMPARED]
            table.add_row(str(update.step), *cells, "equal" if update.is_same else "different")
    except FloatingPointError as error:
        failure = error
    console.print(table)
    if failure is not None:
        console.print(f"An update failed: {failure}.")
        return 1
    if first_difference is None:
        console.print(f"All {num_updates} updates reproduced the weights of the run bit for bit.")
        return 0
    console.print(f"From update {first_difference} of {num_updates} on, the weights differ from those of the run.")
    return 0 if changed else 1


def _compared(name: str, stats: UpdateStats, row: dict[str, Any]) -> str:
    value, recorded = float(getattr(stats, name)), row.get(name)
    if not isinstance(recorded, int | float) or recorded == value:
        return f"{value:.4g}"
    return f"{recorded:.4g} -> {value:.4g}"

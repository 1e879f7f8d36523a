"""What a job says before it starts and after it ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evaluation import EvaluationResult
from settings import MIB, Settings
from settings_sources import to_yaml


def print_plan(settings: Settings, console: Console) -> None:
    """The resolved settings as YAML, and the resources that each actor will ask Ray for."""
    console.print(to_yaml(settings), highlight=False, markup=False, soft_wrap=True)
    table = Table(title="Resources that the actors ask for")
    for column in ("actor", "number", "CPUs each", "GPUs each", "memory"):
        table.add_column(column, justify="left" if column == "actor" else "right")
    generator, sandbox, learner = settings.generator, settings.sandbox, settings.learner
    workers = f"{sandbox.min_workers} to {sandbox.max_workers}"
    cache = f"{generator.kv_cache_bytes / MIB:,.0f} MiB cache" if generator.num_gpus == 0 else ""
    table.add_row(
        "generator", str(generator.num_generators), f"{generator.num_cpus:g}", f"{generator.num_gpus:g}", cache
    )
    table.add_row("sandbox", workers, f"{sandbox.num_cpus:g}", "0", f"{sandbox.memory_bytes / MIB:,.0f} MiB a program")
    table.add_row("learner", "1", f"{learner.num_cpus:g}", f"{learner.num_gpus:g}", "")
    table.add_row("buffer", "1", "0", "0", f"at most {settings.buffer.max_bytes / MIB:,.0f} MiB of samples")
    table.add_row("rollout store", "1", "0", "0", "")
    console.print(table)


def print_summary(
    console: Console,
    folder: Path,
    evaluations: Sequence[tuple[int, EvaluationResult]],
    stages: Sequence[tuple[str, float]],
    seconds: float,
) -> None:
    """pass@k before and after, how long each stage took, where the checkpoint lies and how to try it."""
    if evaluations:
        (first_step, before), (last_step, after) = evaluations[0], evaluations[-1]
        table = Table(title=f"Held-out problems ({after.num_problems}), 95 % intervals")
        columns = ("", "before", "after", "gain") if first_step < last_step else ("", "after")
        for column in columns:
            table.add_column(column, justify="right")
        for k in after.pass_at:
            gain = 100 * (after.pass_at[k]["all"] - before.pass_at[k]["all"])
            cells = (_with_interval(before, k), _with_interval(after, k), f"{gain:+.1f} points")
            table.add_row(f"pass@{k}", *(cells if first_step < last_step else cells[1:2]))
        console.print(table)
    console.print(", ".join(f"{name} {taken:.0f} s" for name, taken in stages) + f"; {seconds:.0f} s in all")
    checkpoints = sorted((folder / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    if checkpoints:
        console.print(f"Checkpoint: {checkpoints[-1]}")
        console.print(
            f"Try it: .venv/bin/python evaluate.py --model {checkpoints[-1]} --problems 'starter:test[:20]' "
            f"--num-samples 4 --k 1 --output {folder / 'try'}",
            soft_wrap=True,
        )
    console.print(f"Report: {folder / 'report.html'}")


def _with_interval(result: EvaluationResult, k: int) -> str:
    low, high = result.intervals[k]["all"]
    return f"{100 * result.pass_at[k]['all']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"

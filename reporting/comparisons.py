"""Runs compared with each other, for documents: Markdown tables, and figures for white and for dark pages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rltf.errors import UserError
from rltf.evaluation.passes import bootstrap_interval
from rltf.reporting.charts import Row
from rltf.reporting.rows import ALL, evaluations_of, shown_groups, task_ids_of
from rltf.reporting.tables import with_interval

# Readable on a white and on a dark page.
COLORS = ("#2f7de1", "#e07b39", "#2c9f6b", "#a259d9")
NEUTRAL = "#808893"
NUM_CURVE_RESAMPLES = 2000
NUM_RESAMPLES = 10_000

Passes = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean in percent with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


def interval(passes: Passes) -> Interval:
    """The mean of `passes` [seeds, problems] with a bootstrap over seeds and problems, both resampled each time.

    Seeds share their problems, so a repeated experiment would vary in both. The same input gives the same interval.
    """
    rng = np.random.default_rng(0)
    num_seeds, num_problems = passes.shape
    # How often each seed and each problem is drawn, instead of the draws themselves.
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), NUM_RESAMPLES) / num_seeds
    problems = rng.multinomial(num_problems, np.full(num_problems, 1 / num_problems), NUM_RESAMPLES) / num_problems
    means = np.einsum("rs,sp,rp->r", seeds, passes, problems, optimize=True)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(100 * float(passes.mean()), 100 * float(low), 100 * float(high))


def comparison_table(runs: Sequence[Path], controls: Sequence[Path] = ()) -> str:
    """A Markdown table with a row for each run, and the mean gain. If the problems are in named sets, a table for each.

    With `controls`, one for each run, it is the gain over the controls at the end of training; without, the gain over
    the first evaluation of the same run. Its 95 % interval is a bootstrap over problems of each problem's mean over the
    seeds. Both sides were evaluated on the same problems and are resampled together.

    Raises UserError for a folder without two evaluations, and for runs that were evaluated on different problems.
    """
    if controls and len(runs) != len(controls):
        raise UserError(f"{len(runs)} runs but {len(controls)} controls: give one control for each run, or none")
    groups = shown_groups(_evaluations(runs[0], ALL)[-1])
    tables = {group: _group_table(group, runs, controls) for group in groups}
    return "\n\n".join(table if group == ALL else f"**{group}**\n\n{table}" for group, table in tables.items())


def _group_table(group: str, runs: Sequence[Path], controls: Sequence[Path]) -> str:
    task_ids = task_ids_of(_evaluations(runs[0], group)[-1], group)
    lines = ["| run | before | after | gain |", "|---|---|---|---|"]
    if controls:
        lines = ["| run | before | after | gain | control after |", "|---|---|---|---|---|"]
    differences = []
    for index, run in enumerate(runs):
        first, *_, last = _evaluations(run, group)
        gain = 100 * (last["pass@1"][group] - first["pass@1"][group])
        before, after = (with_interval(row, "pass@1", group) for row in (first, last))
        line = f"| {run.name} | {before} | {after} | {gain:+.1f} |"
        other, other_name = first, run
        if controls:
            other, other_name = _evaluations(controls[index], group)[-1], controls[index]
            line += f" {with_interval(other, 'pass@1', group)} |"
        lines.append(line)
        differences.append(passes_of(last, task_ids, run, group) - passes_of(other, task_ids, other_name, group))
    difference = np.mean(differences, axis=0)
    low, high = bootstrap_interval(difference)
    against = "gain over the controls" if controls else "gain from training"
    return "\n".join(lines) + (
        f"\n\nMean {against}, over {len(runs)} seeds: {100 * difference.mean():.1f} points "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f})."
    )


def _evaluations(run: Path, of: str) -> list[Row]:
    rows = [row for row in evaluations_of(run) if "pass@1" in row and (of == ALL or of in shown_groups(row))]
    if len(rows) < 2:
        on = "" if of == ALL else f" on {of}"
        raise UserError(f"{run} has no evaluations of pass@1{on} before and after training")
    return rows


def passes_of(row: Row, task_ids: Sequence[str], run: Path, of: str = ALL) -> Passes:
    """The pass@1 of each problem [problems], of all or of a named set, in an evaluation of `run`."""
    if task_ids_of(row, of) != list(task_ids):
        on = "" if of == ALL else f" in {of}"
        raise UserError(f"{run} was evaluated on different problems{on} than the runs before it")
    return np.array([row["num_passed"][task] * len(row["num_passed"]) / row["num_samples"] for task in task_ids])


def draw_pass_at_k(groups: Mapping[str, Sequence[Path]], output: Path, k: int = 1, of: str = ALL) -> None:
    """Draw the mean over the runs of each group with its 95 % interval, and each run as a thin line.

    pass@k is that of all held-out problems, or of the named set `of`. The interval is a bootstrap over runs (seeds);
    for a group of one run it is the run's own, over problems.

    Raises UserError for a folder without evaluations of pass@k, and for runs of a group evaluated at different steps.
    """
    with figure_axes(output, 4.0) as axes:
        for (label, folders), color in zip(groups.items(), COLORS, strict=False):
            _draw_group(axes, label, folders, f"pass@{k}", of, color)
        axes.set_xlabel("updates")
        axes.set_ylabel(f"{'held-out' if of == ALL else of} pass@{k}, %")
        axes.grid(color=NEUTRAL, alpha=0.25)
        axes.legend(frameon=False, loc="upper left", labelcolor=NEUTRAL)


def _draw_group(axes: Any, label: str, folders: Sequence[Path], name: str, of: str, color: str) -> None:
    runs: list[list[Row]] = []
    for folder in folders:
        rows = [row for row in evaluations_of(folder) if name in row and (of == ALL or of in shown_groups(row))]
        if not rows:
            raise UserError(f"{folder} has no evaluation of {name}{'' if of == ALL else f' on {of}'}")
        if runs and [row["step"] for row in rows] != [row["step"] for row in runs[0]]:
            raise UserError(f"{folder} was evaluated at different steps than {folders[0]}")
        runs.append(rows)
    steps = [row["step"] for row in runs[0]]
    curves = 100 * np.array([[row[name][of] for row in rows] for rows in runs])
    if len(runs) == 1:
        band = 100 * np.array([row["intervals"][name][of] for row in runs[0]]).T
    else:
        picks = np.random.default_rng(0).integers(len(curves), size=(NUM_CURVE_RESAMPLES, len(curves)))
        band = np.percentile(curves[picks].mean(axis=1), [2.5, 97.5], axis=0)
    for curve in curves:
        axes.plot(steps, curve, color=color, linewidth=0.8, alpha=0.5)
    axes.fill_between(steps, *band, color=color, alpha=0.18, linewidth=0)
    seeds = f", mean of {len(runs)} seeds" if len(runs) > 1 else ""
    axes.plot(steps, curves.mean(axis=0), color=color, linewidth=2.2, marker="o", markersize=4, label=label + seeds)


@contextlib.contextmanager
def figure_axes(output: Path, height: float) -> Iterator[Any]:
    """Axes on a transparent figure, which is saved when the context ends without an error."""
    style: Any = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), NEUTRAL)
    with mpl.rc_context(style | {"font.size": 11, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        figure.patch.set_alpha(0.0)
        axes = figure.subplots()
        axes.patch.set_alpha(0.0)
        for spine in axes.spines.values():
            spine.set_color(NEUTRAL)
            spine.set_alpha(0.4)
        yield axes
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=160)

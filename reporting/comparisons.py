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

from errors import UserError
from evaluation.passes import bootstrap_interval
from reporting.rows import evaluations_of
from reporting.tables import with_interval

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
    """A Markdown table with a row for each run, and the mean gain.

    With `controls`, one for each run, it is the gain over the controls at the end of training; without, the gain over
    the first evaluation of the same run. Its 95 % interval is a bootstrap over problems of each problem's mean over the
    seeds. Both sides were evaluated on the same problems and are resampled together.

    Raises UserError for a folder without two evaluations, and for runs that were evaluated on different problems.
    """
    if controls and len(runs) != len(controls):
        raise UserError(f"{len(runs)} runs but {len(controls)} controls: give one control for each run, or none")
    task_ids = sorted(_evaluations(runs[0])[-1]["num_passed"])
    lines = ["| run | before | after | gain |", "|---|---|---|---|"]
    if controls:
        lines = ["| run | before | after | gain | control after |", "|---|---|---|---|---|"]
    differences = []
    for index, run in enumerate(runs):
        first, *_, last = _evaluations(run)
        gain = 100 * (last["pass@1"]["all"] - first["pass@1"]["all"])
        row = f"| {run.name} | {with_interval(first, 'pass@1')} | {with_interval(last, 'pass@1')} | {gain:+.1f} |"
        other, other_name = first, run
        if controls:
            other, other_name = _evaluations(controls[index])[-1], controls[index]
            row += f" {with_interval(other, 'pass@1')} |"
        lines.append(row)
        differences.append(passes_of(last, task_ids, run) - passes_of(other, task_ids, other_name))
    difference = np.mean(differences, axis=0)
    low, high = bootstrap_interval(difference)
    against = "gain over the controls" if controls else "gain from training"
    return "\n".join(lines) + (
        f"\n\nMean {against}, over {len(runs)} seeds: {100 * difference.mean():.1f} points "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f})."
    )


def _evaluations(run: Path) -> list[dict[str, Any]]:
    rows = [row for row in evaluations_of(run) if "pass@1" in row]
    if len(rows) < 2:
        raise UserError(f"{run} has no evaluations of pass@1 before and after training")
    return rows


def passes_of(row: dict[str, Any], task_ids: Sequence[str], run: Path) -> Passes:
    """The pass@1 of each problem [problems] in an evaluation of `run`."""
    if sorted(row["num_passed"]) != list(task_ids):
        raise UserError(f"{run} was evaluated on different problems than the runs before it")
    return np.array([row["num_passed"][task] * len(task_ids) / row["num_samples"] for task in task_ids])


def draw_pass_at_k(groups: Mapping[str, Sequence[Path]], output: Path, k: int = 1) -> None:
    """Draw the mean over the runs of each group with its 95 % interval, and each run as a thin line.

    The interval is a bootstrap over runs (seeds); for a group of one run it is the run's own, over problems.

    Raises UserError for a folder without evaluations of pass@k, and for runs of a group evaluated at different steps.
    """
    with figure_axes(output, 4.0) as axes:
        for (label, folders), color in zip(groups.items(), COLORS, strict=False):
            _draw_group(axes, label, folders, k, color)
        axes.set_xlabel("updates")
        axes.set_ylabel(f"held-out pass@{k}, %")
        axes.grid(color=NEUTRAL, alpha=0.25)
        axes.legend(frameon=False, loc="upper left", labelcolor=NEUTRAL)


def _draw_group(axes: Any, label: str, folders: Sequence[Path], k: int, color: str) -> None:
    name = f"pass@{k}"
    runs: list[list[dict[str, Any]]] = []
    for folder in folders:
        rows = [row for row in evaluations_of(folder) if name in row]
        if not rows:
            raise UserError(f"{folder} has no evaluation of {name}")
        if runs and [row["step"] for row in rows] != [row["step"] for row in runs[0]]:
            raise UserError(f"{folder} was evaluated at different steps than {folders[0]}")
        runs.append(rows)
    steps = [row["step"] for row in runs[0]]
    curves = 100 * np.array([[row[name]["all"] for row in rows] for rows in runs])
    if len(runs) == 1:
        band = 100 * np.array([row["intervals"][name]["all"] for row in runs[0]]).T
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

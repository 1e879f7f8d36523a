"""Runs compared with each other, for documents: Markdown tables, and figures for white and for dark pages."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray

from errors import UserError
from evaluation.passes import bootstrap_interval
from files import read_rows
from reporting.tables import with_interval

# Readable on a white and on a dark page.
COLORS = ("#2f7de1", "#e07b39", "#2c9f6b", "#a259d9")
NEUTRAL = "#808893"
NUM_CURVE_RESAMPLES = 2000
NUM_RESAMPLES = 10_000
NUM_EARLY_REFRESHES = 5

OFFLINE = "offline"
# The rows of the ablation, with their titles.
ROWS = {
    "sl": "SL only",
    "coarse": "+ coarse",
    "coarse-fine": "+ fine",
    "rltf": "+ adaptive (preset `rltf`)",
    "static": "+ static analysis",
    OFFLINE: "`rltf`, offline samples",
    "rltf-paper": "preset `rltf-paper`",
    "rltf-code": "preset `rltf-code`",
}
# The pairs of rows whose difference is of interest.
COMPARISONS = (
    ("coarse", "sl"),
    ("coarse-fine", "coarse"),
    ("rltf", "coarse-fine"),
    ("rltf", "sl"),
    ("static", "rltf"),
    ("rltf", OFFLINE),
    ("rltf", "rltf-paper"),
    ("rltf", "rltf-code"),
)

Passes = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean in percent with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


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
        differences.append(_passes(last, task_ids, run) - _passes(other, task_ids, other_name))
    difference = np.mean(differences, axis=0)
    low, high = bootstrap_interval(difference)
    against = "gain over the controls" if controls else "gain from training"
    return "\n".join(lines) + (
        f"\n\nMean {against}, over {len(runs)} seeds: {100 * difference.mean():.1f} points "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f})."
    )


def _evaluations(run: Path) -> list[dict[str, Any]]:
    rows = [row for row in read_rows(run / "evaluations.jsonl") if "pass@1" in row]
    if len(rows) < 2:
        raise UserError(f"{run} has no evaluations of pass@1 before and after training")
    return rows


def _passes(row: dict[str, Any], task_ids: Sequence[str], run: Path) -> Passes:
    """The pass@1 of each problem [problems] in an evaluation of `run`."""
    if sorted(row["num_passed"]) != list(task_ids):
        raise UserError(f"{run} was evaluated on different problems than the runs before it")
    return np.array([row["num_passed"][task] * len(task_ids) / row["num_samples"] for task in task_ids])


def draw_pass_at_k(groups: Mapping[str, Sequence[Path]], output: Path, k: int = 1) -> None:
    """Draw the mean over the runs of each group with its 95 % interval, and each run as a thin line.

    The interval is a bootstrap over runs (seeds); for a group of one run it is the run's own, over problems.

    Raises UserError for a folder without evaluations of pass@k, and for runs of a group evaluated at different steps.
    """
    with _figure(output, 4.0) as axes:
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
        rows = [row for row in read_rows(folder / "evaluations.jsonl") if name in row]
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
def _figure(output: Path, height: float) -> Iterator[Any]:
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


def is_finished(folder: Path) -> bool:
    """Whether the run has its last evaluation."""
    if not (folder / "settings.yaml").is_file():
        return False
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    rows = read_rows(folder / "evaluations.jsonl")
    return bool(rows) and rows[-1]["step"] == settings["run"]["num_steps"]


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


def read_ablation(folder: Path) -> dict[str, Passes]:
    """Held-out pass@1 [seeds, problems] of each row that has runs in `folder`.

    Raises UserError if there are none, if a run is unfinished, or if rows differ in their seeds or problems.
    """
    found: dict[str, Passes] = {}
    seeds_of: dict[str, list[str]] = {}
    task_ids: list[str] = []
    for row in ROWS:
        runs = {run.name.removeprefix(f"{row}-"): run for run in folder.glob(f"{row}-*")}
        runs = {seed: runs[seed] for seed in sorted(runs) if seed.isdecimal()}
        passes = []
        for run in runs.values():
            if not is_finished(run):
                raise UserError(f"{run} is not finished: continue with `make ablation`, or remove it")
            last = read_rows(run / "evaluations.jsonl")[-1]
            task_ids = task_ids or sorted(last["num_passed"])
            passes.append(_passes(last, task_ids, run))
        if passes:
            found[row], seeds_of[row] = np.array(passes), list(runs)
    if not found:
        raise UserError(f"{folder} has no runs of an ablation: make them with `make ablation`")
    expected = next(iter(seeds_of.values()))
    for row, seeds in seeds_of.items():
        if seeds != expected:
            raise UserError(f"row {row} has the seeds {', '.join(seeds)}, but other rows have {', '.join(expected)}")
    return found


def ablation_tables(folder: Path) -> str:
    """Markdown: pass@1 of each row, paired differences, and how early samples ended. Raises as `read_ablation` does."""
    found = read_ablation(folder)
    num_seeds, num_problems = next(iter(found.values())).shape
    lines = [
        f"{num_seeds} seeds, {num_problems} held-out problems; percent, with 95 % intervals over seeds and problems.",
        "",
        "| row | held-out pass@1 | each seed |",
        "|---|---|---|",
    ]
    for row, passes in found.items():
        seeds = ", ".join(f"{100 * mean:.1f}" for mean in passes.mean(axis=1))
        lines.append(f"| {ROWS[row]} | {interval(passes)} | {seeds} |")
    lines += ["", "| difference | points | |", "|---|---|---|"]
    for row, other in COMPARISONS:
        if row in found and other in found:
            difference = interval(found[row] - found[other])
            sign = "above 0" if difference.low > 0 else "below 0" if difference.high < 0 else "not established"
            lines.append(f"| {ROWS[row]} - {ROWS[other]} | {difference} | {sign} |")
    return "\n".join([*lines, "", early_errors(sorted(folder.glob("rltf-[0-9]*")))])


def early_errors(runs: Sequence[Path]) -> str:
    """A sentence on how the sample programs from the first refreshes of `runs` ended."""
    ends: Counter[str] = Counter()
    located: Counter[str] = Counter()
    for run in runs:
        for path in sorted((run / "samples").glob("*.jsonl"))[:NUM_EARLY_REFRESHES]:
            for program in read_rows(path):
                ends[program["outcome"]] += 1
                if program["error_line"] is not None:
                    located[program["error_type"]] += 1
    total = ends.total()
    if not total:
        return "The row `rltf` kept no sample programs."

    def shares(counts: Counter[str]) -> str:
        return ", ".join(f"{kind} {100 * count / total:.1f} %" for kind, count in counts.most_common())

    return (
        f"{total} sample programs from the first {NUM_EARLY_REFRESHES} refreshes of `rltf`: {shares(ends)}. "
        f"{100 * located.total() / total:.1f} % end in an error with a line number: {shares(located)}."
    )


def draw_ablation(folder: Path, output: Path) -> None:
    """Draw a dot and an interval for each row, and each seed as a small dot. Raises as `read_ablation` does."""
    found = read_ablation(folder)
    with _figure(output, 0.45 * len(found) + 1.0) as axes:
        for height, passes in enumerate(found.values()):
            total = interval(passes)
            seeds = 100 * passes.mean(axis=1)
            axes.plot(seeds, [height] * len(seeds), "o", color=COLORS[0], markersize=4, alpha=0.4)
            axes.plot([total.low, total.high], [height, height], color=COLORS[0], linewidth=2)
            axes.plot([total.mean], [height], "o", color=COLORS[0], markersize=8)
        axes.set_yticks(range(len(found)), [ROWS[row].replace("`", "") for row in found])
        axes.invert_yaxis()
        axes.set_xlabel("held-out pass@1, %")
        axes.grid(axis="x", color=NEUTRAL, alpha=0.25)

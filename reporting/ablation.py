"""Tables and figure of an ablation: held-out pass@1 of each row, and what each gains over another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reporting.figure import COLORS, NEUTRAL
from reporting.rows import read_rows

OFFLINE = "offline"
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


def is_finished(folder: Path) -> bool:
    """Whether the run's last evaluation is there."""
    if not (folder / "settings.yaml").is_file():
        return False
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    rows = read_rows(folder / "evaluations.jsonl")
    return bool(rows) and rows[-1]["step"] == settings["run"]["num_steps"]


# Each row beside the one that it is to be compared with.
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
NUM_RESAMPLES = 10_000
NUM_EARLY_REFRESHES = 5

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
    """Of the mean of `passes` [seeds, problems], a bootstrap over seeds and over problems, each resampled at once.

    Seeds share their problems, so both vary what a repeated experiment would show. Equal input, equal answer.
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
    """Held-out pass@1 [seeds, problems] of each row whose runs are in `folder`.

    Raises:
        ValueError: there are none, a run without its last evaluation, rows of other seeds, or other problems.
    """
    found: dict[str, Passes] = {}
    seeds_of: dict[str, list[str]] = {}
    task_ids: list[str] | None = None
    for row in ROWS:
        runs = {run.name.removeprefix(f"{row}-"): run for run in folder.glob(f"{row}-*")}
        runs = {seed: runs[seed] for seed in sorted(runs) if seed.isdecimal()}
        passes = []
        for run in runs.values():
            if not is_finished(run):
                raise ValueError(f"{run} is not finished: go on with `make ablation`, or remove it")
            last = read_rows(run / "evaluations.jsonl")[-1]
            task_ids = task_ids or sorted(last["num_passed"])
            if sorted(last["num_passed"]) != task_ids:
                raise ValueError(f"{run} was evaluated on other problems than the runs before it")
            passes.append([last["num_passed"][task] * len(task_ids) / last["num_samples"] for task in task_ids])
        if passes:
            found[row], seeds_of[row] = np.array(passes), list(runs)
    if not found:
        raise ValueError(f"{folder} holds no runs of an ablation: make them with `make ablation`")
    expected = next(iter(seeds_of.values()))
    for row, seeds in seeds_of.items():
        if seeds != expected:
            raise ValueError(f"row {row} has the seeds {', '.join(seeds)}, others have {', '.join(expected)}")
    return found


def ablation_tables(folder: Path) -> str:
    """Markdown: pass@1 of each row, paired differences, how the early samples ended. Raises as `read_ablation`."""
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
    """A sentence on how the programs shown in the first refreshes of `runs` ended."""
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
        return "No samples of the row `rltf` were kept."

    def shares(counts: Counter[str]) -> str:
        return ", ".join(f"{kind} {100 * count / total:.1f} %" for kind, count in counts.most_common())

    return (
        f"Of {total} programs shown in the first {NUM_EARLY_REFRESHES} refreshes of `rltf`: {shares(ends)}. "
        f"{100 * located.total() / total:.1f} % end in an error that has a line: {shares(located)}."
    )


def draw_ablation(folder: Path, output: Path) -> None:
    """A dot and an interval for each row, and each seed as a small dot. Raises as `read_ablation`."""
    found = read_ablation(folder)
    with mpl.rc_context({"text.color": NEUTRAL, "font.size": 11, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.2, 0.45 * len(found) + 1.0), layout="constrained")
        figure.patch.set_alpha(0.0)
        axes = figure.subplots()
        axes.patch.set_alpha(0.0)
        for height, passes in enumerate(found.values()):
            whole = interval(passes)
            seeds = 100 * passes.mean(axis=1)
            axes.plot(seeds, [height] * len(seeds), "o", color=COLORS[0], markersize=4, alpha=0.4)
            axes.plot([whole.low, whole.high], [height, height], color=COLORS[0], linewidth=2)
            axes.plot([whole.mean], [height], "o", color=COLORS[0], markersize=8)
        axes.set_yticks(range(len(found)), [ROWS[row].replace("`", "") for row in found])
        axes.invert_yaxis()
        axes.set_xlabel("held-out pass@1, %", color=NEUTRAL)
        axes.tick_params(colors=NEUTRAL)
        axes.grid(axis="x", color=NEUTRAL, alpha=0.25)
        for spine in axes.spines.values():
            spine.set_color(NEUTRAL)
            spine.set_alpha(0.4)
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=160)

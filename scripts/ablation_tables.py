"""Tables and the figure of the ablation, from the folders of its runs.

    python -m scripts.ablation_tables runs/ablation --output docs/images/ablation.png

Prints Markdown tables, and draws the figure for white and for dark pages.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rltf.errors import UserError
from rltf.files import read_rows, read_steps
from rltf.reporting.comparisons import COLORS, NEUTRAL, Passes, figure_axes, interval, passes_of
from rltf.reporting.rows import settings_of
from rltf.settings import Algorithm

NUM_EARLY_REFRESHES = 5
OFFLINE = "offline"
# The rows of the ablation, with their titles.
ROWS = {
    "sl": "SL only",
    "coarse": "+ coarse",
    "coarse-fine": "+ fine",
    "rltf": "+ adaptive (preset `rltf`)",
    "static": "+ static analysis",
    "siblings": "+ lines to blame for wrong answers",
    OFFLINE: "`rltf`, offline samples",
    "rltf-paper": "preset `rltf-paper`",
    "rltf-code": "preset `rltf-code`",
}
TERMS = tuple(ROWS)
# Two rows for each rival: with its own reward, and with the same one for all, coarse and adaptive.
SAME = "-same"
RIVALS = tuple(one.value for one in Algorithm if not one.startswith("rltf"))
ROWS |= {f"rltf{SAME}": "`rltf`, same reward"}
for _rival in RIVALS:
    ROWS |= {_rival: f"preset `{_rival}`", f"{_rival}{SAME}": f"`{_rival}`, same reward"}
# The model that all rows of a seed start from, as one of them finds it before its first update.
START = "start"
TITLES = {START: "after SFT", **ROWS}
# The pairs of rows whose difference is of interest.
COMPARISONS = (
    ("coarse", "sl"),
    ("coarse-fine", "coarse"),
    ("rltf", "coarse-fine"),
    ("rltf", "sl"),
    ("sl", START),
    ("rltf", START),
    ("static", "rltf"),
    ("siblings", START),
    ("siblings", "rltf"),
    ("rltf", OFFLINE),
    ("rltf", "rltf-paper"),
    ("rltf", "rltf-code"),
    *((rival, START) for rival in RIVALS),
    *((rival, "rltf") for rival in RIVALS),
    *((f"{rival}{SAME}", f"rltf{SAME}") for rival in RIVALS),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status: 2 if a folder cannot be used."""
    parser = argparse.ArgumentParser(description="Print the tables of `make ablation` and draw its picture.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the ablation's runs")
    parser.add_argument("--output", type=Path, required=True, help="picture to write, .png or .svg")
    options = parser.parse_args(arguments)
    try:
        print(ablation_tables(options.folder))
        draw_ablation(options.folder, options.output)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def is_finished(folder: Path) -> bool:
    """Whether the run has its last evaluation."""
    if not (folder / "settings.yaml").is_file():
        return False
    settings = settings_of(folder)
    rows = read_steps(folder / "evaluations.jsonl")
    return bool(rows) and rows[-1]["step"] == settings["run"]["num_steps"]


def read_ablation(folder: Path) -> dict[str, Passes]:
    """Held-out pass@1 [seeds, problems] of each row that has runs in `folder`, and of the start of all rows.

    Raises UserError if there are none, if a run is unfinished, or if rows differ in their seeds or problems.
    """
    found: dict[str, Passes] = {}
    starts: dict[str, Passes] = {}
    seeds_of: dict[str, list[str]] = {}
    task_ids: list[str] = []
    for row in ROWS:
        runs = {run.name.removeprefix(f"{row}-"): run for run in folder.glob(f"{row}-*")}
        runs = {seed: runs[seed] for seed in sorted(runs) if seed.isdecimal()}
        passes = []
        for seed, run in runs.items():
            if not is_finished(run):
                raise UserError(f"{run} is not finished: continue with `make ablation`, or remove it")
            evaluations = read_steps(run / "evaluations.jsonl")
            first, last = evaluations[0], evaluations[-1]
            task_ids = task_ids or sorted(last["num_passed"])
            passes.append(passes_of(last, task_ids, run))
            if first["step"] == 0:
                starts.setdefault(seed, passes_of(first, task_ids, run))
        if passes:
            found[row], seeds_of[row] = np.array(passes), list(runs)
    if not found:
        raise UserError(f"{folder} has no runs of an ablation: make them with `make ablation`")
    expected = next(iter(seeds_of.values()))
    for row, seeds in seeds_of.items():
        if seeds != expected:
            raise UserError(f"row {row} has the seeds {', '.join(seeds)}, but other rows have {', '.join(expected)}")
    if sorted(starts) != expected:
        return found
    return {START: np.array([starts[seed] for seed in expected]), **found}


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
        lines.append(f"| {TITLES[row]} | {interval(passes)} | {seeds} |")
    lines += ["", "| difference | points | |", "|---|---|---|"]
    for row, other in COMPARISONS:
        if row in found and other in found:
            difference = interval(found[row] - found[other])
            sign = "above 0" if difference.low > 0 else "below 0" if difference.high < 0 else "not established"
            lines.append(f"| {TITLES[row]} - {TITLES[other]} | {difference} | {sign} |")
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
    with figure_axes(output, 0.45 * len(found) + 1.0) as axes:
        for height, passes in enumerate(found.values()):
            total = interval(passes)
            seeds = 100 * passes.mean(axis=1)
            axes.plot(seeds, [height] * len(seeds), "o", color=COLORS[0], markersize=4, alpha=0.4)
            axes.plot([total.low, total.high], [height, height], color=COLORS[0], linewidth=2)
            axes.plot([total.mean], [height], "o", color=COLORS[0], markersize=8)
        axes.set_yticks(range(len(found)), [TITLES[row].replace("`", "") for row in found])
        axes.invert_yaxis()
        axes.set_xlabel("held-out pass@1, %")
        axes.grid(axis="x", color=NEUTRAL, alpha=0.25)


if __name__ == "__main__":
    sys.exit(main())

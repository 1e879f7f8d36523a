"""The report: one page about a run, or about several runs side by side, made from their folders at any time.

The page holds everything it needs, works from a file, and asks the network for nothing. Python chooses what is shown
and writes it into the page as JSON. `assets/page.js` lists the sample programs and draws the charts with uPlot
(https://github.com/leeoniya/uPlot, MIT license, 51 KB; `assets/` has an unchanged copy of version 1.6.32).
"""

from __future__ import annotations

import html
import itertools
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from string import Template

import yaml

from rltf.errors import UserError
from rltf.files import write_text
from rltf.reporting.charts import Chart, Row, num_graded, system_charts, training_charts
from rltf.reporting.rows import ALL, evaluations_of, metrics_of, samples_of, settings_of, shown_groups
from rltf.sandbox.verdict import Outcome

ASSETS = Path(__file__).parent / "assets"
NUM_RECENT = 10  # updates whose mean stands for where a run is
MAX_POINTS = 1000  # points of a curve; longer ones are averaged
MAX_REFRESHES = 24  # refreshes whose programs go into the page, spread over the run
MAX_PROGRAM = 12_000  # characters shown of a program
MAX_FEEDBACK = 4_000  # characters shown of what the model read about a program
CUT = " ... the rest is not shown"
NUM_COLORS = 6
INTERVALS = "Shaded: 95 % bootstrap interval over problems."


@dataclass(frozen=True, slots=True)
class Run:
    """What the folder of a run holds. `minutes` [steps] is the training time at the end of each step."""

    name: str
    settings: Row
    steps: list[Row]
    evaluations: list[Row]
    samples: list[Row]
    minutes: list[float]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Raises UserError if `folder` is not a run folder, or if one of its files is damaged."""
        settings = settings_of(folder)
        steps = metrics_of(folder)
        seconds = itertools.accumulate(row.get("elapsed_s") or row["seconds"] for row in steps)
        return cls(
            settings["run"].get("name", folder.name),
            settings,
            steps,
            evaluations_of(folder),
            _samples(folder / "samples"),
            [value / 60 for value in seconds],
        )


def build_report(
    folders: Sequence[Path],
    output: Path | None = None,
    *,
    metrics: Sequence[str] = (),
    smoothing: float = 0.0,
    axis: str = "step",
) -> Path:
    """Write the page about the runs in `folders` and return its path, by default `report.html` in the only folder.

    `metrics` names fields of `metrics.jsonl` (`outcomes.passed` for nested ones) to draw instead of the usual charts.
    `smoothing` and `axis` (`step` or `time`) are how the page's controls are set when it opens.

    Raises UserError if a folder is not a run folder, if one of its files is damaged, or if no run has a metric.
    """
    runs = [Run.read(folder) for folder in folders]
    if len({run.name for run in runs}) < len(runs):  # only the folders tell them apart
        runs = [replace(run, name=str(folder)) for run, folder in zip(runs, folders, strict=True)]
    charts = [_drawn(chart, runs) for chart in _charts(runs, metrics)]
    axes: list[Row] = [
        {
            "step": _thinned([row["step"] for row in run.steps], _stride(run.steps)),
            "time": _thinned(run.minutes, _stride(run.steps)),
        }
        for run in runs
    ]
    data = {
        "charts": ([] if metrics else _pass_charts(runs, axes)) + [chart for chart in charts if chart["curves"]],
        "axes": axes,
        "samples": [{"run": run.name, **sample} for run in runs for sample in run.samples],
        "smoothing": smoothing,
        "axis": axis,
    }
    page = Template((ASSETS / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(" / ".join(run.name for run in runs)),
        style=_asset("uPlot.min.css") + _asset("page.css"),
        library=_asset("uPlot.iife.min.js"),
        script=_asset("page.js"),
        written="<br>".join(html.escape(_written(run, len(runs) > 1)) for run in runs),
        tiles=_tiles(runs[0]) if len(runs) == 1 else _comparison(runs),
        # A program's text must not be able to close the script element.
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        settings="".join(_settings(run) for run in runs),
    )
    return write_text(output or folders[0] / "report.html", page)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _written(run: Run, has_others: bool) -> str:
    step = run.steps[-1]["step"] if run.steps else 0
    name = f"{run.name}: update" if has_others else "Update"
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return f"{name} {step} of {run.settings['run']['num_steps']}. Written {now}."


def _facts(run: Run) -> dict[str, tuple[str, str]]:
    """The most important numbers of a run: by label, a value and a detail."""
    facts = {}
    for (group, problems), rows in _by_set(run.evaluations).items():
        if not (names := _pass_names(rows)):
            continue
        name = names[0]
        first, last = rows[0], rows[-1]
        low, high = last["intervals"][name][group]
        before = f"{percent(first[name][group])} before, at step {first['step']}" if len(rows) > 1 else "one evaluation"
        shown = f"{name} on {problems if group == ALL else group}"
        facts[shown] = percent(last[name][group]), f"[{percent(low)}, {percent(high)}]; {before}"
    if run.steps:
        last, recent = run.steps[-1], run.steps[-NUM_RECENT:]
        seconds = _total(run, "seconds")
        tokens = sum(row["tokens_per_s"] * row["seconds"] for row in run.steps)
        levels = ", ".join(sorted({level for row in run.steps for level in row.get("isolation", {})}))
        num_tests, num_errors = number(_total(run, "num_tests")), _total(run, "num_faults")
        worst = max(row["staleness_max"] for row in run.steps)
        facts |= {
            "updates": (str(last["step"]), f"{seconds / 60:.1f} min of learner steps"),
            "training pass rate": (
                percent(fmean(row["pass_rate"] for row in recent)),
                f"reward {fmean(row['reward_mean'] for row in recent):+.3f}, over the last {len(recent)} updates",
            ),
            "tokens/s": (number(tokens / seconds if seconds else 0.0), "trained on, averaged over the run"),
            "staleness": (f"{last['staleness_mean']:.1f}", f"versions in the last step; at most {worst} in the run"),
            "programs graded": (
                number(sum(map(num_graded, run.steps))),
                f"on {num_tests} tests; {num_errors:.0f} grader errors; {levels}",
            ),
        }
    return facts


def _total(run: Run, name: str) -> float:
    return float(sum(row.get(name, 0) for row in run.steps))


def _tiles(run: Run) -> str:
    tiles = [
        f'<div class="tile"><span>{html.escape(label)}</span><strong>{html.escape(value)}</strong>'
        f"<small>{html.escape(detail)}</small></div>"
        for label, (value, detail) in _facts(run).items()
    ]
    return f'<section class="tiles">{"".join(tiles)}</section>' if tiles else "<p>Nothing has been measured yet.</p>"


def _comparison(runs: Sequence[Run]) -> str:
    """A table of the facts about several runs, then of the settings in which they differ."""
    facts = [_facts(run) for run in runs]
    rows = {label: [" ".join(each.get(label, ("",))) for each in facts] for each in facts for label in each}
    settings = [_flat(run.settings) for run in runs]
    for name in settings[0]:
        values = [str(each.get(name, "")) for each in settings]
        if len(set(values)) > 1:
            rows[name] = values
    lines = [_table_row("th", ["", *(run.name for run in runs)])]
    lines += [_table_row("td", [name, *values]) for name, values in rows.items()]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _table_row(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _flat(settings: Row, prefix: str = "") -> Row:
    flat: Row = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _settings(run: Run) -> str:
    text = html.escape(yaml.safe_dump(run.settings, sort_keys=False, allow_unicode=True))
    return f"<details><summary>Settings of {html.escape(run.name)}</summary><pre>{text}</pre></details>"


def _charts(runs: Sequence[Run], metrics: Sequence[str]) -> list[Chart]:
    if not metrics:
        reasons = dict.fromkeys(reason for run in runs for row in run.steps[-1:] for reason in row.get("dropped", {}))
        return training_charts() + system_charts(reasons)
    charts = [Chart(name, name, {name: name}, from_zero=False) for name in metrics]
    for chart in charts:
        if not any(chart.curves(run.steps) for run in runs):
            raise UserError(f"--metrics {chart.title}: no run has this number in its metrics.jsonl")
    return charts


def _drawn(chart: Chart, runs: Sequence[Run]) -> Row:
    """The chart as `page.js` draws it: shares are stacked if there is one run. Axis n is that of run n."""
    curves = []
    for which, run in enumerate(runs):
        shown = chart.curves(run.steps)
        for index, name in enumerate(chart.measures):
            if name in shown:
                look = _look(runs, which, name, index, chart.colors)
                curves.append({**look, "axis": which, "y": _thinned(shown[name], _stride(run.steps))})
    return {
        "title": chart.title,
        "unit": chart.unit,
        "note": chart.note,
        "stacked": chart.shares and len(runs) == 1,
        "percent": chart.shares or chart.unit == "share",
        "zero": chart.from_zero,
        "curves": curves,
    }


def _pass_charts(runs: Sequence[Run], axes: list[Row]) -> list[Row]:
    """A chart of pass@k for each set of held-out problems. Their axes are added to `axes`."""
    charts: dict[tuple[str, str], Row] = {}
    for which, run in enumerate(runs):
        minutes = {row["step"]: at for row, at in zip(run.steps, run.minutes, strict=True)}
        for (group, problems), rows in _by_set(run.evaluations).items():
            title, note = (problems, INTERVALS) if group == ALL else (group, f"{problems}. {INTERVALS}")
            chart = charts.setdefault((group, problems), {"title": f"pass@k on {title}", "note": note, "curves": []})
            chart |= {"unit": "share of problems", "percent": True}
            for index, name in enumerate(_pass_names(rows)):
                intervals = [row["intervals"][name][group] for row in rows]
                curve = _look(runs, which, name, index) | {"axis": len(axes), "y": [row[name][group] for row in rows]}
                curve |= {"low": [low for low, _ in intervals], "high": [high for _, high in intervals]}
                chart["curves"].append(curve)
            axes.append({"step": [row["step"] for row in rows], "time": [minutes.get(row["step"], 0) for row in rows]})
    return list(charts.values())


def _look(runs: Sequence[Run], which: int, name: str, index: int, colors: Sequence[str] = ()) -> Row:
    """Name, color and dashes of curve `index`. Several runs differ by color, and their curves by dashes."""
    if len(runs) > 1:
        return {"name": f"{runs[which].name} {name}", "color": f"c{which % NUM_COLORS + 1}", "dashes": index}
    return {"name": name, "color": colors[index] if colors else f"c{index % NUM_COLORS + 1}", "dashes": 0}


def _stride(rows: Sequence[object]) -> int:
    return math.ceil(len(rows) / MAX_POINTS) or 1


def _thinned(values: Sequence[float | None], size: int) -> list[float | None]:
    """The means of `size` neighbors each, to five digits."""
    means: list[float | None] = []
    for start in range(0, len(values), size):
        known = [value for value in values[start : start + size] if value is not None]
        means.append(float(f"{sum(known) / len(known):.5g}") if known else None)
    return means


def _by_set(evaluations: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """The evaluations of each set of held-out problems, by its name (or `all`) and its SPECs."""
    sets: dict[tuple[str, str], list[Row]] = {}
    for row in evaluations:
        for shown in shown_groups(row).items():
            sets.setdefault(shown, []).append(row)
    return sets


def _pass_names(rows: Sequence[Row]) -> list[str]:
    """The pass@k of all rows; a resumed run may have others than before."""
    names = set(rows[0]).intersection(*rows)
    return sorted((name for name in names if name.startswith("pass@")), key=lambda name: int(name[5:]))


def _samples(folder: Path) -> list[Row]:
    """Programs from refreshes spread over the run, the newest first."""
    files = sorted(folder.glob("refresh-*.jsonl"))
    stride = math.ceil(len(files) / MAX_REFRESHES) or 1
    return [
        {
            **{name: value for name, value in row.items() if name not in ("program", "completion", "turns")},
            "refresh": int(file.stem.partition("-")[2]),
            "tokens": _shown_tokens(row["tokens"]),
            **_dialogue(row.get("turns", [])),
        }
        for file in files[::-1][::stride]
        for row in samples_of(file)
    ]


def _dialogue(turns: Sequence[Row]) -> Row:
    """The turns before the last one, which is the sample itself, and whether they led to a program that passes."""
    if len(turns) < 2:
        return {"dialogue": "one turn", "earlier": []}
    return {
        "dialogue": "repaired" if turns[-1]["outcome"] == Outcome.PASSED else "not repaired",
        "earlier": [_shown_turn(turn) for turn in turns[:-1]],
    }


def _shown_turn(turn: Row) -> Row:
    feedback = turn["feedback"]
    if feedback is not None and len(feedback) > MAX_FEEDBACK:
        feedback = feedback[:MAX_FEEDBACK] + CUT
    return {
        "outcome": turn["outcome"],
        "tokens": _shown_tokens(turn["tokens"]),
        "feedback": feedback,
    }


def _shown_tokens(tokens: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    shown: list[tuple[str, float]] = []
    length = 0
    for text, weight in tokens:
        length += len(text)
        if length > MAX_PROGRAM:
            return [*shown, (CUT, 0.0)]
        shown.append((text, round(weight, 4)))
    return shown


def percent(value: float) -> str:
    """0.123 as `12.3 %`."""
    return f"{100 * value:.3g} %"


def number(value: float) -> str:
    """Three significant digits, with k for thousands and M for millions."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"

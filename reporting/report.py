"""`report.html`: one page about a run that needs nothing but itself. Made from the run folder, at any time."""

from __future__ import annotations

import html
import json
import time
from pathlib import Path
from string import Template
from typing import Any

import yaml

from files import write_text
from reporting.charts import Series, line_chart, number, percent, stacked_chart
from reporting.progress import OUTCOME_STYLES
from reporting.rows import Row, read_rows

ASSETS = Path(__file__).parent / "assets"
MAX_REFRESHES = 24  # refreshes whose programs go into the page, spread over the run
MAX_PROGRAM = 12_000  # characters of a program that are shown
PASS_COLORS = ("c1", "c2", "c3", "c4")
DROP_COLORS = ("c4", "c1", "c5", "c3", "c2", "c6")
TIME_COLORS = {"computing": "c1", "publishing": "c3", "waiting": "c4"}
STALENESS_COLORS = {"0": "c2", "1": "c1", "2": "c3", "3": "c5", "4 and more": "c4"}
STAGES = "Over the whole time from one update to the next, with publications and evaluations between them."
TIME = "Waiting is for samples; publishing lasts until every generator samples with the new weights."
VERSIONS = "Weight versions that samples lagged behind when they were trained on, as shares."
MISMATCH = "Mean absolute difference of log-probabilities of the sampled tokens; staleness adds to it."
INTERVALS = "Shaded: 95 % bootstrap interval over problems."


def build_report(folder: Path) -> Path:
    """Write `folder/report.html` and return its path.

    Raises ValueError where `folder` holds no run, or a file of it is damaged.
    """
    if not (folder / "settings.yaml").is_file():
        raise ValueError(f"{folder}: no run folder (it holds no settings.yaml)")
    settings_text = (folder / "settings.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(settings_text)
    steps = read_rows(folder / "metrics.jsonl")
    evaluations = read_rows(folder / "evaluations.jsonl")
    page = Template((ASSETS / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(str(settings["run"]["name"])),
        style=(ASSETS / "page.css").read_text(encoding="utf-8"),
        script=(ASSETS / "page.js").read_text(encoding="utf-8"),
        written=_written(steps, settings["run"]["num_steps"]),
        tiles="".join(_tiles(steps, evaluations)),
        charts="".join(_charts(steps, evaluations)),
        samples=_script_json(_samples(folder / "samples")),
        settings=html.escape(settings_text),
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _written(steps: list[Row], num_steps: int) -> str:
    """How far the run is, and when the page was made."""
    step = steps[-1]["step"] if steps else 0
    return f"Update {step} of {num_steps}. Written {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}."


def _tiles(steps: list[Row], evaluations: list[Row]) -> list[str]:
    """The numbers that one looks for first."""
    tiles = []
    for problems, rows in _by_problems(evaluations).items():
        name = _pass_names(rows)[0]
        first, last = rows[0], rows[-1]
        low, high = last["intervals"][name]["all"]
        before = f"{percent(first[name]['all'])} before, at step {first['step']}" if len(rows) > 1 else "one evaluation"
        detail = f"[{percent(low)}, {percent(high)}]; {before}"
        tiles.append(_tile(f"{name} on {problems}", percent(last[name]["all"]), detail))
    if steps:
        last = steps[-1]
        seconds = sum(row["seconds"] for row in steps)
        tokens = sum(row["tokens_per_s"] * row["seconds"] for row in steps)
        worst = max(row["staleness_max"] for row in steps)
        tiles += [
            _tile("updates", str(last["step"]), f"{seconds / 60:.1f} min of learner steps"),
            _tile(
                "pass rate in training",
                percent(last["pass_rate"]),
                f"reward {last['reward_mean']:+.3f} in the last step",
            ),
            _tile("tokens/s", number(tokens / seconds if seconds else 0.0), "trained on, mean of the run"),
            _tile(
                "staleness", f"{last['staleness_mean']:.1f}", f"versions in the last step; at most {worst} in the run"
            ),
            _tile("programs graded", number(sum(map(_num_graded, steps))), _grading(steps)),
        ]
    return tiles or ["<p>Nothing has been measured yet.</p>"]


def _grading(steps: list[Row]) -> str:
    levels = sorted({level for row in steps for level in row.get("isolation", {})})
    num_tests, num_faults = (sum(row.get(name, 0) for row in steps) for name in ("num_tests", "num_faults"))
    return f"on {number(num_tests)} tests; {num_faults} lost to the grader; {', '.join(levels)}"


def _tile(label: str, value: str, detail: str) -> str:
    return (
        f'<div class="tile"><span>{html.escape(label)}</span><strong>{html.escape(value)}</strong>'
        f"<small>{html.escape(detail)}</small></div>"
    )


def _charts(steps: list[Row], evaluations: list[Row]) -> list[str]:
    charts = [_pass_chart(problems, rows) for problems, rows in _by_problems(evaluations).items()]
    xs = [row["step"] for row in steps]

    def curve(name: str, color: str, label: str = "") -> Series:
        return Series(label or name.replace("_", " "), color, xs, [row.get(name) for row in steps])

    def rate(name: str, color: str, label: str) -> Series:
        return Series(label, color, xs, [_per_second(row, row.get(name)) for row in steps])

    counts = {outcome: [row["outcomes"].get(outcome, 0) for row in steps] for outcome in OUTCOME_STYLES}
    losses = [curve(f"loss_{term}", f"c{i}", term) for i, term in enumerate(_loss_terms(steps), start=1)]
    charts += [
        line_chart("Reward and pass rate in training", [curve("reward_mean", "c1"), curve("pass_rate", "c2")]),
        stacked_chart("Outcomes of the programs trained on", xs, counts, {name: f"o-{name}" for name in counts}),
        line_chart(
            "Tokens per second",
            [rate("num_sampled_tokens", "c3", "sampled"), rate("num_tokens", "c1", "trained on")],
            note=STAGES,
            from_zero=True,
        ),
        line_chart(
            "Programs and tests per second",
            [
                rate("num_tests", "c2", "tests run"),
                Series("programs graded", "c4", xs, [_per_second(row, _num_graded(row)) for row in steps]),
            ],
            note=STAGES,
            from_zero=True,
        ),
        stacked_chart("Where the learner's time goes", xs, _time_of_a_step(steps), TIME_COLORS, note=TIME),
        line_chart(
            "Seconds of an update", [curve("seconds", "c1", "all"), curve("wait_s", "c4", "waiting")], from_zero=True
        ),
        stacked_chart("Staleness of the samples trained on", xs, _staleness(steps), STALENESS_COLORS, note=VERSIONS),
        line_chart("Loss terms, before their weights", losses),
        line_chart("Policy against sampler", [curve("mismatch_mean", "c1")], note=MISMATCH, from_zero=True),
        line_chart("Largest importance ratio", [curve("ratio_max", "c4")]),
        line_chart("Entropy, nats a token", [curve("entropy", "c3")], from_zero=True),
        line_chart("Samples in the buffer", [curve("buffer_size", "c3")], from_zero=True),
        line_chart("Samples dropped so far, by reason", _drops(steps, xs), from_zero=True),
    ]
    return [chart for chart in charts if chart]


def _per_second(row: Row, count: float | None) -> float | None:
    """A count of a row over the whole time since the row before it."""
    return count / row["elapsed_s"] if count is not None and row.get("elapsed_s") else None


def _num_graded(row: Row) -> float:
    """Programs graded since the row before it."""
    return float(sum(row.get("isolation", {}).values()))


def _time_of_a_step(steps: list[Row]) -> dict[str, list[float]]:
    return {
        "computing": [row["seconds"] - row.get("wait_s", 0.0) for row in steps],
        "publishing": [row.get("publish_s", 0.0) for row in steps],
        "waiting": [row.get("wait_s", 0.0) for row in steps],
    }


def _staleness(steps: list[Row]) -> dict[str, list[float]]:
    """Samples by how many versions they lagged behind; all that lagged further than there are colours are one."""
    names = list(STALENESS_COLORS)
    counts = {name: [0.0] * len(steps) for name in names}
    for index, row in enumerate(steps):
        for versions, count in row.get("staleness", {}).items():
            counts[names[min(int(versions), len(names) - 1)]][index] += count
    return counts


def _drops(steps: list[Row], xs: list[int]) -> list[Series]:
    reasons = steps[-1].get("dropped", {}) if steps else {}
    return [
        Series(reason, color, xs, [row.get("dropped", {}).get(reason, 0) for row in steps])
        for reason, color in zip(reasons, DROP_COLORS, strict=False)
    ]


def _loss_terms(steps: list[Row]) -> list[str]:
    """The terms that were not 0 all the time."""
    terms = ("sl", "coarse", "fine", "adaptive", "static", "kl")
    return [term for term in terms if any(row.get(f"loss_{term}") for row in steps)]


def _pass_chart(problems: str, rows: list[Row]) -> str:
    series = []
    for name, color in zip(_pass_names(rows), PASS_COLORS, strict=False):
        intervals = [row["intervals"][name]["all"] for row in rows]
        series.append(
            Series(
                name,
                color,
                [row["step"] for row in rows],
                [row[name]["all"] for row in rows],
                [low for low, _ in intervals],
                [high for _, high in intervals],
            )
        )
    return line_chart(f"pass@k on {problems}", series, show=percent, note=INTERVALS)


def _by_problems(evaluations: list[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in evaluations:
        groups.setdefault(str(row["problems"]), []).append(row)
    return groups


def _pass_names(rows: list[Row]) -> list[str]:
    return sorted((name for name in rows[0] if name.startswith("pass@")), key=lambda name: int(name[5:]))


def _samples(folder: Path) -> list[dict[str, Any]]:
    """Programs of refreshes spread over the run, the newest first."""
    files = sorted(folder.glob("refresh-*.jsonl"))
    stride = max(1, -(-len(files) // MAX_REFRESHES))
    kept = files[::-1][::stride]
    return [
        {**row, "refresh": int(file.stem.partition("-")[2]), "tokens": _shown_tokens(row["tokens"])}
        for file in kept
        for row in read_rows(file)
    ]


def _shown_tokens(tokens: list[tuple[str, float]]) -> list[tuple[str, float]]:
    shown: list[tuple[str, float]] = []
    length = 0
    for text, weight in tokens:
        length += len(text)
        if length > MAX_PROGRAM:
            return [*shown, (" ... cut here", 0.0)]
        shown.append((text, round(weight, 4)))
    return shown


def _script_json(value: object) -> str:
    """JSON that may stand inside a script element: a program's text must not be able to close it."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")

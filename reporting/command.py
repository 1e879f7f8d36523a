"""Reports, figures and tables from run folders.

rltf report RUN_DIR                           writes RUN_DIR/report.html again
rltf report runs/a runs/b --output both.html --smoothing 0.8
rltf report compare --runs runs/rl-0 runs/rl-1 --controls runs/sl-0 runs/sl-1
rltf report figure --group "RL" runs/rl-0 runs/rl-1 --group "control" runs/sl-0 runs/sl-1 --output curve.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rltf.errors import UserError

COMMANDS = ("report", "compare", "figure")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status: 2 if a folder or an option cannot be used."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] not in (*COMMANDS, "-h", "--help"):
        given.insert(0, "report")  # a run folder alone
    options = _parser().parse_args(given)
    try:
        options.run(options)
    except UserError as error:
        print(f"rltf report: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rltf report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="{" + ",".join(COMMANDS) + "}")

    report = commands.add_parser("report", help="write the report of a run, or one page that overlays several runs")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="run folder, finished or in progress")
    report.set_defaults(run=_report)

    compare = commands.add_parser("compare", help="print what runs gained as a Markdown table")
    compare.add_argument("--runs", nargs="+", type=Path, required=True, metavar="RUN_DIR", help="one run per seed")
    compare.add_argument("--controls", nargs="+", type=Path, default=[], metavar="RUN_DIR", help="a control per run")
    compare.set_defaults(run=_compare)

    for command in (report, compare):
        command.add_argument("--output", type=Path, help="page to write; `compare` writes one only if this is given")
        command.add_argument("--smoothing", type=_share, default=0.0, metavar="0..0.99", help="weight of past values")
        command.add_argument("--metrics", nargs="+", default=[], help="draw only these fields of metrics.jsonl")
        command.add_argument("--axis", choices=("step", "time"), default="step", help="x axis of the curves")

    figure = commands.add_parser("figure", help="draw pass@k over updates as a picture")
    figure.add_argument(
        "--group",
        nargs="+",
        action="append",
        required=True,
        metavar=("LABEL", "RUN_DIR"),
        help="a label and the run folders (seeds) drawn under it; can be repeated",
    )
    figure.add_argument("--output", type=Path, required=True, help="picture to write, .png or .svg")
    figure.add_argument("--k", type=int, default=1, help="the k of pass@k")
    figure.add_argument(
        "--set", default="all", metavar="NAME", help="draw this set of held-out problems (default: all)"
    )
    figure.set_defaults(run=_figure)
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 0.99:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 0.99, got {text}")
    return value


# Each command imports what it needs itself, so that `--help` answers at once.


def _report(options: argparse.Namespace) -> None:
    output = options.output or (Path("comparison.html") if len(options.runs) > 1 else None)
    print(_page(options, options.runs, output))


def _page(options: argparse.Namespace, runs: Sequence[Path], output: Path | None) -> Path:
    from rltf.reporting.report import build_report

    return build_report(runs, output, metrics=options.metrics, smoothing=options.smoothing, axis=options.axis)


def _compare(options: argparse.Namespace) -> None:
    from rltf.reporting.comparisons import comparison_table

    print(comparison_table(options.runs, options.controls))
    if options.output is not None:
        print(f"\n{_page(options, [*options.runs, *options.controls], options.output)}")


def _figure(options: argparse.Namespace) -> None:
    from rltf.reporting.comparisons import COLORS, draw_pass_at_k

    groups = {label: [Path(folder) for folder in folders] for label, *folders in options.group}
    empty = [label for label, folders in groups.items() if not folders]
    if empty:
        raise UserError(f"--group {empty[0]}: name at least one run folder after the label")
    if len(groups) > len(COLORS):
        raise UserError(f"{len(groups)} groups: only {len(COLORS)} can be told apart in one picture")
    draw_pass_at_k(groups, options.output, options.k, options.set)
    print(options.output)

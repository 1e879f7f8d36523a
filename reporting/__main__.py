"""Reports and figures from run folders.

python -m reporting RUN_DIR                     writes RUN_DIR/report.html anew
python -m reporting figure --group "RL" runs/rl-0 runs/rl-1 --group "control" runs/sl-0 runs/sl-1 --output curve.png
python -m reporting compare --runs runs/rl-0 runs/rl-1 --controls runs/sl-0 runs/sl-1
python -m reporting ablation runs/ablation --output ablation.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reporting.ablation import ablation_tables, draw_ablation
from reporting.compare import comparison_table
from reporting.figure import COLORS, draw_pass_at_k
from reporting.report import build_report


def main(argv: list[str] | None = None) -> int:
    """Run the command and return the exit status: 2 where a folder cannot be used."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if arguments[:1] == ["figure"]:
            _figure(arguments[1:])
        elif arguments[:1] == ["compare"]:
            _compare(arguments[1:])
        elif arguments[:1] == ["ablation"]:
            _ablation(arguments[1:])
        else:
            _report(arguments)
    except ValueError as error:
        print(f"python -m reporting: {error}", file=sys.stderr)
        return 2
    return 0


def _report(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m reporting", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of a run, finished or going on")
    print(build_report(parser.parse_args(argv).run_dir))


def _figure(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m reporting figure", description="pass@k over updates, as a picture")
    parser.add_argument(
        "--group",
        nargs="+",
        action="append",
        required=True,
        metavar=("LABEL", "RUN_DIR"),
        help="a label and the run folders (seeds) drawn under it; may be given several times",
    )
    parser.add_argument("--output", type=Path, required=True, help="picture to write, .png or .svg")
    parser.add_argument("--k", type=int, default=1, help="the k of pass@k")
    arguments = parser.parse_args(argv)
    groups = {label: [Path(folder) for folder in folders] for label, *folders in arguments.group}
    empty = [label for label, folders in groups.items() if not folders]
    if empty:
        raise ValueError(f"--group {empty[0]}: no run folder is named after the label")
    if len(groups) > len(COLORS):
        raise ValueError(f"{len(groups)} groups; at most {len(COLORS)} can be told apart in one picture")
    draw_pass_at_k(groups, arguments.output, arguments.k)
    print(arguments.output)


def _compare(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m reporting compare", description="gains of runs beside their controls, as a Markdown table"
    )
    parser.add_argument("--runs", nargs="+", type=Path, required=True, help="run folders, a seed each")
    parser.add_argument("--controls", nargs="+", type=Path, required=True, help="their controls, in the same order")
    arguments = parser.parse_args(argv)
    print(comparison_table(arguments.runs, arguments.controls))


def _ablation(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m reporting ablation", description="the rows of `make ablation` as Markdown tables and a picture"
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the ablation's runs")
    parser.add_argument("--output", type=Path, required=True, help="picture to write, .png or .svg")
    arguments = parser.parse_args(argv)
    print(ablation_tables(arguments.folder))
    draw_ablation(arguments.folder, arguments.output)


if __name__ == "__main__":
    sys.exit(main())

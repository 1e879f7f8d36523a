"""The command `decontaminate`: which training problems do the benchmarks contain as well?

rltf decontaminate --problems SPEC [SPEC ...] --against SPEC [SPEC ...] --output FILE.jsonl [--kept FILE.jsonl]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rltf.entry import exit_status
from rltf.errors import UserError
from rltf.files import write_jsonl
from rltf.problems.contamination import Overlap, find_overlaps
from rltf.problems.spec import LoadedProblems, load, load_each, row_of
from rltf.problems.types import Problem, describe_rejected
from rltf.settings import DecontaminationSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. The exit status is 2 if the problems cannot be used."""
    return exit_status(_decontaminate, _parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rltf decontaminate", description="Find training problems that benchmarks contain as well."
    )
    add = parser.add_argument
    add("--problems", required=True, nargs="+", metavar="SPEC", help="the training problems")
    add("--against", required=True, nargs="+", metavar="SPEC", help="the benchmarks")
    add("--output", required=True, type=Path, metavar="FILE.jsonl", help="one row per pair of problems that overlap")
    add("--kept", type=Path, metavar="FILE.jsonl", help="rows of the training problems that overlap with none")
    default = DecontaminationSettings().min_overlap
    share = "share of the words of a benchmark's statement, in 13-grams that the training statement also has, from "
    share += f"which on two problems overlap; 0: one 13-gram is enough (default: {default})"
    add("--min-overlap", type=_share, default=default, metavar="SHARE", help=share)
    return parser


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return share


def _decontaminate(options: argparse.Namespace) -> None:
    """Write the overlaps, and the problems without any, and print a summary.

    Raises UserError for problems that cannot be loaded, an id in two SPECs, or problems that cannot be written as rows.
    """
    loaded = load_each(options.problems)
    train = [problem for spec, found in loaded for problem in _usable(spec, found)]
    benchmarks = {spec: _usable(spec, load(spec)) for spec in options.against}
    overlaps = find_overlaps(train, benchmarks, options.min_overlap)
    overlapping = {overlap.train.task_id for overlap in overlaps}
    kept = [problem for problem in train if problem.task_id not in overlapping]
    if options.kept is not None:
        _write_kept(options.kept, kept)
    write_jsonl(options.output, (overlap.row() for overlap in overlaps))
    print(f"{len(overlapping)} of {len(train)} training problems overlap with a benchmark")
    for spec, problems in benchmarks.items():
        print(f"  {_counts([overlap for overlap in overlaps if overlap.benchmark == spec], len(problems))} of {spec}")
    print(f"written: {options.output}" + (f", {options.kept}" if options.kept is not None else ""))


def _usable(spec: str, loaded: LoadedProblems) -> tuple[Problem, ...]:
    if loaded.rejected:
        print(f"{spec}: {len(loaded.rejected)} unusable rows:\n{describe_rejected(loaded.rejected)}", file=sys.stderr)
    return loaded.problems


def _counts(overlaps: Sequence[Overlap], num_problems: int) -> str:
    num_train = len({overlap.train.task_id for overlap in overlaps})
    num_found = len({overlap.problem.task_id for overlap in overlaps})
    return f"{num_train} with {num_found} of the {num_problems} problems"


def _write_kept(path: Path, kept: Sequence[Problem]) -> None:
    """Write problems as rows of their benchmark. Raises UserError if they are of several, or of one without rows."""
    if not kept:
        raise UserError("--kept: every training problem overlaps with a benchmark, so none is left to write")
    kinds = sorted({problem.benchmark for problem in kept})
    if len(kinds) > 1:
        raise UserError(f"--kept: a file holds rows of one KIND, but --problems names {' and '.join(kinds)}")
    write_jsonl(path, map(row_of, kept))

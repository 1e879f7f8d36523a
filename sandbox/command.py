"""The grader's own commands, `grade` and `doctor`, and what every command that grades programs shares.

Imports neither torch nor Ray.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from entry import exit_status
from files import RowWriter
from problems import LoadedProblems, describe_rejected, load
from problems.index import ProblemIndex, nearest
from sandbox.grading import Graders, read_programs, verdict_row
from sandbox.judge import reason_to_refuse
from sandbox.runtime import find_runtime
from sandbox.selftest import CANARIES, CONFINED, LEVELS, find_level, fix
from sandbox.verdict import Isolation, Outcome
from settings import SandboxSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 2 for unusable data, or if the machine gives too little isolation."""
    options = _parser().parse_args(arguments)
    return _doctor() if options.command == "doctor" else exit_status(_grade, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rltf", description="Grade programs with unit tests.")
    commands = parser.add_subparsers(dest="command", required=True)
    grade = commands.add_parser("grade", help="grade a file of programs")
    add_grading_options(grade)
    grade.add_argument("--programs", required=True, type=Path, metavar="FILE.jsonl")
    grade.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl")
    commands.add_parser("doctor", help="show which isolation this machine gives, and how to get more")
    return parser


def add_grading_options(command: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add the options of every command that grades: the problems, or several sets of them, and the sandboxes."""
    add = command.add_argument
    nargs = "+" if several else None
    add("--problems", required=True, nargs=nargs, metavar="SPEC", help="KIND:PATH, for example mbpp:mbpp.jsonl[0:10]")
    workers = "number of sandboxes (default: one per core)"
    add("--workers", type=positive, default=len(os.sched_getaffinity(0)), metavar="N", help=workers)
    weakest = f"weakest isolation to accept: {', '.join(Isolation)} (default: %(default)s)"
    level = Isolation.NAMESPACES
    add("--min-isolation", "--require", type=_level, default=level, metavar="LEVEL", help=weakest)


def load_problems(spec: str) -> LoadedProblems:
    """The problems of a SPEC that the sandbox can judge; the unusable rows are named on standard error.

    Raises:
        UserError: as `problems.load`.
    """
    loaded = load(spec, reason_to_refuse(SandboxSettings()))
    if loaded.rejected:
        print(f"{len(loaded.rejected)} unusable rows:\n{describe_rejected(loaded.rejected)}", file=sys.stderr)
    return loaded


def positive(text: str) -> int:
    """An argparse type: an integer from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


def _level(text: str) -> Isolation:
    if text not in list(Isolation):
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(Isolation)}{nearest(text, Isolation)}")
    return Isolation(text)


def _grade(options: argparse.Namespace) -> None:
    index = ProblemIndex(load_problems(options.problems).problems)
    for _ in read_programs(options.programs, index):
        pass  # a bad row is named before anything runs
    outcomes: Counter[Outcome] = Counter()
    started = time.monotonic()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    part = options.output.with_name(options.output.name + ".part")
    part.unlink(missing_ok=True)
    with (
        Graders(options.workers, SandboxSettings(), options.min_isolation) as graders,
        contextlib.closing(RowWriter(part)) as writer,
    ):
        try:
            for (program, _), verdict in graders.verdicts(read_programs(options.programs, index)):
                outcomes[verdict.outcome] += 1
                writer.write_row(verdict_row(program, verdict))
        except KeyboardInterrupt as error:
            error.add_note(f"the verdicts of the first {outcomes.total()} programs are in {part}")
            raise
    part.replace(options.output)  # appears once it is complete
    seconds = time.monotonic() - started
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    print(f"{outcomes.total()} programs in {seconds:.1f} s: {counts}")


def _doctor() -> int:
    """Print what the self-test found. Returns 0 if some level above `rlimits` holds, otherwise 1."""
    started = time.monotonic()
    print(f"interpreter for programs: {find_runtime().executable}")
    finding = find_level(SandboxSettings())
    for level in LEVELS:
        if level in finding.reasons:
            reason = finding.reasons[level]
            print(f"{level.value:<18} no     {reason}\n{'':<25}fix: {fix(level, reason)}")
        elif level is finding.level:
            print(f"{level.value:<18} yes    {len(CANARIES)} hostile programs contained")
    print(f"isolation level: {finding.level.value if finding.level else 'none'} ({time.monotonic() - started:.1f} s)")
    return 0 if finding.level in CONFINED else 1

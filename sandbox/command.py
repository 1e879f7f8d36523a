"""The grader's own commands, `grade` and `doctor`, and what every command that grades programs shares.

Imports neither torch nor Ray.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from rltf.entry import exit_status
from rltf.errors import nearest
from rltf.files import RowWriter
from rltf.problems import LoadedProblems, describe_rejected, load
from rltf.problems.index import ProblemIndex
from rltf.sandbox.admission import reason_to_refuse
from rltf.sandbox.grading import Graders, read_programs, verdict_row
from rltf.sandbox.packages import find_packages
from rltf.sandbox.process import Jail
from rltf.sandbox.runtime import find_runtime
from rltf.sandbox.selftest import CANARIES, CONFINED, LEVELS, check, find_level, fix
from rltf.sandbox.verdict import Isolation, Outcome
from rltf.settings import SandboxSettings
from rltf.settings_sources import load_sandbox_settings, sandbox_fields

_SETTING = "--sandbox."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 2 for unusable data, or if the machine gives too little isolation."""
    options = parse_options(_parser(), arguments)
    return exit_status(_doctor if options.command == "doctor" else _grade, options)


def parse_options(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command that takes the sandbox's settings; these stay in `sandbox` as they are (`limits_of`)."""
    options, rest = parser.parse_known_args(arguments)
    foreign = [word for word in rest if word.startswith("--") and not word.startswith(_SETTING)]
    if foreign or (rest and not rest[0].startswith(_SETTING)):
        parser.error(f"unrecognized arguments: {' '.join(foreign or rest)}")
    options.sandbox = rest
    return options


def run_logged(
    command: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> int:
    """Run a command whose log goes to standard error, with the options of `parse_options`. Returns its exit status."""
    options = parse_options(parser, arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return exit_status(command, options)


def limits_of(options: argparse.Namespace) -> SandboxSettings:
    """The settings that the command line gives to the sandbox. Raises UserError if they are wrong."""
    return load_sandbox_settings(options.sandbox)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rltf", description="Grade programs with unit tests.")
    commands = parser.add_subparsers(dest="command", required=True)
    grade = commands.add_parser("grade", help="grade a file of programs")
    add_grading_options(grade)
    grade.add_argument("--programs", required=True, type=Path, metavar="FILE.jsonl")
    grade.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl")
    doctor = commands.add_parser("doctor", help="show which isolation this machine gives, and how to get more")
    add_sandbox_settings(doctor)
    return parser


def add_sandbox_settings(command: argparse.ArgumentParser) -> None:
    """Say in the command's help which settings of the sandbox it takes (`parse_options`)."""
    names = ", ".join("--" + ".".join(path) for path in sandbox_fields())
    command.add_argument_group("settings", f"as for a job (`rltf --help sandbox` explains them): {names}")


def add_grading_options(command: argparse.ArgumentParser, *, several: bool = False, required: bool = True) -> None:
    """Add the options of every command that grades: the problems, or several sets of them, and the sandboxes."""
    nargs = "+" if several else None
    shown = "KIND:PATH, for example mbpp:mbpp.jsonl[0:10]"
    command.add_argument("--problems", required=required, nargs=nargs, metavar="SPEC", help=shown)
    add_sandbox_options(command)


def add_sandbox_options(command: argparse.ArgumentParser) -> None:
    """Add the options for the sandboxes."""
    add = command.add_argument
    workers = "number of sandboxes (default: one per core)"
    add("--workers", type=positive, default=len(os.sched_getaffinity(0)), metavar="N", help=workers)
    weakest = f"weakest isolation to accept: {', '.join(Isolation)} (default: %(default)s)"
    level = Isolation.NAMESPACES
    add("--min-isolation", "--require", type=_level, default=level, metavar="LEVEL", help=weakest)
    add_sandbox_settings(command)


def load_problems(spec: str, limits: SandboxSettings) -> LoadedProblems:
    """The problems of a SPEC that can be judged within `limits`; the unusable rows are named on standard error.

    Raises UserError as `problems.load`.
    """
    loaded = load(spec, reason_to_refuse(limits))
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
    limits = limits_of(options)
    index = ProblemIndex(load_problems(options.problems, limits).problems)
    for _ in read_programs(options.programs, index):
        pass  # a bad row is named before anything runs
    outcomes: Counter[Outcome] = Counter()
    started = time.monotonic()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    part = options.output.with_name(options.output.name + ".part")
    part.unlink(missing_ok=True)
    with (
        Graders(options.workers, limits, options.min_isolation) as graders,
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


def _doctor(options: argparse.Namespace) -> int:
    """Print what the self-test found. Returns 0 if some level above `rlimits` holds, otherwise 1.

    Raises UserError if a package cannot be used.
    """
    limits = limits_of(options)
    started = time.monotonic()
    print(f"interpreter for programs: {find_runtime().executable}")
    finding = find_level(limits.model_copy(update={"packages": ()}))
    for level in LEVELS:
        if level in finding.reasons:
            reason = finding.reasons[level]
            print(f"{level.value:<18} no     {reason}\n{'':<25}fix: {fix(level, reason)}")
        elif level is finding.level:
            print(f"{level.value:<18} yes    {len(CANARIES)} hostile programs contained")
    print(f"isolation level: {finding.level.value if finding.level else 'none'} ({time.monotonic() - started:.1f} s)")
    if finding.level is not None:
        _check_packages(finding.level, limits)
    return 0 if finding.level in CONFINED else 1


def _check_packages(level: Isolation, limits: SandboxSettings) -> None:
    """Print the version of each package that imports in a jail. Raises UserError for the first one that does not."""
    for name in limits.packages:
        alone = limits.model_copy(update={"packages": (name,)})
        version = find_packages(alone.packages).versions[name]
        with Jail(level, alone) as jail:
            check(jail, level, quick=True)
        print(f"package {name} {version}: imports in the jail")

"""`python -m problems augment`: more tests for problems that have too few."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from augmentation.agreement import Rules
from augmentation.run import Summary, augment_file
from errors import UserError
from evaluation.sources import add_sampling_options, model_source, positive
from problems import describe_rejected, load
from sandbox.judge import reason_to_refuse
from sandbox.verdict import Isolation
from settings import SandboxSettings

EXIT_UNUSABLE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 2 for data, a model or a machine that cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    options = _parser().parse_args(arguments)
    try:
        summary = _augment(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    print(_described(summary))
    print(f"written: {options.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m problems", description="Work on sets of problems.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("augment", help="add tests: new inputs, answers that reference programs agree on")
    command.add_argument("--problems", required=True, metavar="SPEC", help="KIND:PATH, for example apps:FOLDER[0:10]")
    command.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="rows of the same KIND")
    command.add_argument("--num-tests", type=positive, default=20, help="most new tests of a problem (default: 20)")
    command.add_argument(
        "--min-references",
        type=positive,
        default=2,
        help="reference programs that must agree (default: 2; MBPP and HumanEval have 1, which nothing contradicts)",
    )
    command.add_argument(
        "--max-references", type=positive, default=5, help="reference programs that take part (default: 5)"
    )
    command.add_argument(
        "--programs",
        type=Path,
        metavar="FILE.jsonl",
        help="programs that take part as references where they pass the problem's own tests",
    )
    command.add_argument("--workers", type=positive, default=len(os.sched_getaffinity(0)), help="sandboxes")
    command.add_argument(
        "--require", choices=list(Isolation), type=Isolation, default=Isolation.NAMESPACES, help="weakest isolation"
    )
    command.add_argument("--model", help="asked for inputs as well: a folder, a hub id, or http(s)://HOST/v1")
    add_sampling_options(command.add_argument_group("with --model"), num_samples=4, temperature=0.8)
    return parser


def _augment(options: argparse.Namespace) -> Summary:
    loaded = load(options.problems, reason_to_refuse(SandboxSettings()))
    if loaded.rejected:
        print(f"{len(loaded.rejected)} rows cannot be used:\n{describe_rejected(loaded.rejected)}", file=sys.stderr)
    if options.max_references < options.min_references:
        raise UserError(f"--max-references {options.max_references} is below --min-references {options.min_references}")
    rules = Rules(options.num_tests, options.min_references, options.max_references, options.seed)
    model = (options.model, model_source(options)) if options.model else None
    return augment_file(
        loaded,
        options.output,
        rules,
        model=model,
        programs=options.programs,
        num_workers=options.workers,
        require=options.require,
    )


def _described(summary: Summary) -> str:
    lines = [
        f"{summary.num_new_tests} new tests beside {summary.num_tests}, for {summary.num_augmented} of "
        f"{summary.num_problems} problems"
    ]
    lines += [f"  unchanged: {count} problems: {reason}" for reason, count in summary.unchanged.most_common()]
    lines += [f"  dropped: {count} inputs: {reason}" for reason, count in summary.dropped.most_common()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

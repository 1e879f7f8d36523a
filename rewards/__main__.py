"""`python -m rewards explain`: what a reward says of each token of a program."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from errors import UserError
from files import write_jsonl
from problems import Problem, describe_rejected, load
from problems.index import ProblemIndex
from rewards.explain import Explained, explain, explained_row, explaining, render, split
from sandbox.grading import Graders, ProgramRow, read_programs
from sandbox.judge import reason_to_refuse
from sandbox.verdict import Isolation, Verdict
from settings import SandboxSettings

EXIT_UNUSABLE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 2 for unusable data, tokenizer, or isolation."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.output is None and not options.text:
        parser.error("nowhere to write to: give --output FILE.jsonl, --text, or both")
    try:
        _explain(options)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rewards", description="From unit-test feedback to token weights.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("explain", help="what a reward says of each token of programs from a file")
    command.add_argument(
        "--problems", required=True, metavar="SPEC", help="KIND:PATH, for example mbpp:mbpp.jsonl[0:10]"
    )
    command.add_argument("--programs", required=True, type=Path, metavar="FILE.jsonl")
    command.add_argument("--tokenizer", required=True, metavar="DIR", help="model or tokenizer folder, or a hub id")
    command.add_argument("--preset", choices=("rltf", "rltf-paper", "rltf-code"), default="rltf")
    command.add_argument("--output", type=Path, metavar="FILE.jsonl")
    command.add_argument("--text", action="store_true", help="show programs on the terminal, penalised tokens coloured")
    command.add_argument(
        "--max-tokens", type=_positive, metavar="N", help="length limit that the programs were sampled under, if any"
    )
    command.add_argument("--workers", type=_positive, default=len(os.sched_getaffinity(0)), metavar="N")
    command.add_argument(
        "--require",
        type=Isolation,
        choices=tuple(Isolation),
        default=Isolation.NAMESPACES,
        help="weakest isolation to accept (default: %(default)s)",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


def _explain(options: argparse.Namespace) -> None:
    tokenizer = _load_tokenizer(options.tokenizer)
    loaded = load(options.problems, reason_to_refuse(SandboxSettings()))
    if loaded.rejected:
        print(f"{len(loaded.rejected)} rows cannot be used:\n{describe_rejected(loaded.rejected)}", file=sys.stderr)
    console = Console(highlight=False)
    rows = []
    for program, explained in _explained(options, ProblemIndex(loaded.problems), tokenizer):
        rows.append(explained_row(program.task_id, program.completion_id, explained))
        if options.text:
            console.print(render(explained), soft_wrap=True)
    if options.output is not None:
        write_jsonl(options.output, rows)


def _explained(
    options: argparse.Namespace, index: ProblemIndex, tokenizer: Any
) -> Iterator[tuple[ProgramRow, Explained]]:
    """The programs of the file in its order, graded and scored. All are tokenized before the first one runs."""
    settings = explaining(options.preset)
    programs = list(read_programs(options.programs, index))
    spans = [_split(program, tokenizer, options.tokenizer) for program, _ in programs]
    with Graders(options.workers, SandboxSettings(), options.require) as graders:

        def grade(item: tuple[ProgramRow, Problem]) -> Verdict:
            return graders.grade(item[1], item[0].code, str(item[0].completion_id))

        for ((program, _), verdict), tokens in zip(graders.map(grade, programs), spans, strict=True):
            yield program, explain(program.code, tokens, verdict, settings, max_tokens=options.max_tokens)


def _split(program: ProgramRow, tokenizer: Any, name: str) -> NDArray[np.int32]:
    try:
        return split(program.code, tokenizer)
    except (ValueError, TypeError) as error:
        place = f"task {program.task_id}, completion {program.completion_id}"
        raise UserError(f"--tokenizer {name}: {place}: {error}") from error


def _load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer  # only here: it takes seconds to import

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"--tokenizer {name}: no tokenizer found there ({first})") from error


if __name__ == "__main__":
    sys.exit(main())

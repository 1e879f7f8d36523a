"""The command `python -m rewards explain`: what the rewards do to each token of a program."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from rltf.entry import exit_status
from rltf.errors import UserError
from rltf.files import write_jsonl
from rltf.problems.index import ProblemIndex
from rltf.rewards.custom import check_function
from rltf.rewards.explain import explain_settings, explained_row, render, score_by_problem, split
from rltf.rewards.types import ProgramTokens
from rltf.sandbox.command import add_grading_options, limits_of, load_problems, parse_options, positive
from rltf.sandbox.grading import Graders, ProgramRow, read_programs
from rltf.settings import Algorithm, Localize, RewardSettings
from rltf.settings.base import FUNCTION_FORM
from rltf.settings.presets import check_algorithm


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; 2 means unusable data, tokenizer or isolation."""
    parser = _parser()
    options = parse_options(parser, arguments)
    if options.output is None and not options.text:
        parser.error("nowhere to write to; give --output FILE.jsonl, --text, or both")
    return exit_status(_explain, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rltf", description="From unit-test feedback to token weights.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("explain", help="show what the rewards do to each token of the programs in a file")
    add_grading_options(command)
    add = command.add_argument
    add("--programs", required=True, type=Path, metavar="FILE.jsonl", help="rows of task_id, completion_id and code")
    add("--tokenizer", required=True, metavar="DIR", help="model or tokenizer folder, or a Hub id")
    variant = f"as `algorithm` in the settings: {', '.join(Algorithm)}, or that of a package (default: %(default)s)"
    add("--preset", metavar="NAME", default=Algorithm.RLTF.value, help=variant)
    blame = "how to find the lines to blame for a wrong answer, as `rewards.localize` (default: %(default)s)"
    add("--localize", choices=[one.value for one in Localize], default=Localize.OFF.value, help=blame)
    add("--function", metavar=FUNCTION_FORM, help="a reward function of yours, as `rewards.function` in the settings")
    add("--output", type=Path, metavar="FILE.jsonl", help="write one row per program")
    add("--text", action="store_true", help="print the programs with their penalized tokens in color")
    add("--max-tokens", type=positive, metavar="N", help="length limit the programs were sampled with, if any")
    return parser


def _explain(options: argparse.Namespace) -> None:
    """Grade and score the programs of the file. All are tokenized before the first one runs."""
    tokenizer = _load_tokenizer(options.tokenizer)
    limits = limits_of(options)
    settings = _settings(options)
    problems = load_problems(options.problems, limits).problems
    programs = list(read_programs(options.programs, ProblemIndex(problems)))
    splits = [_split(program, tokenizer, options) for program, _ in programs]
    with Graders(options.workers, limits, options.min_isolation) as graders:
        verdicts = [verdict for _, verdict in graders.verdicts(programs)]
    scores = score_by_problem(
        splits,
        verdicts,
        settings,
        references={problem.task_id: problem.references for problem in problems},
        max_tokens=options.max_tokens,
    )
    console = Console(highlight=False)
    rows = []
    for (program, _), tokens, verdict, scored in zip(programs, splits, verdicts, scores, strict=True):
        rows.append(explained_row(program, verdict, scored, settings))
        if options.text:
            console.print(render(tokens, verdict, scored), soft_wrap=True)
    if options.output is not None:
        try:
            write_jsonl(options.output, rows)
        except OSError as error:
            raise UserError(f"--output {options.output}: cannot be written: {error}") from error


def _settings(options: argparse.Namespace) -> RewardSettings:
    """Raises UserError for an algorithm that does not exist, and for a function that does not work."""
    try:
        check_algorithm(options.preset)
    except ValueError as error:
        raise UserError(f"--preset {error}") from error
    try:
        settings = explain_settings(options.preset, options.localize, options.function)
    except ValidationError as error:
        raise UserError(f"--function {options.function}: expected {FUNCTION_FORM}") from error
    if settings.function is not None:
        check_function(settings.function)
    return settings


def _split(program: ProgramRow, tokenizer: Any, options: argparse.Namespace) -> ProgramTokens:
    try:
        return split(program.code, tokenizer, max_tokens=options.max_tokens)
    except (ValueError, TypeError) as error:
        place = f"task {program.task_id}, completion {program.completion_id}"
        raise UserError(f"--tokenizer {options.tokenizer}: {place}: {error}") from error


def _load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer  # imported late because it takes seconds

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"--tokenizer {name}: no tokenizer found there ({first})") from error

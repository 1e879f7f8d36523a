"""The command that prints the exact prompts of a job.

rltf show-prompt SPEC [--config configs/NAME.yaml] [--SECTION.FIELD VALUE ...]
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from rltf.entry import exit_status
from rltf.sandbox.command import positive
from rltf.settings_sources import load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the prompts and return the exit status; 2 means that the problems, the model or a setting is unusable."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_status(_show, _parser().parse_args(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rltf show-prompt",
        usage="rltf show-prompt [-h] [--num-problems N] SPEC [--config FILE.yaml] [--SECTION.FIELD VALUE ...]",
        description="Print the exact prompts of the first problems of a SPEC, with the settings of a job.",
    )
    add = parser.add_argument
    add("--num-problems", type=positive, default=1, metavar="N", help="number of prompts to print (default: 1)")
    add("problems", metavar="SPEC", help="the problems, for example mbpp:FILE")
    add("settings", nargs=argparse.REMAINDER, help="settings of the job, as for rltf train")
    return parser


def _show(options: argparse.Namespace) -> None:
    settings, _ = load_settings(options.settings)
    # Imported late: they bring torch and transformers, and a mistake in the options needs neither.
    from rltf.actors.prompting import Prompter
    from rltf.controller.problems import load_problem_sets
    from rltf.learner.model_source import TINY, model_folder
    from rltf.problems import load
    from rltf.problems.prompts import render_prompt
    from rltf.transport.model_folder import chat_warning

    problems = load(options.problems).problems[: options.num_problems]
    model = settings.model
    vocabulary = load_problem_sets(settings.problems).all_training if model.name == TINY else ()
    folder = model_folder(model.name, vocabulary, settings.cache_dir, seed=settings.run.seed)
    prompter = Prompter(folder, {problem.task_id: problem for problem in problems}, model)
    if warning := chat_warning(folder, prompter.tokenizer, model):
        print(warning, file=sys.stderr)
    for problem in problems:
        num_tokens = len(prompter.encode(problem.task_id))
        print(f"--- {problem.task_id}: {num_tokens} of {model.max_model_len} tokens (model.max_model_len)")
        print(render_prompt(problem, prompter.form, prompter.tokenizer))

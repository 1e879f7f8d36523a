"""What commands share that train a model on the graded programs of earlier evaluations."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rltf.errors import UserError
from rltf.evaluation.sources import add_prompt_options
from rltf.evaluation.store import read_samples
from rltf.problems import Problem
from rltf.problems.index import ProblemIndex
from rltf.sandbox.command import load_problems, positive
from rltf.sandbox.verdict import Outcome
from rltf.settings import ChatTemplate, ModelSettings, SandboxSettings

LENGTH_LIMIT = 2048
TINY = "tiny"


def add_training_options(parser: argparse.ArgumentParser, *, model: str, problems: str, batch_size: int) -> None:
    """Add the options of a command that trains a model, with help for those that differ."""
    add = parser.add_argument
    add("--model", required=True, help=model)
    graded = "folders that rltf evaluate wrote, with graded programs"
    add("--samples", required=True, type=Path, nargs="+", metavar="DIR", help=graded)
    add("--problems", required=True, nargs="+", metavar="SPEC", help=problems)
    add("--output", required=True, type=Path, metavar="DIR", help="folder of the new model, which must not exist")
    add("--learning-rate", type=positive_float, default=2e-5, help="learning rate (default: %(default)s)")
    size = "programs per update (default: %(default)s)"
    add("--batch-size", type=positive, default=batch_size, metavar="N", help=size)
    held_out = "share of the problems that the model is measured on, not trained on (default: %(default)s)"
    add("--held-out-share", type=proper_share, default=0.1, help=held_out)
    length = "longest prompt with its program, in tokens; longer ones are left out (default: %(default)s)"
    add("--max-length", type=positive, default=LENGTH_LIMIT, metavar="N", help=length)
    add("--seed", type=int, default=0, help="seed of new weights, the order and the held-out problems (default: 0)")
    add_prompt_options(parser.add_argument_group("prompts, as in the settings model.* of the job"))


def check_options(options: argparse.Namespace) -> None:
    """Raise UserError if the model cannot be trained, or not be written."""
    if options.output.exists():
        raise UserError(f"--output {options.output} exists already; delete it, or choose another folder")
    if options.model == TINY:
        raise UserError("--model tiny is only built and trained by the starter job; give one of its checkpoints")


def positive_float(text: str) -> float:
    """An argparse type: a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def proper_share(text: str) -> float:
    """An argparse type: a number above 0 and below 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and below 1, got {text}")
    return value


def load_all(specs: Sequence[str], limits: SandboxSettings) -> tuple[Problem, ...]:
    """The problems of all SPECs. Raises UserError if a task id is in two of them."""
    problems: dict[str, Problem] = {}
    for spec in specs:
        for problem in load_problems(spec, limits).problems:
            if problems.setdefault(problem.task_id, problem) is not problem:
                raise UserError(f"--problems {spec}: task_id {problem.task_id} is in two SPECs; ids must be unique")
    return tuple(problems.values())


def read_graded(folders: Sequence[Path], problems: Sequence[Problem]) -> dict[str, list[tuple[str, Outcome]]]:
    """The programs in the folders with their outcomes, by task id.

    Raises UserError, with file and line, for a row that is not a graded program of one of the problems.
    """
    index = ProblemIndex(problems)
    graded: defaultdict[str, list[tuple[str, Outcome]]] = defaultdict(list)
    for folder in folders:
        for number, row in enumerate(read_samples(folder), start=1):
            place = f"{folder / 'samples.jsonl'}:{number}"
            try:
                program, outcome = str(row["code"]), Outcome(row["outcome"])
                graded[index.find(row["task_id"]).task_id].append((program, outcome))
            except (KeyError, ValueError) as error:
                raise UserError(f"{place}: not a row of an evaluation: {error}") from error
            except UserError as error:
                raise UserError(f"{place}: {error}; every program must be for one of the --problems") from error
    if not graded:
        raise UserError(f"--samples {' '.join(map(str, folders))}: there are no programs; evaluate a model first")
    return graded


def recorded(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """What the new model's folder says of its making: what it was made from, and the options of these `names`."""
    made_from = {"model": options.model, "samples": list(map(str, options.samples)), "problems": options.problems}
    return made_from | {name: getattr(options, name) for name in names}


def model_settings(options: argparse.Namespace) -> ModelSettings:
    """How the job puts problems to the model. Raises UserError for an unusable template."""
    try:
        return ModelSettings(
            name=options.model,
            chat_template=ChatTemplate(options.chat_template),
            chat_template_kwargs=options.chat_template_kwargs,
            system_prompt=options.system_prompt,
            prompt_template=options.prompt_template,
        )
    except ValidationError as error:
        (first, *_) = error.errors()
        option = str(first["loc"][0]).replace("_", "-")
        raise UserError(f"--{option}: {first['msg'].removeprefix('Value error, ')}") from error

"""The command `rltf critic`: train a critic on the programs of earlier evaluations.

rltf critic --model DIR_OR_HUB_ID --samples DIR [DIR ...] --problems SPEC [SPEC ...] --output DIR
"""

from __future__ import annotations

import argparse
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from rltf.entry import exit_status
from rltf.errors import UserError
from rltf.evaluation.progress import ProgramProgress
from rltf.evaluation.sources import add_prompt_options, machine_dtype
from rltf.evaluation.store import read_samples
from rltf.files import write_folder
from rltf.problems import Problem
from rltf.problems.index import ProblemIndex
from rltf.sandbox.command import add_sandbox_settings, limits_of, load_problems, parse_options, positive
from rltf.sandbox.verdict import Outcome
from rltf.settings import CACHE_DIR, ChatTemplate, ModelSettings, SandboxSettings

if TYPE_CHECKING:
    from rltf.learner.critic import ErrorCritic
    from rltf.learner.critic_training import LabeledProgram

LENGTH_LIMIT = 2048
TINY = "tiny"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a critic and return the exit status; 2 means that the samples, the problems or the model are unusable."""
    options = parse_options(_parser(), arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return exit_status(_train, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rltf critic", description="Train a critic, which predicts the outcome of a program from its tokens."
    )
    add = parser.add_argument
    add("--model", required=True, help="model folder, GGUF file or Hub id to start from, with the policy's tokenizer")
    graded = "folders that rltf evaluate wrote, with graded programs"
    add("--samples", required=True, type=Path, nargs="+", metavar="DIR", help=graded)
    shown = "the problems of these programs; their reference programs count as passed"
    add("--problems", required=True, nargs="+", metavar="SPEC", help=shown)
    add("--output", required=True, type=Path, metavar="DIR", help="folder of the critic, which must not exist")
    add("--num-epochs", type=positive, default=10, metavar="N", help="passes over the programs (default: %(default)s)")
    add("--learning-rate", type=_positive_float, default=2e-5, help="constant learning rate (default: %(default)s)")
    add("--batch-size", type=positive, default=8, metavar="N", help="programs per update (default: %(default)s)")
    share = "share of the problems that the accuracy is measured on (default: %(default)s)"
    add("--held-out-share", type=_share, default=0.1, help=share)
    length = "longest prompt with its program, in tokens; longer ones are left out (default: %(default)s)"
    add("--max-length", type=positive, default=LENGTH_LIMIT, metavar="N", help=length)
    add("--seed", type=int, default=0, help="seed of the head, the order and the held-out problems (default: 0)")
    add_prompt_options(parser.add_argument_group("prompts, as in the settings model.* of the job"))
    add_sandbox_settings(parser)
    return parser


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and below 1, got {text}")
    return value


def _train(options: argparse.Namespace) -> None:
    if options.output.exists():
        raise UserError(f"--output {options.output} exists already; delete it, or choose another folder")
    if options.model == TINY:
        raise UserError("--model tiny is only built and trained by the starter job; give one of its checkpoints")
    settings = _model_settings(options)
    problems = _load_problems(options.problems, limits_of(options))
    graded = _read_graded(options.samples, problems)
    # Imported late: they bring torch, and a mistake in the options or the samples needs none.
    import torch
    from transformers.utils.logging import disable_progress_bar

    from rltf.learner.critic import ErrorCritic
    from rltf.learner.critic_training import evaluate_critic, labeled_programs, split_programs, train_critic
    from rltf.learner.model_source import model_folder
    from rltf.transport.model_folder import chat_warning, check_model_folder, prompt_format

    disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = model_folder(options.model, (), CACHE_DIR, seed=options.seed)
    check_model_folder(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    critic = ErrorCritic(folder, compute_dtype=machine_dtype(), device=device, seed=options.seed)
    tokenizer = critic.backbone.tokenizer
    if warning := chat_warning(folder, tokenizer, settings):
        logging.getLogger(__name__).warning("%s", warning)
    form = prompt_format(folder, tokenizer, settings)
    max_length = min(options.max_length, critic.backbone.max_length)
    programs = labeled_programs(problems, graded, tokenizer, form, max_length=max_length)
    training, held_out = split_programs(programs, options.held_out_share, options.seed)
    with ProgramProgress(options.num_epochs * len(training), 0, "trained on") as progress:
        progress.begin()
        train_critic(
            critic,
            training,
            num_epochs=options.num_epochs,
            learning_rate=options.learning_rate,
            batch_size=options.batch_size,
            seed=options.seed,
            advance=progress.advance,
        )
    found = evaluate_critic(critic, held_out)
    _write(critic, options, training, found)
    print(_table(found))
    print(f"written: {options.output}")


def _load_problems(specs: Sequence[str], limits: SandboxSettings) -> tuple[Problem, ...]:
    """The problems of all SPECs. Raises UserError if a task id is in two of them."""
    problems: dict[str, Problem] = {}
    for spec in specs:
        for problem in load_problems(spec, limits).problems:
            if problems.setdefault(problem.task_id, problem) is not problem:
                raise UserError(f"--problems {spec}: task_id {problem.task_id} is in two SPECs; ids must be unique")
    return tuple(problems.values())


def _read_graded(folders: Sequence[Path], problems: Sequence[Problem]) -> dict[str, list[tuple[str, Outcome]]]:
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


def _model_settings(options: argparse.Namespace) -> ModelSettings:
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


def _write(
    critic: ErrorCritic, options: argparse.Namespace, training: Sequence[LabeledProgram], found: dict[str, Any]
) -> None:
    """Write the critic with everything that made it, and how good it is."""
    from rltf.learner.critic_folder import tokenizer_fingerprint  # late, as above

    facts = {
        "tokenizer": tokenizer_fingerprint(critic.backbone.tokenizer),
        "model": options.model,
        "samples": [str(folder) for folder in options.samples],
        "problems": options.problems,
        "num_epochs": options.num_epochs,
        "learning_rate": options.learning_rate,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "num_programs": len(training),
        "held_out": found,
    }
    write_folder(options.output, lambda path: critic.save(path, facts))


def _table(found: dict[str, Any]) -> str:
    """The accuracy on held-out problems, one line per class."""
    rows = [("all", found), *found["by_class"].items()]
    lines = ["accuracy on held-out problems:"]
    for name, row in rows:
        accuracy = "" if row["accuracy"] is None else f"{row['accuracy']:.2%}"
        lines.append(f"{name:>15} {accuracy:>8}  ({row['num_programs']} programs)")
    return "\n".join(lines)

"""The command `rltf critic`: train a critic on the programs of earlier evaluations.

rltf critic --model DIR_OR_HUB_ID --samples DIR [DIR ...] --problems SPEC [SPEC ...] --output DIR
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rltf.evaluation.graded import add_training_options, check_options, load_all, model_settings, read_graded, recorded
from rltf.evaluation.progress import ProgramProgress
from rltf.evaluation.sources import machine_dtype
from rltf.files import write_folder
from rltf.sandbox.command import add_sandbox_settings, limits_of, positive, run_logged
from rltf.settings import CACHE_DIR

if TYPE_CHECKING:
    from rltf.learner.critic import ErrorCritic
    from rltf.learner.critic_training import LabeledProgram


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a critic and return the exit status; 2 means that the samples, the problems or the model are unusable."""
    return run_logged(_train, _parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rltf critic", description="Train a critic, which predicts the outcome of a program from its tokens."
    )
    add_training_options(
        parser,
        model="model folder, GGUF file or Hub id to start from, with the policy's tokenizer",
        problems="the problems of these programs; their reference programs count as passed",
        batch_size=8,
    )
    shown = "passes over the programs (default: %(default)s)"
    parser.add_argument("--num-epochs", type=positive, default=10, metavar="N", help=shown)
    add_sandbox_settings(parser)
    return parser


def _train(options: argparse.Namespace) -> None:
    check_options(options)
    settings = model_settings(options)
    problems = load_all(options.problems, limits_of(options))
    graded = read_graded(options.samples, problems)
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


def _write(
    critic: ErrorCritic, options: argparse.Namespace, training: Sequence[LabeledProgram], found: dict[str, Any]
) -> None:
    """Write the critic with everything that made it, and how good it is."""
    from rltf.learner.critic_folder import tokenizer_fingerprint  # late, as above

    facts = {
        "tokenizer": tokenizer_fingerprint(critic.backbone.tokenizer),
        **recorded(options, "num_epochs", "learning_rate", "batch_size", "seed"),
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

"""The command `rltf train-repair`: train a model that repairs programs, on the failing ones of earlier evaluations.

rltf train-repair --model DIR_OR_HUB_ID --samples DIR [DIR ...] --problems SPEC [SPEC ...] --output DIR
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rltf.errors import UserError
from rltf.evaluation.graded import add_training_options, check_options, load_all, model_settings, read_graded, recorded
from rltf.evaluation.progress import ProgramProgress
from rltf.evaluation.sources import machine_dtype
from rltf.evaluation.turns import Examiner
from rltf.files import write_folder, write_json
from rltf.learner.repair_data import FailedProgram, encode_repairs, split_repairs
from rltf.problems import Problem
from rltf.sandbox.command import add_sandbox_options, limits_of, positive, run_logged
from rltf.sandbox.examples import ends_dialogue
from rltf.sandbox.feedback import feedback
from rltf.sandbox.grading import Graders
from rltf.sandbox.verdict import Outcome
from rltf.settings import CACHE_DIR, LearnerSettings, ModelSettings, Settings

if TYPE_CHECKING:
    from rltf.learner.learner import Learner

logger = logging.getLogger(__name__)
REPAIR_FILE = "repair.json"
_NUM_VALIDATIONS = 20  # of a training that is not stopped early
_ALIGNMENT = 8  # of `learner.micro_batch_tokens`


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a repair model and return the exit status; 2 means that samples, problems or model are unusable."""
    return run_logged(_train, _parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rltf train-repair",
        description="Train a model that reads a program with what it did on the examples, and writes a right one.",
    )
    add_training_options(
        parser,
        model="model folder, GGUF file or Hub id to start from",
        problems="the problems of these programs; a repair is one of their reference programs",
        batch_size=32,
    )
    add = parser.add_argument
    add("--num-steps", type=positive, default=1000, metavar="N", help="most updates (default: %(default)s)")
    shown = "reference programs of a problem that each failing program is paired with (default: %(default)s)"
    add("--max-references", type=positive, default=5, metavar="N", help=shown)
    both = "train on the references as first answers too: a model that is to be trained over turns needs both"
    add("--first-answers", action="store_true", help=both)
    add_sandbox_options(parser)
    return parser


def _train(options: argparse.Namespace) -> None:
    check_options(options)
    settings = model_settings(options)
    problems = load_all(options.problems, limits_of(options))
    failing = _failing(problems, read_graded(options.samples, problems))
    # Imported late: they bring torch, and a mistake in the options or the samples needs none.
    import torch
    from transformers.utils.logging import disable_progress_bar

    from rltf.learner.learner import Learner
    from rltf.learner.model_source import model_folder
    from rltf.learner.sft import run_sft
    from rltf.transport.model_folder import chat_warning, load_tokenizer, prompt_format

    disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = model_folder(options.model, (), CACHE_DIR, seed=options.seed)
    tokenizer = load_tokenizer(folder)
    if warning := chat_warning(folder, tokenizer, settings):
        logger.warning("%s", warning)
    form = prompt_format(folder, tokenizer, settings)
    failed = _on_examples(failing, options)
    learner = Learner(folder, _settings(options, settings, on_gpu=torch.cuda.is_available()))
    max_length = min(options.max_length, learner.policy.max_length)
    repairs = encode_repairs(
        failed, tokenizer, form,
        max_references=options.max_references,
        max_length=max_length,
        first_answers=problems if options.first_answers else (),
    )  # fmt: skip
    training, held_out = split_repairs(repairs, options.held_out_share, options.seed)
    before = learner.evaluate_loss(held_out)
    with ProgramProgress(options.num_steps * options.batch_size, 0, "trained on") as progress:
        progress.begin()
        report = run_sft(
            learner,
            training,
            seed=options.seed,
            report=lambda _: progress.advance(options.batch_size),
            validation=held_out,
        )
    _write(learner, options, (len(training), len(held_out)), (before, report.validation_loss))
    print(f"answers: {len(training)} to train on, {len(held_out)} of held-out problems")
    loss, num_steps = report.validation_loss, report.best_step
    print(f"loss per token of the latter: {before:.4f} before, {loss:.4f} after {num_steps} updates")
    print(f"written: {options.output}")


def _failing(
    problems: Sequence[Problem], graded: Mapping[str, Sequence[tuple[str, Outcome]]]
) -> list[tuple[Problem, str]]:
    """The distinct failing programs of problems with examples and references. Raises UserError if there are none."""
    unusable = (Outcome.PASSED, Outcome.INFRASTRUCTURE_ERROR)
    failing = [
        (problem, program)
        for problem in problems
        if problem.examples and problem.references
        for program in dict.fromkeys(one for one, end in graded.get(problem.task_id, ()) if end not in unusable)
    ]
    if not failing:
        raise UserError(
            "--samples: no failing program of a problem that has examples and reference programs; give "
            "samples of other problems"
        )
    return failing


def _on_examples(failing: Sequence[tuple[Problem, str]], options: argparse.Namespace) -> list[FailedProgram]:
    """The programs that fail the examples, after a run on these alone: the others are never repaired.

    Raises UserError if there are none.
    """

    def read(item: tuple[Problem, str]) -> FailedProgram | None:
        problem, program = item
        shown = examiner.confirmed(problem)
        verdict = examiner.verdict(problem, program, "failing")
        if verdict is None or ends_dialogue(verdict):
            return None
        return FailedProgram(shown, program, feedback(shown, program, verdict))

    with (
        Graders(options.workers, limits_of(options), options.min_isolation) as graders,
        Examiner(graders.grade, options.workers) as examiner,
    ):
        failed = [one for _, one in graders.map(read, failing) if one is not None]
    if not failed:
        raise UserError(
            f"--samples: all {len(failing)} failing programs pass the examples, so no repair would be asked for"
        )
    logger.info("%d of %d failing programs fail the examples as well, and can be repaired", len(failed), len(failing))
    return failed


def _settings(options: argparse.Namespace, model: ModelSettings, *, on_gpu: bool) -> Settings:
    """Those of a job that does nothing but supervised fine-tuning."""
    longest = -(-options.max_length // _ALIGNMENT) * _ALIGNMENT
    every = max(1, options.num_steps // _NUM_VALIDATIONS)
    sft = {
        "num_steps": options.num_steps,
        "learning_rate": options.learning_rate,
        "warmup_steps": options.num_steps // 10,
        "batch_size": options.batch_size,
        "evaluate_every": every,
        "cache_dir": None,
    }
    packing = {"micro_batch_tokens": max(LearnerSettings().micro_batch_tokens, longest)}
    return Settings.model_validate(
        {
            "model": model.model_copy(update={"dtype": machine_dtype()}),
            "learner": {"num_gpus": int(on_gpu), "sft": sft, **packing},
        }
    )


def _write(learner: Learner, options: argparse.Namespace, num_answers: Sequence[int], losses: Sequence[float]) -> None:
    """Write the model with what made it, and how good it is."""
    facts = {
        **recorded(options, "num_steps", "learning_rate", "batch_size", "max_references", "first_answers", "seed"),
        "num_answers": num_answers[0],
        "held_out": {"num_answers": num_answers[1], "loss_before": losses[0], "loss": losses[1]},
    }

    def write(path: Path) -> None:
        learner.policy.save(path)
        write_json(path / REPAIR_FILE, facts)

    write_folder(options.output, write)

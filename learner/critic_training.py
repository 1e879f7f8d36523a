"""Training of a critic on graded programs, and how often it is right on programs of other problems."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from rltf.errors import UserError
from rltf.learner.critic import ErrorCritic, critic_loss, program_logits
from rltf.learner.data import TokenSequence, encode_programs, hold_out
from rltf.learner.encoder_decoder import EncoderDecoderBatch
from rltf.learner.error_classes import ERROR_CLASSES, error_class
from rltf.learner.optim import make_optimizer, set_learning_rate
from rltf.learner.packing import MicroBatch
from rltf.problems.prompts import PromptFormat
from rltf.problems.types import Problem
from rltf.sandbox.verdict import Outcome
from rltf.settings import OptimSettings

logger = logging.getLogger(__name__)

GradedPrograms = Mapping[str, Sequence[tuple[str, Outcome]]]
"""Programs with their outcomes, by the task id of their problem."""


@dataclass(frozen=True, slots=True)
class LabeledProgram:
    """A prompt with a program, and the index of the program's outcome in `ERROR_CLASSES`."""

    sequence: TokenSequence
    error_class: int


def labeled_programs(
    problems: Sequence[Problem],
    graded: GradedPrograms,
    tokenizer: PreTrainedTokenizerFast,
    form: PromptFormat,
    *,
    max_length: int,
) -> list[LabeledProgram]:
    """The graded programs and the reference programs, which count as passed, as RL would train on them.

    Leaves out and logs what says nothing about a program (`infrastructure_error`), and what is longer than `max_length`
    tokens with its prompt.
    """
    found: list[LabeledProgram] = []
    num_ungraded = num_too_long = 0
    for problem in problems:
        programs = [*graded.get(problem.task_id, ()), *((one, Outcome.PASSED) for one in problem.references)]
        usable = [one for one in programs if one[1] is not Outcome.INFRASTRUCTURE_ERROR]
        num_ungraded += len(programs) - len(usable)
        sequences = encode_programs(problem, (program for program, _ in usable), tokenizer, form)
        labeled = [LabeledProgram(s, error_class(outcome)) for s, (_, outcome) in zip(sequences, usable, strict=True)]
        short = [one for one in labeled if one.sequence.length <= max_length]
        num_too_long += len(labeled) - len(short)
        found += short
    if num_ungraded:
        logger.warning("left out %d programs that could not be graded", num_ungraded)
    if num_too_long:
        logger.warning("left out %d programs longer than %d tokens with their prompt", num_too_long, max_length)
    return found


def split_programs(
    programs: Sequence[LabeledProgram], share: float, seed: int
) -> tuple[list[LabeledProgram], list[LabeledProgram]]:
    """Programs to train on, and those of a `share` of the problems. Raises UserError for fewer than two problems."""
    prompts = [one.sequence.prompt_ids.tobytes() for one in programs]
    if (num_problems := len(set(prompts))) < 2:
        raise UserError(
            f"the critic cannot hold out problems: {len(programs)} programs of {num_problems} problems fit into "
            "--max-length; give samples of more problems, or raise it"
        )
    return hold_out(programs, prompts, share, seed)


def train_critic(
    critic: ErrorCritic,
    programs: Sequence[LabeledProgram],
    *,
    num_epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    advance: Callable[[int], None] = lambda num_programs: None,
) -> None:
    """Train for `num_epochs` passes, each in another order, with AdamW at a constant rate.

    Calls `advance` with the number of programs of each update. Raises RuntimeError if the gradient is not finite.
    """
    optim = OptimSettings()
    optimizer = make_optimizer(critic.trained_parameters(), optim)
    set_learning_rate(optimizer, learning_rate)
    for epoch in range(num_epochs):
        order = np.random.default_rng((seed, epoch)).permutation(len(programs))
        total = 0.0
        for start in range(0, len(order), batch_size):
            drawn = [programs[index] for index in order[start : start + batch_size]]
            optimizer.zero_grad(set_to_none=True)
            for batch, program, classes in _batches(critic, drawn):
                loss = critic_loss(critic.token_logits(batch), program, classes)
                (loss / len(drawn)).backward()  # type: ignore[no-untyped-call]
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(
                critic.trained_parameters().values(), optim.max_grad_norm, error_if_nonfinite=True
            )
            optimizer.step()
            advance(len(drawn))
        logger.info("epoch %d of %d: loss %.4f", epoch + 1, num_epochs, total / len(programs))


@torch.no_grad()
def evaluate_critic(critic: ErrorCritic, programs: Sequence[LabeledProgram]) -> dict[str, Any]:
    """The critic's mean loss in nats and its accuracy on `programs`, over all and by class, with their numbers.

    The accuracy of a class without programs is None.
    """
    loss = 0.0
    num_right, num_programs = ([0] * len(ERROR_CLASSES) for _ in range(2))
    for batch, program, classes in _batches(critic, programs):
        token_logits = critic.token_logits(batch)
        loss += critic_loss(token_logits, program, classes).item()
        predicted = program_logits(token_logits, program).argmax(-1)
        for true, guess in zip(classes.tolist(), predicted.tolist(), strict=True):
            num_programs[true] += 1
            num_right[true] += true == guess
    counted = zip(ERROR_CLASSES, num_right, num_programs, strict=True)
    return {
        "loss": loss / len(programs),
        "accuracy": sum(num_right) / len(programs),
        "num_programs": len(programs),
        "by_class": {
            name: {"accuracy": right / count if count else None, "num_programs": count}
            for name, right, count in counted
        },
    }


def _batches(
    critic: ErrorCritic, programs: Sequence[LabeledProgram]
) -> Iterator[tuple[MicroBatch | EncoderDecoderBatch, torch.Tensor, torch.Tensor]]:
    """Micro-batches of `programs`: the packed tokens, the program [N] of each in the batch, and the classes [S]."""
    sequences = [one.sequence for one in programs]
    owner = np.repeat(np.arange(len(sequences)), [len(one.token_ids) for one in sequences])
    classes = torch.tensor([one.error_class for one in programs])
    device = critic.backbone.device
    for batch in critic.pack(sequences):
        present, program = np.unique(owner[batch.source.numpy()], return_inverse=True)  # no completion is split
        yield batch.to(device), torch.from_numpy(program).to(device), classes[present].to(device)

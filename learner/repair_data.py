"""What a repair model learns from: programs that fail the examples, each with the reference programs of its problem."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from rltf.errors import UserError
from rltf.learner.data import TokenSequence, encode_programs, hold_out
from rltf.problems.prompts import PromptFormat, repair_exchange
from rltf.problems.types import Problem

if TYPE_CHECKING:  # importing it takes seconds
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FailedProgram:
    """A program that fails the examples of a problem, and what is said about it (`sandbox/feedback.py`)."""

    problem: Problem
    program: str
    feedback: str


def encode_repairs(
    failed: Sequence[FailedProgram],
    tokenizer: PreTrainedTokenizerBase,
    form: PromptFormat,
    *,
    max_references: int,
    max_length: int,
    first_answers: Sequence[Problem] = (),
) -> dict[str, list[TokenSequence]]:
    """Repairs by task id: the prompt that a repair model is asked with, and one of the first references.

    These references of `first_answers` are answers to the statement alone as well. Leaves out and logs what is longer
    than `max_length` tokens with its prompt.
    """
    encoded = [
        (problem.task_id, sequence)
        for problem in first_answers
        for sequence in encode_programs(problem, problem.references[:max_references], tokenizer, form)
    ]
    for one in failed:
        exchanges = [repair_exchange(one.program, one.feedback, form)]
        repaired = encode_programs(one.problem, one.problem.references[:max_references], tokenizer, form, exchanges)
        encoded += ((one.problem.task_id, sequence) for sequence in repaired)
    fitting: dict[str, list[TokenSequence]] = {}
    for task_id, sequence in encoded:
        if sequence.length <= max_length:
            fitting.setdefault(task_id, []).append(sequence)
    if num_too_long := len(encoded) - sum(map(len, fitting.values())):
        logger.warning("left out %d answers that are longer than %d tokens with their prompt", num_too_long, max_length)
    return fitting


def split_repairs(
    repairs: dict[str, list[TokenSequence]], share: float, seed: int
) -> tuple[list[TokenSequence], list[TokenSequence]]:
    """Repairs to train on, and those of a `share` of the problems. Raises UserError for fewer than two problems."""
    task_ids = [task_id.encode() for task_id, sequences in repairs.items() for _ in sequences]
    if len(repairs) < 2:
        raise UserError(
            f"the repair model cannot hold out problems: {len(task_ids)} repairs of {len(repairs)} problems fit into "
            "--max-length; give samples of more problems with references, or raise it"
        )
    return hold_out(chain.from_iterable(repairs.values()), task_ids, share, seed)

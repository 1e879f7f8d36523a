"""Reference programs as training data: the same prompts as RL, and an order that can be resumed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from errors import UserError
from learner.packing import TokenSequence
from problems.encoding import encode_answer, encode_prompt
from problems.types import Problem

logger = logging.getLogger(__name__)

SupervisedExample = TokenSequence
"""A prompt and a reference program, end token included."""


def encode_references(
    problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, *, chat_template: bool, max_length: int
) -> list[SupervisedExample]:
    """Every reference program of `problems` behind the prompt that RL samples from: see `encode_answer`.

    Those longer than `max_length` tokens with their prompt are left out, and their number logged. Problems without
    references give nothing.
    """
    examples: list[SupervisedExample] = []
    num_too_long = 0
    for problem in problems:
        if not problem.references:
            continue
        prompt_ids = np.array(encode_prompt(problem, tokenizer, chat=chat_template), np.int32)
        for program in problem.references:
            token_ids = encode_answer(program, tokenizer, chat=chat_template)
            if len(prompt_ids) + len(token_ids) > max_length:
                num_too_long += 1
            else:
                examples.append(SupervisedExample(prompt_ids, np.array(token_ids, np.int32)))
    if num_too_long:
        logger.warning(
            "%d reference programs left out: longer than %d tokens with the prompt", num_too_long, max_length
        )
    return examples


@dataclass(frozen=True, slots=True)
class SamplerState:
    """Data position: `position` examples of pass number `epoch` have been drawn."""

    epoch: int = 0
    position: int = 0


class ExampleSampler:
    """Draws examples without replacement, pass after pass; the order follows from the seed and `state` alone."""

    def __init__(self, examples: Sequence[SupervisedExample], *, seed: int) -> None:
        self._examples = tuple(examples)
        self._seed = seed
        self.fingerprint = fingerprint(examples)
        self.state = SamplerState()

    def __len__(self) -> int:
        return len(self._examples)

    def draw(self, count: int) -> list[SupervisedExample]:
        """The next `count` examples, over as many passes as it takes; none where there are none."""
        if not self._examples:
            return []
        epoch, position = self.state.epoch, self.state.position
        drawn: list[SupervisedExample] = []
        while len(drawn) < count:
            order = np.random.default_rng((self._seed, epoch)).permutation(len(self._examples))
            part = order[position : position + count - len(drawn)]
            drawn.extend(self._examples[index] for index in part)
            position += len(part)
            if position == len(self._examples):
                epoch, position = epoch + 1, 0
        self.state = SamplerState(epoch, position)
        return drawn


def split(
    examples: Sequence[SupervisedExample], *, validation_share: float, seed: int
) -> tuple[list[SupervisedExample], list[SupervisedExample]]:
    """Training and validation examples; all references of one prompt are on the same side.

    Raises UserError for fewer than two different prompts.
    """
    prompts = sorted({example.prompt_ids.tobytes() for example in examples})
    if len(prompts) < 2:
        raise UserError(
            f"SFT: {len(examples)} reference programs of {len(prompts)} problems cannot be split for "
            "validation; give problems with reference programs that fit into model.max_model_len, raise it, "
            "or set learner.sft.num_steps to 0"
        )
    num_validation = min(max(1, round(validation_share * len(prompts))), len(prompts) - 1)
    chosen = np.random.default_rng(seed).permutation(len(prompts))[:num_validation]
    held_out = {prompts[index] for index in chosen}
    sides: tuple[list[SupervisedExample], list[SupervisedExample]] = ([], [])
    for example in examples:
        sides[example.prompt_ids.tobytes() in held_out].append(example)
    return sides


def fingerprint(examples: Sequence[SupervisedExample]) -> str:
    """SHA-256 over all ids in order."""
    digest = hashlib.sha256()
    for example in examples:
        for ids in (example.prompt_ids, example.token_ids):
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(ids.tobytes())
    return digest.hexdigest()

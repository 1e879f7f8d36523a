"""What the learner trains on: experiences from rollouts, and reference programs.

An experience is a sampled program with its token weights. Those of a rollout travel together, and are stored in
checkpoints, as a few arrays. A reference program is a plain token sequence. Sandbox workers import this module, so it
needs no torch.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rltf.errors import UserError
from rltf.problems.fences import end_of_thought
from rltf.problems.prompts import Exchange, PromptFormat, encode_answer, encode_prompt, render_prompt
from rltf.problems.types import Problem
from rltf.sandbox.verdict import Outcome
from rltf.transport.columns import Columns, from_columns, load_columns, save_columns, to_columns

if TYPE_CHECKING:  # importing it takes seconds
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Ids = NDArray[np.int32]
Spans = tuple[tuple[int, int], ...]
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A prompt [P] and a completion [T], at least one token each.

    Tokens `first` .. `end - 1` of the completion, for each (first, end) of `feedback_spans`, are read and not learned:
    the feedback between two answers of a dialogue. The last token is never among them.
    """

    prompt_ids: Ids
    token_ids: Ids
    feedback_spans: Spans = ()

    @property
    def length(self) -> int:
        """Tokens of prompt and completion together."""
        return len(self.prompt_ids) + len(self.token_ids)

    @property
    def learned(self) -> NDArray[np.int64]:
        """The places [S] of the tokens to learn in the completion."""
        places = np.arange(len(self.token_ids))
        if not self.feedback_spans:
            return places
        return np.delete(places, np.concatenate([places[first:end] for first, end in self.feedback_spans]))


@dataclass(frozen=True, slots=True)
class Experience:
    """One sample with its token weights.

    `prompt_ids` [P], `token_ids` [T] and behavior `logprobs` [S] are as sampled. `token_weights` [G, S] multiplies
    `-log p` of each sampled token; it has one row per `rewards.Granularity`, with the baseline already subtracted.
    `version` is the oldest weights version that sampled any of the tokens. `reward` is the coarse reward before the
    baseline, and `custom_reward` that of the function of the user.

    S is T, except in a dialogue: there `token_ids` also hold the feedback between the answers, at `feedback_spans`.
    `outcome` is that of the last program then.
    """

    task_id: str
    completion_id: str
    prompt_ids: Ids
    token_ids: Ids
    logprobs: NDArray[np.float32]
    token_weights: NDArray[np.float32]
    version: int
    reward: float
    outcome: Outcome
    custom_reward: float = 0.0
    feedback_spans: Spans = ()

    @property
    def passed_at_once(self) -> bool:
        """Whether the first program passed: later ones are only asked for after a failure."""
        return self.outcome is Outcome.PASSED and not self.feedback_spans

    @property
    def sequence(self) -> TokenSequence:
        """What the learner reads."""
        return TokenSequence(self.prompt_ids, self.token_ids, self.feedback_spans)

    @property
    def num_sampled(self) -> int:
        """S, the number of sampled tokens."""
        return len(self.logprobs)


class Experiences(list[Experience]):
    """The experiences of one rollout, pickled as one array per field.

    One by one, a rollout of 20 samples would be 61 arrays (the prompt, and three per sample) instead of four.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _experiences, (to_columns(self),)


def _experiences(columns: Columns) -> Experiences:
    return Experiences(from_columns(Experience, columns))


def save_rollouts(path: Path, rollouts: Sequence[tuple[str, Sequence[Experience]]]) -> None:
    """Write rollouts (id, experiences) to a file."""
    ids, sizes = [rollout_id for rollout_id, _ in rollouts], [len(group) for _, group in rollouts]
    save_columns(path, [ids, sizes, *to_columns([experience for _, group in rollouts for experience in group])])


def load_rollouts(path: Path) -> list[tuple[str, Experiences]]:
    """Read what `save_rollouts` wrote, bit for bit."""
    ids, sizes, *columns = load_columns(path)
    experiences = map(_restored, from_columns(Experience, columns))
    return [(name, Experiences(islice(experiences, size))) for name, size in zip(ids, sizes, strict=True)]  # type: ignore[arg-type]


def _restored(stored: Experience) -> Experience:
    """With the types that JSON does not know."""
    spans = tuple((first, end) for first, end in stored.feedback_spans)
    return replace(stored, outcome=Outcome(stored.outcome), feedback_spans=spans)


def encode_references(
    problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, form: PromptFormat, *, max_length: int
) -> list[TokenSequence]:
    """Every reference program of `problems`, end token included, after the prompt that RL samples from.

    Leaves out and logs programs that are longer than `max_length` tokens with their prompt.
    """
    references: list[TokenSequence] = []
    num_too_long = 0
    for problem in problems:
        if not problem.references:
            continue
        for sequence in encode_programs(problem, problem.references, tokenizer, form):
            if sequence.length > max_length:
                num_too_long += 1
            else:
                references.append(sequence)
    if num_too_long:
        logger.warning(
            "left out %d reference programs that are longer than %d tokens with their prompt", num_too_long, max_length
        )
    return references


def encode_programs(
    problem: Problem,
    programs: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    form: PromptFormat,
    exchanges: Sequence[Exchange] = (),
) -> Iterator[TokenSequence]:
    """Each program, end token included, after the prompt that RL samples from, or the one after `exchanges`."""
    prompt_ids = np.array(encode_prompt(problem, tokenizer, form, exchanges), np.int32)
    thought_end = end_of_thought(render_prompt(problem, form, tokenizer, exchanges))
    for program in programs:
        token_ids = encode_answer(program, tokenizer, chat=form.chat, thought_end=thought_end)
        yield TokenSequence(prompt_ids, np.array(token_ids, np.int32))


class ReferenceSampler:
    """Draws references without replacement, pass after pass. The order depends only on the seed and on `num_drawn`."""

    def __init__(self, references: Sequence[TokenSequence], *, seed: int) -> None:
        self._references = tuple(references)
        self._seed = seed
        self.fingerprint = fingerprint(references)
        self.num_drawn = 0

    def __len__(self) -> int:
        return len(self._references)

    def draw(self, count: int) -> list[TokenSequence]:
        """The next `count` references, over as many passes as that takes; none if the sampler has none."""
        drawn: list[TokenSequence] = []
        while self._references and len(drawn) < count:
            epoch, position = divmod(self.num_drawn, len(self._references))
            order = np.random.default_rng((self._seed, epoch)).permutation(len(self._references))
            part = order[position : position + count - len(drawn)]
            drawn.extend(self._references[index] for index in part)
            self.num_drawn += len(part)
        return drawn


def split(
    references: Sequence[TokenSequence], *, validation_share: float, seed: int
) -> tuple[list[TokenSequence], list[TokenSequence]]:
    """Training and validation references; a prompt is on one side. Raises UserError for fewer than two prompts."""
    prompts = [reference.prompt_ids.tobytes() for reference in references]
    if (num_problems := len(set(prompts))) < 2:
        raise UserError(
            f"SFT cannot hold out problems for validation: it has {len(references)} reference programs of "
            f"{num_problems} problems that fit into model.max_model_len; add problems with reference programs, raise "
            "model.max_model_len, or set learner.sft.num_steps to 0"
        )
    return hold_out(references, prompts, validation_share, seed)


def hold_out(
    items: Iterable[_Item], problems: Sequence[bytes], share: float, seed: int
) -> tuple[list[_Item], list[_Item]]:
    """The items to train on, and those of a `share` of the problems, at random. `problems` has the one of each item.

    At least one of at least two problems is held out, and not all are.
    """
    ordered = sorted(set(problems))
    count = min(max(1, round(share * len(ordered))), len(ordered) - 1)
    held_out = {ordered[index] for index in np.random.default_rng(seed).permutation(len(ordered))[:count]}
    sides: tuple[list[_Item], list[_Item]] = ([], [])
    for item, problem in zip(items, problems, strict=True):
        sides[problem in held_out].append(item)
    return sides


def fingerprint(references: Sequence[TokenSequence]) -> str:
    """SHA-256 over all token ids in order."""
    digest = hashlib.sha256()
    for reference in references:
        for ids in (reference.prompt_ids, reference.token_ids):
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(ids.tobytes())
    return digest.hexdigest()

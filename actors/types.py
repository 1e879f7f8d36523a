"""What generators produce."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transport.columns import Column


class FinishReason(StrEnum):
    """Why sampling ended: the model's end token, or the length limit."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """Tokens `first` .. `end - 1` of a completion were sampled with weights `version`."""

    first: int
    end: int
    version: int


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled program.

    `token_ids` [T] holds the sampled ids, the end token included where `finish_reason` is STOP; `logprobs` [T] their
    log-probabilities (natural logarithm, of the distribution at the sampling temperature) under the weights that
    sampled them; `char_spans` [T, 2] the characters of `text` that each id stands for, end exclusive (the end token
    stands for an empty span at the end). `text[program_start:program_end]` is the program, without any fence around it.
    """

    task_id: str
    completion_id: str
    prompt_ids: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    char_spans: NDArray[np.int32]
    weight_versions: tuple[VersionSpan, ...]
    finish_reason: FinishReason
    text: str
    program_start: int
    program_end: int

    @property
    def program(self) -> str:
        return self.text[self.program_start : self.program_end]


@dataclass(frozen=True, slots=True)
class Rollout:
    """All that was sampled for one problem in one go: n samples and, where asked for, one greedy decode.

    It travels as a few arrays for all of its completions.
    """

    rollout_id: str
    task_id: str
    samples: tuple[Completion, ...]
    greedy: Completion | None

    def __reduce__(self) -> tuple[Any, ...]:
        completions = self.samples if self.greedy is None else (*self.samples, self.greedy)
        if not completions:
            return Rollout, (self.rollout_id, self.task_id, (), None)
        return _rollout, (
            self.rollout_id,
            self.task_id,
            self.greedy is not None,
            [_row(completion) for completion in completions],
            Column.of([c.prompt_ids for c in completions]),
            Column.of([c.token_ids for c in completions]),
            Column.of([c.logprobs for c in completions]),
            # As one row: a column joins along the last axis, and the last axis of spans is the pair.
            Column.of([c.char_spans.reshape(-1) for c in completions]),
        )


_Row = tuple[str, str, list[tuple[int, int, int]], str, str, int, int]


def _row(completion: Completion) -> _Row:
    return (
        completion.task_id,
        completion.completion_id,
        [(span.first, span.end, span.version) for span in completion.weight_versions],
        completion.finish_reason.value,
        completion.text,
        completion.program_start,
        completion.program_end,
    )


def _rollout(
    rollout_id: str,
    task_id: str,
    has_greedy: bool,
    rows: Sequence[_Row],
    prompt_ids: Column,
    token_ids: Column,
    logprobs: Column,
    char_spans: Column,
) -> Rollout:
    columns = [column.split(len(rows)) for column in (prompt_ids, token_ids, logprobs, char_spans)]
    completions = tuple(
        Completion(
            task_id=task,
            completion_id=completion_id,
            prompt_ids=prompt,
            token_ids=tokens,
            logprobs=logprob,
            char_spans=spans.reshape(-1, 2),
            weight_versions=tuple(VersionSpan(*version) for version in versions),
            finish_reason=FinishReason(reason),
            text=text,
            program_start=start,
            program_end=end,
        )
        for (task, completion_id, versions, reason, text, start, end), prompt, tokens, logprob, spans in zip(
            rows, *columns, strict=True
        )
    )
    if has_greedy:
        return Rollout(rollout_id, task_id, completions[:-1], completions[-1])
    return Rollout(rollout_id, task_id, completions, None)

"""What goes into scoring and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sandbox.verdict import Outcome, Verdict


class Granularity(IntEnum):
    """The terms of a reward, each the index of its row in `token_weights` [G, T]."""

    COARSE = 0
    """The program's outcome, on every token."""
    FINE = 1
    """The error's penalty, on the tokens of its line or of the whole program."""
    ADAPTIVE = 2
    """The share of tests passed, on every token."""
    STATIC = 3
    """A static analyser's findings, on the tokens of their lines."""


class Category(StrEnum):
    """Where the fine penalty of an error falls: U_global, U_line and U_ignore of the paper."""

    GLOBAL = "global"
    LINE = "line"
    IGNORE = "ignore"


class SampledProgram(Protocol):
    """What `Sample.of` needs of a completion (see `transport.rollouts.Completion`, which has it)."""

    @property
    def task_id(self) -> str: ...
    @property
    def completion_id(self) -> str: ...
    @property
    def char_spans(self) -> NDArray[np.int32]: ...
    @property
    def finish_reason(self) -> StrEnum: ...
    @property
    def text(self) -> str: ...
    @property
    def program_start(self) -> int: ...
    @property
    def program_end(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """A sampled program with its verdict.

    `char_spans` [T, 2] holds the characters of `text` of each sampled id, end exclusive, neither column ever
    decreasing; an end token stands for an empty span behind the text. `text[program_start:program_end]` is the program.
    `truncated` says that sampling stopped at the length limit. Raises ValueError where the verdict is another
    program's, or the spans cannot be those of `text`.
    """

    task_id: str
    completion_id: str
    verdict: Verdict
    char_spans: NDArray[np.int32]
    text: str
    program_start: int
    program_end: int
    truncated: bool

    def __post_init__(self) -> None:
        verdict, spans = self.verdict, self.char_spans
        if (verdict.task_id, verdict.completion_id) != (self.task_id, self.completion_id):
            raise ValueError(
                f"the verdict is of completion {verdict.completion_id!r} of task {verdict.task_id!r}, "
                f"not of {self.completion_id!r} of {self.task_id!r}"
            )
        if not 0 <= self.program_start <= self.program_end <= len(self.text):
            raise ValueError(
                f"completion {self.completion_id!r}: program [{self.program_start}, {self.program_end}) "
                f"does not lie in a text of {len(self.text)} characters"
            )
        ordered = spans.ndim == 2 and spans.shape[1] == 2 and bool((np.diff(spans, axis=0) >= 0).all())
        inside = ordered and (len(spans) == 0 or (spans[0, 0] >= 0 and spans[-1, 1] <= len(self.text)))
        if not inside or bool((spans[:, 0] > spans[:, 1]).any()):
            raise ValueError(
                f"completion {self.completion_id!r}: char_spans of shape {spans.shape} are not ordered spans "
                f"[T, 2] within a text of {len(self.text)} characters; see problems.token_spans.char_spans"
            )

    @classmethod
    def of(cls, completion: SampledProgram, verdict: Verdict) -> Sample:
        """The sample of a completion as the generators hand it over."""
        return cls(
            task_id=completion.task_id,
            completion_id=completion.completion_id,
            verdict=verdict,
            char_spans=completion.char_spans,
            text=completion.text,
            program_start=completion.program_start,
            program_end=completion.program_end,
            truncated=completion.finish_reason == "length",
        )

    @property
    def program(self) -> str:
        """The program, without what stands around it."""
        return self.text[self.program_start : self.program_end]


@dataclass(frozen=True, slots=True)
class ProgramReward:
    """The rewards of a whole program, times their weights, before any baseline: what a greedy decode leaves behind."""

    coarse: float
    adaptive: float

    @property
    def total(self) -> float:
        """Their sum, by which the best greedy decode so far is chosen."""
        return self.coarse + self.adaptive


@dataclass(frozen=True, slots=True)
class Scored:
    """The rewards of one program and the weights of its tokens.

    `coarse`, `fine`, `adaptive` and `static` are the rewards R as the method states them: no weight, baseline or alpha
    applied. `category` is None where nothing went wrong but answers. `fine_span` (first, last; both included) counts
    the program's own `num_tokens` tokens from 0, None where there is no fine penalty. `token_weights` [G, T] multiplies
    `-log p` of every sampled id, one row for each `Granularity`, with everything applied.
    """

    task_id: str
    completion_id: str
    outcome: Outcome
    category: Category | None
    coarse: float
    fine: float
    adaptive: float
    static: float
    fine_span: tuple[int, int] | None
    num_tokens: int
    token_weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GroupScores:
    """The scores of a rollout, in the order of its samples; None for a sample that the grader failed on.

    `greedy` is what the greedy baselines need to know of this problem next time: hand it in as `previous`.
    """

    samples: tuple[Scored | None, ...]
    greedy: ProgramReward | None

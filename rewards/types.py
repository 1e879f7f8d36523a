"""The input and the output of scoring."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

import numpy as np
from numpy.typing import NDArray

from rltf.sandbox.verdict import Verdict


class Granularity(IntEnum):
    """The terms of a reward. Each value is the index of the term's row in `token_weights` [G, T]."""

    COARSE = 0
    """The program's outcome, on every token."""
    FINE = 1
    """The penalty for an error, on the tokens of its line or of the whole program."""
    ADAPTIVE = 2
    """The share of tests passed, on every token."""
    STATIC = 3
    """The findings of a static analyzer, on the tokens of their lines."""
    STRUCTURE = 4
    """The structure that the program shares with a reference program, on every token."""
    CUSTOM = 5
    """What a function of the user says (`rewards.custom`), on every token and on single ones."""


class Category(StrEnum):
    """Which tokens the fine penalty falls on: U_global, U_line and U_ignore of the paper."""

    GLOBAL = "global"
    LINE = "line"
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True)
class ProgramTokens:
    """A program, and the characters that each token of its completion stands for.

    `char_spans` [T, 2] counts the characters of `text` from 0, end exclusive. Neither column ever decreases. Tokens
    around the program, such as a code fence, lie below 0 or beyond the end of `text`. An end token has an empty span.
    `truncated` means that sampling stopped at the length limit.

    Raises:
        ValueError: `char_spans` are not ordered spans.
    """

    text: str
    char_spans: NDArray[np.int32]
    truncated: bool

    def __post_init__(self) -> None:
        spans = self.char_spans
        is_ordered = spans.ndim == 2 and spans.shape[1] == 2 and bool((np.diff(spans, axis=0) >= 0).all())
        if not is_ordered or bool((spans[:, 0] > spans[:, 1]).any()):
            raise ValueError(
                f"char_spans of shape {spans.shape} are not ordered spans [T, 2]; see problems.token_spans.char_spans"
            )


@dataclass(frozen=True, slots=True)
class ProgramReward:
    """The weighted rewards of a greedy decode, before any baseline: what later rollouts of its problem compare with."""

    coarse: float
    adaptive: float

    @property
    def total(self) -> float:
        """The sum, which decides which greedy decode is the best so far."""
        return self.coarse + self.adaptive


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """The rewards of one sampled program and the weights of its tokens.

    `coarse`, `fine`, `adaptive`, `static`, `structure` and `custom` are the plain rewards R, without weights, baseline
    or alpha; `custom` is that of the whole program.
    `category` is None if no test ended in an error. `fine_span` (first, last; both included) counts the program's own
    `num_tokens` tokens from 0 and is None if there is no fine penalty. `token_weights` [G, T] multiplies `-log p` of
    every sampled token, one row per `Granularity`, with everything applied. `blamed` are the lines (from 1) of a wrong
    answer that `rewards.localize` moved weight to, if any. `earlier` are the scores of the turns before this one.
    `filtered` says that the length limit cut it off, so that `rewards.overlong_filter` leaves it out of the loss; all
    weights are 0 then.
    """

    verdict: Verdict
    category: Category | None
    coarse: float
    fine: float
    adaptive: float
    static: float
    structure: float
    custom: float
    fine_span: tuple[int, int] | None
    num_tokens: int
    token_weights: NDArray[np.float32]
    blamed: tuple[int, ...] = ()
    earlier: tuple[ScoredSample, ...] = ()
    filtered: bool = False


@dataclass(frozen=True, slots=True)
class GroupScores:
    """The scores of one rollout, in the order of its samples; None for a sample that could not be graded.

    `greedy` is what the greedy baselines remember about the problem. Pass it as `previous` next time.
    """

    samples: tuple[ScoredSample | None, ...]
    greedy: ProgramReward | None

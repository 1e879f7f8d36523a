"""What the learner trains on: one graded sample, and those of one rollout as they lie in the object store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sandbox.verdict import Outcome
from transport.columns import Column


@dataclass(frozen=True, slots=True)
class Experience:
    """One sample with its token weights.

    `prompt_ids` [P], `token_ids` [T] and behaviour `logprobs` [T] as sampled; `token_weights` [G, T] multiplies
    `-log p` of each token, one row for each `rewards.Granularity` in its order, baseline already subtracted.
    `version` is the oldest weights version that sampled any of its tokens. `reward` is the coarse reward before the
    baseline, `outcome` the program's.
    """

    task_id: str
    completion_id: str
    prompt_ids: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    token_weights: NDArray[np.float32]
    version: int
    reward: float
    outcome: Outcome


class Experiences(list[Experience]):
    """The graded samples of one rollout, which travel and lie in the object store as a few arrays for all of them.

    Sample by sample, a rollout of 20 would be 61 arrays (its prompt, and three a sample) instead of four.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        if not self:
            return Experiences, ()
        return _experiences, (
            [(e.task_id, e.completion_id, e.version, e.reward, e.outcome.value) for e in self],
            Column.of([e.prompt_ids for e in self]),
            Column.of([e.token_ids for e in self]),
            Column.of([e.logprobs for e in self]),
            Column.of([e.token_weights for e in self]),
        )


def _experiences(
    rows: Sequence[tuple[str, str, int, float, str]],
    prompt_ids: Column,
    token_ids: Column,
    logprobs: Column,
    token_weights: Column,
) -> Experiences:
    columns = [column.split(len(rows)) for column in (prompt_ids, token_ids, logprobs, token_weights)]
    return Experiences(
        Experience(task, completion, prompt, tokens, logprob, weights, version, reward, Outcome(outcome))
        for (task, completion, version, reward, outcome), prompt, tokens, logprob, weights in zip(
            rows, *columns, strict=True
        )
    )

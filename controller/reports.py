"""What the workers of the ring tell the driver: counts and a few programs to show, never the data itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rewards import ProgramReward
from sandbox.verdict import Isolation, Outcome, Verdict


@dataclass(frozen=True, slots=True)
class TokenMark:
    """Some characters of a program with the summed weight of their token (what multiplies `-log p`)."""

    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class GradedSample:
    """A graded program to show to people: its verdict, its tokens with their weights."""

    verdict: Verdict
    program: str
    reward: float
    tokens: tuple[TokenMark, ...]


@dataclass(frozen=True, slots=True)
class GradedRollout:
    """What became of one rollout.

    `num_samples` were scored and given to the incarnation `buffer` of the online buffer, `num_passed` of them passed,
    `num_faults` were lost to the grader, one of them by `fault`; `outcomes` counts all of them, `num_tokens` what was
    sampled for them; a worker was busy with it for `seconds`. `greedy` is what the next rollout of the problem must
    know for the greedy baselines. `shown` holds as many graded samples as were asked for. `num_truncated` completions
    reached the token limit. `has_signal` is False if every token weight is 0, so that nothing is learned from them.
    """

    rollout_id: str
    task_id: str
    num_samples: int
    num_passed: int
    num_faults: int
    fault: str
    num_tests: int
    num_tokens: int
    seconds: float
    outcomes: Counter[Outcome]
    isolation: Isolation
    buffer: str
    greedy: ProgramReward | None
    shown: tuple[GradedSample, ...]
    num_truncated: int = 0
    has_signal: bool = True


@dataclass(frozen=True, slots=True)
class EvaluatedRollout:
    """The outcomes of the programs sampled for a held-out problem."""

    task_id: str
    outcomes: tuple[Outcome, ...]

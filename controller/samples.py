"""From a graded rollout to token weights, to what the learner trains on, and to what people are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rltf.learner.data import Experience, Experiences
from rltf.problems.types import Problem
from rltf.rewards import GroupScores, ProgramReward, ProgramTokens, ScoredSample, score_group
from rltf.sandbox.examples import Grade
from rltf.sandbox.verdict import Outcome, Verdict
from rltf.settings import RewardSettings
from rltf.transport.rollouts import Completion, FinishReason, Rollout


@dataclass(frozen=True, slots=True)
class TokenMark:
    """Some characters of a program, and the total weight of their token (which multiplies `-log p`)."""

    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class ShownTurn:
    """One turn of a dialogue to show to people.

    `outcome` is that of the run on the examples, and in the last turn of all tests. `feedback` is what the model read
    next, None in the last turn.
    """

    completion: str
    program: str
    outcome: Outcome
    feedback: str | None
    tokens: tuple[TokenMark, ...]


@dataclass(frozen=True, slots=True)
class GradedSample:
    """A graded program to show to people: its verdict, and its tokens with their weights.

    `completion` is the text that it was taken from, as sampled. `test_numbers` says which of the problem's tests ran.
    `turns` are those of its dialogue, itself last; empty if there was only one.
    """

    verdict: Verdict
    completion: str
    program: str
    reward: float
    tokens: tuple[TokenMark, ...]
    test_numbers: tuple[int, ...]
    turns: tuple[ShownTurn, ...] = ()


def program_tokens(completion: Completion) -> ProgramTokens:
    """The part of a completion that rewards look at."""
    return ProgramTokens(
        text=completion.program,
        char_spans=completion.char_spans - completion.program_start,
        truncated=completion.finish_reason is FinishReason.LENGTH,
    )


@dataclass(frozen=True, slots=True)
class JudgedRollout:
    """The verdicts on the samples of a rollout, and what they and the turns before them are worth."""

    verdicts: list[Verdict]
    scores: GroupScores

    def scored(self, rollout: Rollout) -> list[tuple[Completion, ScoredSample]]:
        """The samples that could be graded, with their scores."""
        pairs = zip(rollout.samples, self.scores.samples, strict=True)
        return [(completion, scored) for completion, scored in pairs if scored is not None]

    def experiences(self, rollout: Rollout) -> Experiences:
        """What the learner trains on: the scored samples, without those that `rewards.overlong_filter` leaves out."""
        return experiences_of(
            [(completion, scored) for completion, scored in self.scored(rollout) if not scored.filtered]
        )


def judge_rollout(
    grade: Grade,
    problem: Problem,
    rollout: Rollout,
    settings: RewardSettings,
    *,
    test_numbers: Sequence[int],
    previous: ProgramReward | None,
    max_tokens: int,
) -> JudgedRollout:
    """Grade the samples by the tests with these numbers, and score their turns (`rewards.score_group`).

    A turn before the last keeps the verdict of its run on the examples, which it failed.

    Raises UserError if `rewards.function` fails.
    """
    by_these = replace(problem, tests=tuple(problem.tests[number] for number in test_numbers))

    def verdict(completion: Completion) -> Verdict:
        return grade(by_these, completion.program, completion.completion_id)

    verdicts = [verdict(completion) for completion in rollout.samples]
    earlier = [
        [(program_tokens(turn.completion), turn.verdict) for turn in completion.earlier]
        for completion in rollout.samples
    ]
    scores = score_group(
        [program_tokens(completion) for completion in rollout.samples],
        verdicts,
        settings,
        greedy=None if rollout.greedy is None else verdict(rollout.greedy),
        previous=previous,
        max_tokens=max_tokens,
        references=problem.references,
        earlier=earlier,
    )
    return JudgedRollout(verdicts, scores)


def experiences_of(graded: Sequence[tuple[Completion, ScoredSample]]) -> Experiences:
    """What the learner needs of the scored completions of one rollout."""
    return Experiences(_experience(completion, scored, graded[0][0].turns[0]) for completion, scored in graded)


def _experience(completion: Completion, scored: ScoredSample, first: Completion) -> Experience:
    """`first` is a first turn of the rollout: its samples share the array of their prompt."""
    turns, num_prompt = completion.turns, len(first.prompt_ids)
    starts = [len(turn.prompt_ids) - num_prompt for turn in turns]
    ends = [start + len(turn.token_ids) for start, turn in zip(starts, turns, strict=True)]
    parts = (*scored.earlier, scored)
    return Experience(
        task_id=completion.task_id,
        completion_id=completion.completion_id,
        prompt_ids=first.prompt_ids,
        token_ids=_joined([completion.prompt_ids[num_prompt:], completion.token_ids]),
        logprobs=_joined([turn.logprobs for turn in turns]),
        token_weights=_joined([part.token_weights for part in parts]),
        version=min(span.version for turn in turns for span in turn.weight_versions),
        reward=scored.coarse,
        outcome=scored.verdict.outcome,
        custom_reward=scored.custom,
        feedback_spans=tuple(zip(ends[:-1], starts[1:], strict=True)),
    )


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Joined along the last axis, without a copy if only one of them holds anything."""
    filled = [array for array in arrays if array.shape[-1]]
    return filled[0] if len(filled) == 1 else np.concatenate(filled, axis=-1)


def shown_sample(completion: Completion, scored: ScoredSample, test_numbers: tuple[int, ...]) -> GradedSample:
    """The sample as people see it."""
    marks = tuple(_marks(completion, scored))
    return GradedSample(
        scored.verdict,
        completion.text,
        completion.program,
        scored.coarse,
        marks,
        test_numbers,
        tuple(_shown_turns(completion, scored, marks)) if completion.earlier else (),
    )


def _shown_turns(completion: Completion, scored: ScoredSample, marks: tuple[TokenMark, ...]) -> Iterator[ShownTurn]:
    for turn, part in zip(completion.earlier, scored.earlier, strict=True):
        one = turn.completion
        tokens = tuple(_marks(one, part))
        yield ShownTurn(one.text, one.program, turn.verdict.outcome, turn.feedback, tokens)
    yield ShownTurn(completion.text, completion.program, scored.verdict.outcome, None, marks)


def _marks(completion: Completion, scored: ScoredSample) -> Iterator[TokenMark]:
    """The tokens of the program, each with its weight."""
    weights = scored.token_weights.sum(axis=0)
    end = completion.program_start
    for (_, last), weight in zip(completion.char_spans.tolist(), weights.tolist(), strict=True):
        last = min(last, completion.program_end)
        if last > end:
            yield TokenMark(completion.text[end:last], round(weight, 4))
            end = last

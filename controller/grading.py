"""Grading: a rollout in, its graded and scored samples to the buffer, counts and a few programs to the controller."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray

from rltf.learner.buffer import Added
from rltf.learner.data import Experience, Experiences
from rltf.problems.types import Problem
from rltf.rewards import ProgramReward, ProgramTokens, ScoredSample, score_group
from rltf.rewards.custom import check_function
from rltf.sandbox.verdict import Isolation, Outcome, Verdict
from rltf.sandbox.worker import SandboxWorker
from rltf.settings import RewardSettings, SandboxSettings
from rltf.transport.rollouts import Completion, FinishReason, Rollout

FETCH_TIMEOUT_S = 60.0
# A buffer that died is up again within seconds, or half a minute if it moves to another node.
BUFFER_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class TokenMark:
    """Some characters of a program, and the total weight of their token (which multiplies `-log p`)."""

    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class GradedSample:
    """A graded program to show to people: its verdict, and its tokens with their weights.

    `completion` is the text that it was taken from, as sampled. `test_numbers` says which of the problem's tests ran.
    """

    verdict: Verdict
    completion: str
    program: str
    reward: float
    tokens: tuple[TokenMark, ...]
    test_numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GradedRollout:
    """What became of one rollout.

    `num_samples` were scored, and `num_passed` of them passed; the buffer answered `added`, None if there were none or
    if they teach nothing and `rewards.filter_groups` drops them.
    `num_faults` were lost to errors of the grader, the last of them `fault`. `outcomes` counts all of them,
    `num_tokens` the tokens sampled for them; a worker was busy with it for `seconds`. `greedy` is what the greedy
    baselines need to know for the problem's next rollout. `shown` holds as many graded samples as were asked for.
    `num_truncated` completions reached the token limit. `has_signal` is False if every token weight is 0, so that
    nothing is learned from them.
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
    added: Added | None
    greedy: ProgramReward | None
    shown: tuple[GradedSample, ...]
    num_truncated: int = 0
    has_signal: bool = True


@dataclass(frozen=True, slots=True)
class UngradedRollout:
    """A rollout that killed every worker that tried to grade it, and `why`. `programs` are by completion id."""

    task_id: str
    why: str
    programs: Mapping[str, str]


class GradingWorker(SandboxWorker):
    """Runs the programs of a rollout, scores them, and hands the experiences to the buffer.

    It fetches rollouts from the object store, and experiences go straight to the buffer: the caller only sees counts.
    """

    def __init__(
        self,
        problems: Mapping[str, Problem],
        settings: SandboxSettings,
        rewards: RewardSettings,
        buffer: Any,
        max_tokens: int,
    ) -> None:
        super().__init__(problems, settings)
        self._rewards = rewards
        self._max_tokens = max_tokens
        self._buffer = buffer

    def start(self) -> None:
        """Start the sandbox. Raises UserError as every worker, and if `rewards.function` does not work on this node."""
        if self._rewards.function is not None and self._rewards.uses_function:
            check_function(self._rewards.function)
        super().start()

    def grade_rollout(
        self, ref: list[ray.ObjectRef[Rollout]], previous: ProgramReward | None, num_shown: int
    ) -> GradedRollout:
        """Grade and score a rollout, and put its experiences into the buffer.

        `ref` is wrapped in a list so that Ray passes the reference itself. `previous` is the problem's last
        `GradedRollout.greedy`. The first `num_shown` samples are returned to be shown.

        Raises UserError if `rewards.function` fails.
        """
        began = time.monotonic()
        rollout = ray.get(ref[0], timeout=FETCH_TIMEOUT_S)
        problem = self.problems[rollout.task_id]
        chosen = chosen_tests(problem, self._settings.max_tests, rollout.rollout_id)
        graded_by = replace(problem, tests=tuple(problem.tests[number] for number in chosen))
        verdicts = [self._verdict(graded_by, completion) for completion in rollout.samples]
        greedy = None if rollout.greedy is None else self._verdict(graded_by, rollout.greedy)
        scores = score_group(
            [program_tokens(completion) for completion in rollout.samples],
            verdicts,
            self._rewards,
            greedy=greedy,
            previous=previous,
            max_tokens=self._max_tokens,
            references=problem.references,
        )
        graded = [
            (completion, verdict, scored)
            for completion, verdict, scored in zip(rollout.samples, verdicts, scores.samples, strict=True)
            if scored is not None
        ]
        has_signal = any(scored.token_weights.any() for _, _, scored in graded)
        added = None
        if graded and (has_signal or not self._rewards.filter_groups):
            experiences = Experiences(experience(completion, scored) for completion, _, scored in graded)
            added = ray.get(self._buffer.add.remote(rollout.rollout_id, experiences), timeout=BUFFER_TIMEOUT_S)
        return GradedRollout(
            rollout_id=rollout.rollout_id,
            task_id=rollout.task_id,
            num_samples=len(graded),
            num_passed=sum(verdict.passed for _, verdict, _ in graded),
            num_faults=len(verdicts) - len(graded),
            fault=self.sandbox.last_grader_error,
            num_tests=sum(len(verdict.tests) for verdict in verdicts),
            num_tokens=sum(len(completion.token_ids) for completion in rollout.samples),
            seconds=time.monotonic() - began,
            outcomes=Counter(verdict.outcome for verdict in verdicts),
            isolation=self.isolation,
            added=added,
            greedy=scores.greedy,
            shown=tuple(_shown(*triple, chosen) for triple in graded[:num_shown]),
            num_truncated=sum(completion.finish_reason is FinishReason.LENGTH for completion in rollout.samples),
            has_signal=has_signal,
        )

    def evaluate_rollout(self, ref: list[ray.ObjectRef[Rollout]]) -> list[Outcome]:
        """The outcomes of the programs sampled for a held-out problem. They never reach the buffer."""
        rollout = ray.get(ref[0], timeout=FETCH_TIMEOUT_S)
        problem = self.problems[rollout.task_id]
        return [self._verdict(problem, completion).outcome for completion in rollout.completions]

    def _verdict(self, problem: Problem, completion: Completion) -> Verdict:
        return self.sandbox.grade(problem, completion.program, completion.completion_id)


def chosen_tests(problem: Problem, max_tests: int | None, rollout_id: str) -> tuple[int, ...]:
    """The numbers of the tests that the programs of a rollout run: all, or a random choice, the same for all of them.

    Each rollout of a problem gets another choice, so that no test can be ignored for long.
    """
    num_tests = len(problem.tests)
    if max_tests is None or num_tests <= max_tests:
        return tuple(range(num_tests))
    return tuple(sorted(random.Random(rollout_id).sample(range(num_tests), max_tests)))


def program_tokens(completion: Completion) -> ProgramTokens:
    """The part of a completion that rewards look at."""
    return ProgramTokens(
        text=completion.program,
        char_spans=completion.char_spans - completion.program_start,
        truncated=completion.finish_reason is FinishReason.LENGTH,
    )


def experience(completion: Completion, scored: ScoredSample) -> Experience:
    """What the learner needs of a scored completion."""
    return Experience(
        task_id=completion.task_id,
        completion_id=completion.completion_id,
        prompt_ids=completion.prompt_ids,
        token_ids=completion.token_ids,
        logprobs=completion.logprobs,
        token_weights=scored.token_weights,
        version=min(span.version for span in completion.weight_versions),
        reward=scored.coarse,
        outcome=scored.verdict.outcome,
        custom_reward=scored.custom,
    )


def _shown(
    completion: Completion, verdict: Verdict, scored: ScoredSample, test_numbers: tuple[int, ...]
) -> GradedSample:
    weights = scored.token_weights.sum(axis=0)
    marks = []
    end = completion.program_start
    for (_, last), weight in zip(completion.char_spans.tolist(), weights.tolist(), strict=True):
        last = min(last, completion.program_end)
        if last > end:
            marks.append(TokenMark(completion.text[end:last], round(weight, 4)))
            end = last
    return GradedSample(verdict, completion.text, completion.program, scored.coarse, tuple(marks), test_numbers)

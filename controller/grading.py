"""Grading: a rollout in, its graded and scored samples to the buffer, counts and a few programs to the controller."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

from rltf.controller.dialogues import OpenTurn
from rltf.controller.samples import GradedSample, judge_rollout, shown_sample
from rltf.learner.buffer import Added
from rltf.problems.types import Problem
from rltf.rewards import ProgramReward
from rltf.rewards.custom import check_function
from rltf.sandbox.examples import ExampleVerdict, confirmed, ends_dialogue, judge_examples
from rltf.sandbox.feedback import feedback
from rltf.sandbox.verdict import Isolation, Outcome, Verdict
from rltf.sandbox.worker import SandboxWorker
from rltf.settings import RewardSettings, SandboxSettings
from rltf.transport.rollouts import Completion, EarlierTurn, FinishReason, Rollout, merged

FETCH_TIMEOUT_S = 60.0
# A buffer that died is up again within seconds, or half a minute if it moves to another node.
BUFFER_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class GradedRollout:
    """What became of one rollout.

    `num_samples` were scored, and `num_passed` of them passed. `rewards.overlong_filter` left out `num_overlong`. For
    the others, the buffer answered `added`, None if there were none or if they teach nothing and
    `rewards.filter_groups` drops them.
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
    num_overlong: int = 0
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
        rollout_store: Any,
        max_tokens: int,
    ) -> None:
        super().__init__(problems, settings)
        self._rewards = rewards
        self._max_tokens = max_tokens
        self._buffer = buffer
        self._rollout_store = rollout_store
        self._confirmed: dict[str, Problem] = {}

    def start(self) -> None:
        """Start the sandbox. Raises UserError as every worker, and if `rewards.function` does not work on this node."""
        if self._rewards.function is not None and self._rewards.uses_function:
            check_function(self._rewards.function)
        super().start()

    def examine_rollout(self, refs: list[ray.ObjectRef[Rollout]]) -> list[OpenTurn]:
        """Run the programs of a rollout on the examples of their problem.

        Returns the turns whose dialogue goes on, with what the model reads next. They are in the rollout store.
        """
        rollout = _fetched(refs)
        problem = self._with_confirmed_examples(rollout.task_id)
        turns = {
            place: EarlierTurn(completion, feedback(problem, completion.program, verdict), verdict)
            for place, completion in enumerate(rollout.completions)
            if (verdict := self._on_examples(problem, completion)) is not None and not ends_dialogue(verdict)
        }
        if not turns:
            return []
        kept = ray.get(self._rollout_store.keep_turns.remote(list(turns.values())), timeout=FETCH_TIMEOUT_S)
        return [OpenTurn(place, ref) for place, ref in zip(turns, kept, strict=True)]

    def _with_confirmed_examples(self, task_id: str) -> Problem:
        """The problem without the examples that its references fail."""
        if task_id not in self._confirmed:
            self._confirmed[task_id] = confirmed(self.sandbox.grade, self.problems[task_id])
        return self._confirmed[task_id]

    def _on_examples(self, problem: Problem, completion: Completion) -> ExampleVerdict | None:
        """The verdict of a run on the examples; None if there are none."""
        if not problem.examples:
            return None
        return judge_examples(self.sandbox.grade, problem, completion.program, completion.completion_id)

    def grade_rollout(
        self, refs: list[ray.ObjectRef[Rollout]], previous: ProgramReward | None, num_shown: int
    ) -> GradedRollout:
        """Grade and score a rollout, and put its experiences into the buffer.

        `refs` are those of `RolloutHandle`. `previous` is the problem's last `GradedRollout.greedy`. The first
        `num_shown` samples are returned to be shown.

        Raises UserError if `rewards.function` fails.
        """
        began = time.monotonic()
        rollout = _fetched(refs)
        problem = self.problems[rollout.task_id]
        chosen = chosen_tests(problem, self._settings.max_tests, rollout.rollout_id)
        judged = judge_rollout(
            self.sandbox.grade, problem, rollout, self._rewards,
            test_numbers=chosen, previous=previous, max_tokens=self._max_tokens,
        )  # fmt: skip
        graded = judged.scored(rollout)
        experiences = judged.experiences(rollout)
        has_signal = any(each.token_weights.any() for each in experiences)
        added = None
        if experiences and (has_signal or not self._rewards.filter_groups):
            added = ray.get(self._buffer.add.remote(rollout.rollout_id, experiences), timeout=BUFFER_TIMEOUT_S)
        turns = [turn for completion in rollout.samples for turn in completion.turns]
        return GradedRollout(
            rollout_id=rollout.rollout_id,
            task_id=rollout.task_id,
            num_samples=len(graded),
            num_passed=sum(scored.verdict.passed for _, scored in graded),
            num_faults=len(judged.verdicts) - len(graded),
            fault=self.sandbox.last_grader_error,
            num_tests=sum(len(verdict.tests) for verdict in judged.verdicts),
            num_tokens=sum(len(turn.token_ids) for turn in turns),
            seconds=time.monotonic() - began,
            outcomes=Counter(verdict.outcome for verdict in judged.verdicts),
            isolation=self.isolation,
            added=added,
            greedy=judged.scores.greedy,
            shown=tuple(shown_sample(*pair, chosen) for pair in graded[:num_shown]),
            num_truncated=sum(turn.finish_reason is FinishReason.LENGTH for turn in turns),
            num_overlong=len(graded) - len(experiences),
            has_signal=has_signal,
        )

    def evaluate_rollout(self, refs: list[ray.ObjectRef[Rollout]]) -> list[list[Outcome]]:
        """The outcomes of the programs sampled for a held-out problem, turn by turn. They never reach the buffer."""
        rollout = _fetched(refs)
        problem = self.problems[rollout.task_id]
        return [[self._verdict(problem, turn).outcome for turn in one.turns] for one in rollout.completions]

    def _verdict(self, problem: Problem, completion: Completion) -> Verdict:
        return self.sandbox.grade(problem, completion.program, completion.completion_id)


def _fetched(refs: list[ray.ObjectRef[Rollout]]) -> Rollout:
    """The rollout of a `RolloutHandle`, with the last turn of each dialogue."""
    return merged(ray.get(refs, timeout=FETCH_TIMEOUT_S))


def chosen_tests(problem: Problem, max_tests: int | None, rollout_id: str) -> tuple[int, ...]:
    """The numbers of the tests that the programs of a rollout run: all, or a random choice, the same for all of them.

    Each rollout of a problem gets another choice, so that no test can be ignored for long.
    """
    num_tests = len(problem.tests)
    if max_tests is None or num_tests <= max_tests:
        return tuple(range(num_tests))
    return tuple(sorted(random.Random(rollout_id).sample(range(num_tests), max_tests)))

"""Dialogues in which a model repairs its own program: prompt, answer, feedback, answer, and so on.

A dialogue ends as soon as a program passes the problem's examples, or after the last turn. The tests that grade the
programs run only after that, so nothing of them can decide or say anything (`sandbox/examples.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from rltf.errors import UserError
from rltf.evaluation.history import HistoryRow
from rltf.evaluation.passes import ALL, Tally, bootstrap_interval
from rltf.evaluation.resampling import Attempt, resampled
from rltf.problems import LoadedProblems, Problem
from rltf.problems.examples import reason_for_none
from rltf.problems.fingerprints import some
from rltf.problems.prompts import Exchange
from rltf.sandbox.examples import ExampleVerdict, Grade, confirmed, ends_dialogue, judge_examples
from rltf.sandbox.feedback import feedback
from rltf.sandbox.verdict import Outcome

logger = logging.getLogger(__name__)


class Turn(BaseModel):
    """One answer of a dialogue, as `samples.jsonl` holds it.

    `examples` is the outcome on the examples; None if the problem has none. `feedback` is what the model read then;
    None if the dialogue ended. `outcome` is that of all tests; None until the dialogue has ended. Tokens are None if
    the server does not count them.
    """

    model_config = ConfigDict(frozen=True)

    completion: str = ""
    code: str = ""
    examples: Outcome | None = None
    feedback: str | None = None
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    outcome: Outcome | None = None


class DialogueRow(HistoryRow):
    """The last program of a dialogue, with all of its turns."""

    turns: tuple[Turn, ...] = ()

    def graded(self, outcome: Outcome, grade: Callable[[str], Outcome]) -> dict[str, Any]:
        outcomes = [*(grade(turn.code) for turn in self.turns[:-1]), outcome]
        turns = zip(self.turns, outcomes, strict=True)
        return {"turns": [turn.model_copy(update={"outcome": one}).model_dump(mode="json") for turn, one in turns]}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote in one turn, and the program in it."""

    text: str
    program: str
    prompt_tokens: int | None
    completion_tokens: int | None


class Examiner:
    """Judges the programs of dialogues on the examples, `num_workers` at a time. `grade` must be thread-safe.

    A context manager: on exit, programs that wait are not run any more, and those that run end first.
    """

    def __init__(self, grade: Grade, num_workers: int) -> None:
        self.grade = grade
        self._confirmed: dict[str, Problem] = {}
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="examples")

    def __enter__(self) -> Examiner:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, dialogue: Dialogue, answer: Answer) -> Future[None]:
        """Add an answer to a dialogue, in another thread."""
        return self._pool.submit(dialogue.take, answer, self)

    def judge(self, problem: Problem, program: str, completion_id: str) -> Future[ExampleVerdict | None]:
        """What `verdict` says of a program, in another thread."""
        return self._pool.submit(self.verdict, problem, program, completion_id)

    def verdict(self, problem: Problem, program: str, completion_id: str) -> ExampleVerdict | None:
        """The verdict on the problem's examples; None if it has none that its references pass."""
        problem = self.confirmed(problem)
        return judge_examples(self.grade, problem, program, completion_id) if problem.examples else None

    def confirmed(self, problem: Problem) -> Problem:
        """The problem without the examples that its references fail."""
        if problem.task_id not in self._confirmed:  # two threads may both find out, and agree
            self._confirmed[problem.task_id] = confirmed(self.grade, problem)
        return self._confirmed[problem.task_id]


class Dialogue:
    """One dialogue about a problem, of at most `max_turns` turns.

    `verdict` is that of the newest answer's run on the examples, None if there are none.
    """

    def __init__(self, problem: Problem, number: int, max_turns: int) -> None:
        self.problem = problem
        self.completion_id = f"{problem.task_id}/{number}"
        self.turns: list[Turn] = []
        self.verdict: ExampleVerdict | None = None
        self.is_over = False
        self._max_turns = max_turns

    @property
    def exchanges(self) -> list[Exchange]:
        """The answers so far, each with what was said about it."""
        return [Exchange(turn.completion, turn.feedback or "") for turn in self.turns]

    def take(self, answer: Answer, examiner: Examiner) -> None:
        """Add an answer. This runs its program on the examples."""
        problem = examiner.confirmed(self.problem)
        verdict = examiner.verdict(self.problem, answer.program, self.completion_id)
        is_last = len(self.turns) + 1 == self._max_turns
        self.is_over = verdict is None or ends_dialogue(verdict) or is_last
        turn = Turn(
            completion=answer.text,
            code=answer.program,
            examples=verdict.outcome if verdict else None,
            feedback=None if self.is_over or verdict is None else feedback(problem, answer.program, verdict),
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
        )
        self.turns.append(turn)
        self.verdict = verdict

    def end(self) -> None:
        """End the dialogue because the next prompt leaves no room for an answer."""
        self.turns = self.turns or [Turn()]
        self.is_over = True

    def row(self) -> tuple[DialogueRow, Problem]:
        """The last program, to be graded."""
        last = self.turns[-1]
        row = DialogueRow(
            task_id=self.problem.task_id,
            completion_id=self.completion_id,
            code=last.code,
            completion=last.completion,
            turns=tuple(self.turns),
        )
        return row, self.problem


def check_examples(loaded: LoadedProblems, option: str, instead: str) -> None:
    """Log which problems have no examples, and what they get `instead` of what the `option` asks for.

    Raises UserError if none has any.
    """
    without = [problem for problem in loaded.problems if not problem.examples]
    if not without:
        return
    reason = reason_for_none(without[0])
    if len(without) == len(loaded.problems):
        raise UserError(
            f"{option}: no problem has examples that a model may see (problem {without[0].task_id}: {reason}); "
            "evaluate without it"
        )
    logger.warning(
        "%d of %d problems have no examples and get %s (%s); %s: %s",
        *(len(without), len(loaded.problems), instead, some([one.task_id for one in without])),
        *(without[0].task_id, reason),
    )


class TurnCounts:
    """What the programs were worth after each turn. A dialogue that has ended keeps its last program."""

    key = "turns"
    row = DialogueRow

    def __init__(self, problems: Sequence[Problem], turns: int) -> None:
        self._tallies = [Tally(problems) for _ in range(turns)]
        self._kept = [Tally(problems) for _ in range(turns)]
        self._attempts: dict[str, list[Attempt]] = {problem.task_id: [] for problem in problems}
        self._num_answers = [0] * turns
        self._tokens: list[tuple[int | None, int | None]] = [(0, 0)] * turns

    def add(self, task_id: str, row: Mapping[str, Any]) -> None:
        """Count one stored dialogue."""
        turns = DialogueRow.model_validate(row).turns
        first = turns[0]
        if first.outcome not in (None, Outcome.INFRASTRUCTURE_ERROR):
            is_shown = first.examples in (None, Outcome.PASSED)  # without examples there is one attempt
            attempt = Attempt(is_shown, first.outcome is Outcome.PASSED, first.completion_tokens or 0)
            self._attempts[task_id].append(attempt)
        for number, tally in enumerate(self._tallies):
            turn = turns[min(number, len(turns) - 1)]
            outcome = turn.outcome or Outcome.INFRASTRUCTURE_ERROR
            tally.add(task_id, outcome)
            if turn.examples in (None, Outcome.PASSED):
                self._kept[number].add(task_id, outcome)
            if number < len(turns):
                self._num_answers[number] += 1
                prompt, completion = self._tokens[number]
                self._tokens[number] = _sum(prompt, turn.prompt_tokens), _sum(completion, turn.completion_tokens)

    def results(self, ks: Sequence[int]) -> list[dict[str, Any]]:
        """What `results.json` says of each turn: pass@1, whatever the `ks` are."""
        return [self._of_turn(number) for number in range(len(self._tallies))]

    def _of_turn(self, number: int) -> dict[str, Any]:
        tally, kept = self._tallies[number], self._kept[number]
        values: dict[str, dict[str, float]] = {"pass@1": {}, "filtered": {}}
        intervals: dict[str, dict[str, list[float]]] = {"pass@1": {}, "filtered": {}}
        for group, task_ids in tally.groups().items():
            plain = [tally.pass_at_k(task_id, 1) for task_id in task_ids]
            filtered = [kept.pass_at_k(task_id, 1) if kept.num_samples[task_id] else 0.0 for task_id in task_ids]
            for name, found in (("pass@1", plain), ("filtered", filtered)):
                if found:
                    values[name][group] = float(np.mean(found))
                    intervals[name][group] = list(bootstrap_interval(np.array(found)))
        prompt_tokens, completion_tokens = self._tokens[number]
        return {
            "turn": number + 1,
            **values,
            "intervals": intervals,
            "resampled": self._resampled(number + 1),
            "answers": self._num_answers[number],
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
        }

    def _resampled(self, most: int) -> dict[str, Any] | None:
        """The same number of attempts without feedback; None if a problem has fewer samples than that."""
        all_attempts = [attempts for attempts in self._attempts.values() if attempts]
        if not all_attempts or min(map(len, all_attempts)) < most:
            return None
        found = [resampled(attempts, most) for attempts in all_attempts]
        passed = np.array([rate for rate, _ in found])
        tokens = sum(tokens * len(attempts) for (_, tokens), attempts in zip(found, all_attempts, strict=True))
        return {
            "pass@1": float(passed.mean()),
            "interval": list(bootstrap_interval(passed)),
            "completion_tokens": round(tokens) if None not in self._tokens[0] else None,
        }


def _sum(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more


def turn_lines(turns: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The lines of the printed table, one for each turn."""
    for turn in turns:
        shown = []
        for name in ("pass@1", "filtered"):
            low, high = turn["intervals"][name][ALL]
            shown.append(f"{name} {turn[name][ALL]:7.2%} [{low:.2%}, {high:.2%}]")
        tokens = f"{count_text(turn['prompt_tokens'])} + {count_text(turn['completion_tokens'])} tokens"
        yield f"turn {turn['turn']}: {'   '.join(shown)}   {turn['answers']:,} answers, {tokens}"
        if turn["turn"] > 1 and (other := turn["resampled"]) is not None:
            low, high = other["interval"]
            yield (
                f"  {turn['turn']} attempts without feedback: pass@1 {other['pass@1']:7.2%} [{low:.2%}, {high:.2%}]   "
                f"{count_text(other['completion_tokens'])} completion tokens"
            )


def count_text(number: int | None) -> str:
    """A number as a table shows it."""
    return "?" if number is None else f"{number:,}"

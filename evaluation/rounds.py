"""The two rounds of critic sampling for a problem, with its examples as the only tests.

1. The policy samples N programs, which run on the examples.
2. If some pass, *refine* them: each is cut at the prefix that the critic likes best, and the policy writes another end.
   If none passes, *repair*: the best go to the repair model, with what they did on the examples. Both give N programs.

A prefix consists of the ids that were sampled. Text that is encoded again may give others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, chain, islice
from math import ceil
from typing import Any

import numpy as np

from rltf.actors.engine import SamplingRequest
from rltf.actors.messages import RolloutRequest
from rltf.evaluation.candidates import Candidate, CandidateRow, Origin
from rltf.evaluation.sampler import Sampler, finished
from rltf.evaluation.sources import Programs
from rltf.evaluation.turns import Examiner
from rltf.learner.critic import ErrorCritic
from rltf.learner.data import TokenSequence
from rltf.learner.error_classes import ERROR_CLASSES
from rltf.learner.prefix_scores import ProgramScores, score_programs
from rltf.problems import Problem
from rltf.problems.prompts import answer_end_id, encode_prompt, repair_exchange
from rltf.sandbox.examples import ExampleVerdict
from rltf.sandbox.feedback import feedback
from rltf.sandbox.grading import ProgramRow
from rltf.sandbox.verdict import Outcome
from rltf.seeds import seed_of
from rltf.transport.rollouts import Completion, FinishReason


@dataclass(frozen=True, slots=True)
class Task:
    """A problem, of which the first `num_stored` rows are stored.

    `request` is for the programs of its first round; None if its prompt leaves no room for one.
    """

    problem: Problem
    request: SamplingRequest | None
    num_stored: int


@dataclass(frozen=True, slots=True)
class _Judged:
    """A program of plain sampling, with what the examples and the critic say about it."""

    candidate: Candidate
    completion: Completion
    verdict: ExampleVerdict | None
    scores: ProgramScores | None

    @property
    def rank(self) -> float:
        """Lower is better. Without a critic, all are equal."""
        return 0.0 if self.scores is None else -self.scores.whole


@dataclass(frozen=True, slots=True)
class _Made:
    """A program of the second round."""

    completion: Completion
    made_from: int
    prompt_tokens: int
    prefix_tokens: int = 0

    @property
    def completion_tokens(self) -> int:
        """The tokens that were sampled for it."""
        return len(self.completion.token_ids) - self.prefix_tokens


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Takes problems through both rounds, many at a time. Each round draws with seeds of its own."""

    policy: Sampler
    examiner: Examiner
    critic: ErrorCritic | None
    repair: Sampler | None
    num_repaired: int
    at_budget: bool

    def run(self, tasks: Iterable[Task]) -> Generator[tuple[ProgramRow, Problem] | None]:
        """The rows of each problem that are not stored, as soon as both rounds are over."""
        samplers = [self.policy] if self.repair is None else [self.policy, self.repair]
        return finished([partial(self._rows, task) for task in tasks], samplers)

    @property
    def _num_samples(self) -> int:
        return self.policy.model.num_samples

    async def _rows(self, task: Task) -> Programs:
        problem, request = task.problem, task.request
        if request is None:
            rows = [_row(problem, "", "", (Candidate(number=number),)) for number in range(self._num_samples)]
        else:
            first = await self._first_round(problem, request)
            origin, second = await self._second_round(problem, request, first)
            further = await self._further(problem, request, first, second) if second and self.at_budget else []
            rows = [
                _row_of(problem, judged, further[number :: self._num_samples], origin, second[number : number + 1])
                for number, judged in enumerate(first)
            ]
        return [(row, problem) for row in rows[task.num_stored :]]

    async def _first_round(self, problem: Problem, request: SamplingRequest) -> list[_Judged]:
        return await self._judged(problem, await self.policy.sample(request), start=0, critic=self.critic)

    async def _further(
        self, problem: Problem, request: SamplingRequest, first: Sequence[_Judged], second: Sequence[_Made]
    ) -> list[_Judged]:
        """As many more plain programs as the tokens of the second round buy, at the mean length of the first."""
        mean = np.mean([one.candidate.completion_tokens for one in first])
        count = ceil(sum(one.completion_tokens for one in second) / mean)
        asked = self._drawn(request, "further", 2, num_samples=count)
        completions = await self.policy.sample(SamplingRequest(asked, request.prompt_ids))
        return await self._judged(problem, completions, start=len(first), critic=None)

    async def _judged(
        self, problem: Problem, completions: Sequence[Completion], *, start: int, critic: ErrorCritic | None
    ) -> list[_Judged]:
        """Plain programs, numbered from `start`, after their run on the examples."""
        running = [
            asyncio.wrap_future(self.examiner.judge(problem, one.program, f"{problem.task_id}/{number}"))
            for number, one in enumerate(completions, start)
        ]
        scores: Sequence[ProgramScores | None] = [None] * len(completions)
        if critic is not None:
            scores = score_programs(critic, [self._with_end(one) for one in completions])
        verdicts = await asyncio.gather(*running)
        return [
            _Judged(_candidate(number, *found), *found)
            for number, found in enumerate(zip(completions, verdicts, scores, strict=True), start)
        ]

    def _with_end(self, completion: Completion) -> TokenSequence:
        """What the critic reads: as in its training, the end token is last."""
        token_ids = completion.token_ids
        if completion.finish_reason is not FinishReason.STOP:
            prompter = self.policy.prompter
            token_ids = np.append(token_ids, np.int32(answer_end_id(prompter.tokenizer, chat=prompter.form.chat)))
        return TokenSequence(completion.prompt_ids, token_ids)

    async def _second_round(
        self, problem: Problem, request: SamplingRequest, first: Sequence[_Judged]
    ) -> tuple[Origin, list[_Made]]:
        """The programs of the second round, none if there is nothing to refine or to repair."""
        passing = [one for one in first if one.candidate.examples is Outcome.PASSED]
        failing = [
            one for one in first if one.candidate.examples not in (None, Outcome.PASSED, Outcome.INFRASTRUCTURE_ERROR)
        ]
        jobs: Iterable[Coroutine[Any, Any, list[_Made]]] = ()
        origin = Origin.REFINE if passing else Origin.REPAIR
        if passing and self.critic is not None:
            jobs = self._refinements(request, sorted(passing, key=lambda one: one.rank))
        elif failing and not passing and self.repair is not None:
            jobs = self._repairs(problem, request, sorted(failing, key=lambda one: one.rank), self.repair)
        return origin, list(chain.from_iterable(await asyncio.gather(*jobs)))

    def _refinements(
        self, request: SamplingRequest, passing: Sequence[_Judged]
    ) -> Iterator[Coroutine[Any, Any, list[_Made]]]:
        counts = spread(self._num_samples, len(passing))
        for judged, count, offset in zip(passing, counts, accumulate(counts, initial=0), strict=False):
            yield self._refined(request, judged, count, offset)

    async def _refined(self, request: SamplingRequest, judged: _Judged, count: int, offset: int) -> list[_Made]:
        """`count` programs with the best prefix of one that passes the examples, and other ends."""
        assert judged.scores is not None
        max_tokens, number = request.rollout.max_tokens, judged.candidate.number
        room = min(max_tokens, self.policy.model.settings.max_model_len - len(request.prompt_ids))
        num_kept = judged.scores.cut(min(program_tokens(judged.completion), room - 1))
        asked = self._drawn(request, f"refine/{number}", 1, offset, num_samples=count, max_tokens=max_tokens - num_kept)
        prefix = judged.completion.token_ids[:num_kept].tolist()
        completions = await self.policy.sample(SamplingRequest(asked, request.prompt_ids, prefix_ids=prefix))
        return [_Made(one, number, len(request.prompt_ids) + num_kept, num_kept) for one in completions]

    def _repairs(
        self, problem: Problem, request: SamplingRequest, failing: Sequence[_Judged], repair: Sampler
    ) -> Iterator[Coroutine[Any, Any, list[_Made]]]:
        prompts = list(islice(self._repair_prompts(problem, failing, repair), self.num_repaired))
        counts = spread(self._num_samples, len(prompts))
        for (number, ids), count, offset in zip(prompts, counts, accumulate(counts, initial=0), strict=False):
            asked = self._drawn(request, f"repair/{number}", 1, offset, num_samples=count)
            yield _repaired(repair, SamplingRequest(asked, ids), number)

    def _repair_prompts(
        self, problem: Problem, failing: Sequence[_Judged], repair: Sampler
    ) -> Iterator[tuple[int, list[int]]]:
        """The numbers of the programs and the prompts, of those that leave room for an answer."""
        confirmed, prompter = self.examiner.confirmed(problem), repair.prompter
        for one in failing:
            assert one.verdict is not None
            program = one.completion.program
            exchange = repair_exchange(program, feedback(confirmed, program, one.verdict), prompter.form)
            ids = encode_prompt(problem, prompter.tokenizer, prompter.form, [exchange])
            if len(ids) < repair.model.settings.max_model_len:
                yield one.candidate.number, ids

    def _drawn(
        self, request: SamplingRequest, name: str, round_number: int, offset: int = 0, **changes: Any
    ) -> RolloutRequest:
        """The rollout of another request for a problem, with seeds that no other round draws with."""
        asked = request.rollout
        seed = seed_of(asked.seed, round_number) + offset
        return replace(asked, rollout_id=f"{request.request_id}/{name}", seed=seed, **changes)


async def _repaired(repair: Sampler, request: SamplingRequest, number: int) -> list[_Made]:
    """Corrections of the failing program `number`."""
    return [_Made(one, number, len(request.prompt_ids)) for one in await repair.sample(request)]


def spread(total: int, num_parts: int) -> list[int]:
    """`total` in equal parts, with one more for the first ones if it does not divide."""
    return [total // num_parts + (part < total % num_parts) for part in range(num_parts)]


def program_tokens(completion: Completion) -> int:
    """The tokens up to the end of the program. What comes after it cannot change it."""
    return int((completion.char_spans[:, 0] < completion.program_end).sum())


def _candidate(
    number: int, completion: Completion, verdict: ExampleVerdict | None, scores: ProgramScores | None
) -> Candidate:
    return Candidate(
        number=number,
        code=completion.program,
        completion=completion.text,
        examples=verdict.outcome if verdict is not None else None,
        predicted=ERROR_CLASSES[scores.error_class] if scores is not None else None,
        score=scores.whole if scores is not None else None,
        prompt_tokens=len(completion.prompt_ids),
        completion_tokens=len(completion.token_ids),
    )


def _row_of(
    problem: Problem, judged: _Judged, further: Sequence[_Judged], origin: Origin, made: Sequence[_Made]
) -> CandidateRow:
    """The row of a program that was `made` in the second round or, if none was, of the plain one."""
    plain = (judged.candidate, *(one.candidate for one in further))
    if not made:
        return _row(problem, judged.completion.program, judged.completion.text, plain)
    (one,) = made
    row = _row(problem, one.completion.program, one.completion.text, plain)
    return row.model_copy(
        update={
            "origin": origin,
            "made_from": one.made_from,
            "prefix_tokens": one.prefix_tokens,
            "prompt_tokens": one.prompt_tokens,
            "completion_tokens": one.completion_tokens,
        }
    )


def _row(problem: Problem, code: str, text: str, plain: tuple[Candidate, ...]) -> CandidateRow:
    completion_id = f"{problem.task_id}/{plain[0].number}"
    return CandidateRow(task_id=problem.task_id, completion_id=completion_id, code=code, completion=text, plain=plain)

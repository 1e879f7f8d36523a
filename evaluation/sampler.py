"""A model whose samples can be awaited, so that many conversations with it can be written one after another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from rltf.actors.engine import FinishedRequest, SampledSequence, SamplingRequest
from rltf.actors.prompting import Prompter
from rltf.evaluation.sources import Programs
from rltf.learner.data import Ids
from rltf.problems import Problem
from rltf.sandbox.grading import ProgramRow
from rltf.transport.rollouts import Completion

if TYPE_CHECKING:
    from rltf.evaluation.model import SampledModel

_IDLE_S = 0.02  # between two looks at the programs that run, while nothing is sampled

Conversation = Callable[[], Coroutine[Any, Any, Programs]]
"""Asks samplers, and gives programs in the end."""


class Sampler:
    """Usage, on the thread of an event loop:

    completions = await sampler.sample(request)     # in tasks of the loop
    sampler.step()                                  # again and again, while the loop does not run
    """

    def __init__(self, model: SampledModel, prompter: Prompter) -> None:
        """Load the model. Raises UserError if it cannot be sampled."""
        self.model = model
        self.prompter = prompter
        self._engine = model.running_engine
        self._awaited: dict[str, asyncio.Future[FinishedRequest]] = {}

    async def sample(self, request: SamplingRequest) -> tuple[Completion, ...]:
        """The completions, each beginning with the request's prefix."""
        future: asyncio.Future[FinishedRequest] = asyncio.get_running_loop().create_future()
        self._engine.add_request(request)
        self._awaited[request.request_id] = future
        finished = await future
        given = np.asarray(request.prefix_ids, np.int32)
        samples = tuple(_after(given, one) for one in finished.samples)
        return self.prompter.rollout(request, replace(finished, samples=samples)).completions

    def step(self) -> bool:
        """Decode a token of everything that is being sampled. Returns whether there was anything."""
        if not self._awaited:
            return False
        for finished in self._engine.step():
            self._awaited.pop(finished.request_id).set_result(finished)
        return True

    @property
    def is_full(self) -> bool:
        """Whether more requests would only wait."""
        return self._engine.num_unfinished >= self.model.queue_limit


def finished(
    conversations: Iterable[Conversation], samplers: Sequence[Sampler]
) -> Generator[tuple[ProgramRow, Problem] | None]:
    """The programs of each conversation as soon as it ends. New ones begin while the first sampler has room."""
    waiting = deque(conversations)
    ended: list[asyncio.Task[Programs]] = []
    num_running = 0
    with asyncio.Runner() as runner:  # it cancels those that run if the evaluation ends early
        while waiting or num_running:
            while waiting and not samplers[0].is_full:
                runner.get_loop().create_task(waiting.popleft()()).add_done_callback(ended.append)
                num_running += 1
                runner.run(asyncio.sleep(0))  # until it has asked for its samples
            is_sampling = sum(one.step() for one in samplers) > 0
            runner.run(asyncio.sleep(0 if is_sampling else _IDLE_S))
            num_running -= len(ended)
            yield from chain.from_iterable(one.result() for one in ended)
            ended.clear()
            yield None


def _after(given: Ids, sequence: SampledSequence) -> SampledSequence:
    """A completion that begins with `given` ids, which were drawn before; their log-probabilities are set to 0."""
    token_ids = np.concatenate([given, sequence.token_ids])
    logprobs = np.concatenate([np.zeros(len(given), np.float32), sequence.logprobs])
    return replace(sequence, token_ids=token_ids, logprobs=logprobs)

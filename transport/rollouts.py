"""What generators produce, and the actor that owns it while it waits in the object store.

In Ray, the process that puts an object into the store owns it, and the object is lost when its owner dies. A generator
may die at any time, so it hands its rollouts to the rollout store, which lives as long as the job. An object is freed
when the last reference to it is gone. If the rollout store itself dies, Ray restarts it under the same handle and
repeats the calls that were running; the rollouts it held are lost.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorProxy

from rltf.sandbox.examples import ExampleVerdict
from rltf.transport.columns import Columns, from_columns, to_columns


class FinishReason(StrEnum):
    """Why sampling ended: the model's end token, a text in `generator.stop`, or the length limit."""

    STOP = "stop"
    STOP_STRING = "stop_string"
    LENGTH = "length"


class VersionSpan(NamedTuple):
    """Tokens `first` .. `end - 1` of a completion were sampled with weights `version`."""

    first: int
    end: int
    version: int


@dataclass(frozen=True, slots=True)
class EarlierTurn:
    """An answer of a dialogue, and the text that the model read about it before its next answer.

    `verdict` is that of its program on the examples of the problem, which the feedback is about.
    """

    completion: Completion
    feedback: str
    verdict: ExampleVerdict


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer with its program: a whole sample or, with `generator.max_turns`, the last turn of a dialogue.

    `token_ids` [T] are the sampled ids, including the end token if `finish_reason` is STOP. `logprobs` [T] are their
    natural log-probabilities at the sampling temperature, under the weights that sampled them. `char_spans` [T, 2] are
    the characters of `text` that each id stands for, end exclusive; the end token has an empty span at the end.
    `text[program_start:program_end]` is the program, without any fence around it.

    `prompt_ids` are everything that the model had read and written before; those of the next turn continue with this
    turn's `token_ids` and the ids of the feedback. `earlier` are the turns before this one.
    """

    task_id: str
    completion_id: str
    prompt_ids: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    char_spans: NDArray[np.int32]
    weight_versions: tuple[VersionSpan, ...]
    finish_reason: FinishReason
    text: str
    program_start: int
    program_end: int
    earlier: tuple[EarlierTurn, ...] = ()

    @property
    def program(self) -> str:
        return self.text[self.program_start : self.program_end]

    @property
    def turns(self) -> tuple[Completion, ...]:
        """All turns of the dialogue, this one last."""
        return *(turn.completion for turn in self.earlier), self


@dataclass(frozen=True, slots=True)
class Rollout:
    """Everything sampled for one problem in one request: n samples and, if asked for, one greedy decode.

    It is pickled as a few arrays for all of its completions.
    """

    rollout_id: str
    task_id: str
    samples: tuple[Completion, ...]
    greedy: Completion | None

    @property
    def completions(self) -> tuple[Completion, ...]:
        """The samples, followed by the greedy decode if there is one."""
        return self.samples if self.greedy is None else (*self.samples, self.greedy)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rollout, (self.rollout_id, self.task_id, self.greedy is not None, to_columns(self.completions))


def merged(rollouts: Sequence[Rollout]) -> Rollout:
    """The first of `rollouts`, with the last turn of every dialogue that another one continues."""
    first, *others = rollouts
    last = {one.completion_id: one for other in others for one in other.completions}
    samples = tuple(last.get(one.completion_id, one) for one in first.samples)
    greedy = first.greedy and last.get(first.greedy.completion_id, first.greedy)
    return replace(first, samples=samples, greedy=greedy)


def _rollout(rollout_id: str, task_id: str, has_greedy: bool, columns: Columns) -> Rollout:
    completions = from_columns(Completion, columns)
    greedy = completions.pop() if has_greedy else None
    return Rollout(rollout_id, task_id, tuple(completions), greedy)


class RolloutStore:
    """Runs as a Ray actor without CPUs, on the node that should hold the rollouts."""

    def __init__(self) -> None:
        self._epoch = uuid.uuid4().hex

    def __repr__(self) -> str:
        """The prefix of this actor's log lines, and its name in the dashboard."""
        return "rollout store"

    @ray.method
    def keep(self, rollouts: Sequence[Rollout]) -> list[ray.ObjectRef[Rollout]]:
        """Put each rollout into the object store. The caller holds the references."""
        return [ray.put(rollout) for rollout in rollouts]

    @ray.method
    def keep_turns(self, turns: Sequence[EarlierTurn]) -> list[ray.ObjectRef[EarlierTurn]]:
        """The same for turns whose dialogue goes on."""
        return [ray.put(turn) for turn in turns]

    @ray.method
    def epoch(self) -> str:
        """An id that changes whenever the store restarts."""
        return self._epoch


def start_rollout_store(**options: Any) -> ActorProxy[RolloutStore]:
    """Start the actor with these Ray options."""
    return ray.remote(RolloutStore).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, **options).remote()

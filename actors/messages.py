"""What passes between the driver and the generators: ids, counts and references, never tokens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import ray

from actors.types import Completion, Rollout


class GeneratorError(RuntimeError):
    """A generator's engine or delivery failed; the actor must be replaced."""


class WeightsMismatchError(GeneratorError):
    """A generator received other weights than the learner published: its samples would be another policy's."""


PHASE_TIMEOUT_S = 60.0
"""Longest that a phase of a weight update may take which the learner sends: a copy takes seconds, a check more."""


class TransferError(GeneratorError):
    """Weights that the learner sends did not reach a generator, which may hold half of them."""


class WeightsGoneError(RuntimeError):
    """Weights died with the learner that was to send them, before any of them came."""


class TransferPhase(StrEnum):
    """A part of a weight update that the learner sends; each is done between two steps of the generator's engine."""

    READY = "ready"
    """Asked by the generator itself. Where updates drain, nothing is in flight after it, and nothing begins."""
    CONNECT = "connect"
    """Open a connection to the learner; only before its first update."""
    START = "start"
    """Make ready to receive. From here on nothing is sampled."""
    UPDATE = "update"
    """Receive weights."""
    FINISH = "finish"
    """Sample with what was received."""
    GIVE_UP = "give up"
    """Asked by the generator itself where there was no START after READY: sample as before."""


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """Sample `num_samples` programs for one problem and, if `greedy`, decode one more at temperature 0.

    `rollout_id` is unique among the requests that a generator has in flight. With a `seed` the samples depend on the
    problem, the weights and the seed alone, apart from rounding.
    """

    rollout_id: str
    task_id: str
    num_samples: int
    greedy: bool
    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class RolloutHandle:
    """A finished rollout that lies in the object store.

    `ref` is a list of the one reference, so that a task it is passed to receives the reference and not the rollout.
    `num_samples` and `num_tokens` count what was sampled, `num_tokens` with the greedy decode; `version_min` and
    `version_max` are the oldest and newest weights that sampled any token.
    """

    ref: list[ray.ObjectRef[Rollout]]
    rollout_id: str
    task_id: str
    num_samples: int
    num_tokens: int
    version_min: int
    version_max: int
    size_bytes: int

    @classmethod
    def of(cls, rollout: Rollout, ref: ray.ObjectRef[Rollout]) -> RolloutHandle:
        """That of a rollout which lies at `ref`."""
        completions = [*rollout.samples, *([rollout.greedy] if rollout.greedy is not None else [])]
        versions = [span.version for completion in completions for span in completion.weight_versions]
        return cls(
            ref=[ref],
            rollout_id=rollout.rollout_id,
            task_id=rollout.task_id,
            num_samples=len(rollout.samples),
            num_tokens=sum(len(completion.token_ids) for completion in completions),
            version_min=min(versions),
            version_max=max(versions),
            size_bytes=sum(_size_bytes(completion) for completion in completions),
        )


@dataclass(frozen=True, slots=True)
class GeneratorStats:
    """Counts since the generator's start.

    `num_in_flight` rollouts are queued or being sampled, `num_sequences` completions of them in the engine.
    `busy_s` is the time spent in engine steps, `updating_s` in weight updates, out of `wall_s`.
    `gpu_memory_bytes` is held by its tensors now, 0 without a GPU.
    """

    name: str
    version: int
    num_in_flight: int
    num_sequences: int
    num_rollouts: int
    num_tokens: int
    num_updates: int
    busy_s: float
    updating_s: float
    wall_s: float
    gpu_memory_bytes: int

    @property
    def tokens_per_s(self) -> float:
        """Sampled tokens a second of wall time."""
        return self.num_tokens / self.wall_s if self.wall_s else 0.0


def _size_bytes(completion: Completion) -> int:
    arrays = (completion.prompt_ids, completion.token_ids, completion.logprobs, completion.char_spans)
    return sum(array.nbytes for array in arrays) + len(completion.text.encode())

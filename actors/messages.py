"""What passes between the driver and the generators: ids, counts and references, never tokens."""

from __future__ import annotations

from dataclasses import dataclass

import ray

from rltf.transport.rollouts import Rollout


class GeneratorError(RuntimeError):
    """A generator's engine or delivery failed; the actor must be replaced."""


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """Sample `num_samples` programs for one problem and, if `greedy`, decode one more at temperature 0.

    `rollout_id` is unique among the requests that a generator has in flight. With a `seed`, the samples depend only on
    the problem, the weights and the seed, up to rounding. Without one, they come from the engine's own random state.
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
    """A finished rollout in the object store.

    `ref` is a list of one reference, so that Ray passes the reference to a task instead of the rollout.
    """

    ref: list[ray.ObjectRef[Rollout]]
    rollout_id: str


@dataclass(frozen=True, slots=True)
class GeneratorStats:
    """Counts since the generator started.

    `num_in_flight` rollouts are queued or being sampled, and `num_sequences` of their completions are in the engine.
    Of the `wall_s`, `busy_s` were spent in engine steps and `updating_s` in weight updates. `gpu_memory_bytes` is the
    memory torch holds now, 0 without a GPU.
    """

    name: str
    version: int
    num_in_flight: int
    num_sequences: int
    num_tokens: int
    num_updates: int
    busy_s: float
    updating_s: float
    wall_s: float
    gpu_memory_bytes: int

"""What passes between the driver and the generators: ids, counts and references, never tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ray

from rltf.seeds import seed_of
from rltf.transport.rollouts import EarlierTurn, Rollout

# The turns of dialogues come from the rollout store, which may have died.
FETCH_TURNS_S = 60.0


class GeneratorError(RuntimeError):
    """A generator's engine or delivery failed; the actor must be replaced."""


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """Sample `num_samples` programs for one problem and, if `greedy`, decode one more at temperature 0.

    `rollout_id` is unique among the requests that a generator has in flight. With a `seed`, the samples depend only on
    the problem, the weights and the seed, up to rounding. Without one, they come from the engine's own random state.

    `previous` refers to the last turn of a dialogue that the request continues, for each of them the same one; it is
    empty for a first turn.
    """

    rollout_id: str
    task_id: str
    num_samples: int
    greedy: bool
    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None
    previous: tuple[ray.ObjectRef[EarlierTurn], ...] = ()

    def next_turn(self, place: int, number: int) -> RolloutRequest:
        """The request for turn `number` (from 2) of the dialogue at `place` among the samples, the greedy one last."""
        return replace(
            self,
            rollout_id=f"{self.rollout_id}/{place}/{number}",
            num_samples=int(place < self.num_samples),
            greedy=place >= self.num_samples,
            seed=None if self.seed is None else seed_of(self.seed, place, number),
        )


@dataclass(frozen=True, slots=True)
class RolloutHandle:
    """A finished rollout in the object store.

    `refs` is a list, so that Ray passes references to a task instead of what they refer to. The first is that of the
    rollout; the others (`controller.dialogues`) hold one dialogue each that goes on after the first turn. `refs` is
    empty if the request continued a dialogue whose prompt leaves no room for another answer.
    """

    refs: list[ray.ObjectRef[Rollout]]
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

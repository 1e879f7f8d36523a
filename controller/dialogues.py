"""Dialogues: programs that fail the examples are sampled again, with what went wrong in the prompt.

    first turns of a rollout -> SandboxPool.submit(examine_rollout) -> GeneratorPool.sample(next turn) -> examine ...

Each dialogue of a rollout goes on by itself, so no sample waits for another, and the generators sample whatever is
ready. Programs and feedback stay in the object store: only references pass through here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray

from rltf.actors.messages import RolloutHandle, RolloutRequest
from rltf.supervise import answer
from rltf.transport.rollouts import EarlierTurn, Rollout

EXAMINE_S = 3600.0


class Generators(Protocol):
    """What samples: see `controller.generators.GeneratorPool`."""

    async def sample(self, request: RolloutRequest) -> RolloutHandle: ...


class Graders(Protocol):
    """What grades: see `sandbox.pool.SandboxPool`."""

    async def submit(self, method: str, *arguments: Any, num_items: int = 1) -> Any: ...


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A turn whose dialogue goes on: its place among the completions of its rollout, and the turn with its feedback."""

    place: int
    ref: ray.ObjectRef[EarlierTurn]


@dataclass(frozen=True, slots=True)
class Dialogues:
    """Continues the samples of a rollout to at most `max_turns` turns each."""

    generators: Generators
    graders: Graders
    max_turns: int

    async def continued(self, request: RolloutRequest, handle: RolloutHandle) -> RolloutHandle:
        """A handle of the rollout and of the last turn of every dialogue in it that goes on.

        Raises what the generators and the graders raise.
        """
        if self.max_turns == 1:
            return handle
        turns = await self._examine(handle.refs, request.num_samples + request.greedy)
        tasks = [asyncio.create_task(self._last_turn(request, turn)) for turn in turns]
        try:
            lasts = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return replace(handle, refs=[*handle.refs, *(ref for refs in lasts for ref in refs)])

    async def _last_turn(self, request: RolloutRequest, turn: OpenTurn) -> list[ray.ObjectRef[Rollout]]:
        """The last turn of a dialogue; empty if there is no room for a second one."""
        place, last = turn.place, RolloutHandle([], request.rollout_id)
        for number in range(2, self.max_turns + 1):
            handle = await self.generators.sample(replace(request.next_turn(place, number), previous=(turn.ref,)))
            if not handle.refs:
                break
            last = handle
            if number == self.max_turns or not (more := await self._examine(handle.refs, 1)):
                break
            (turn,) = more
        return last.refs

    async def _examine(self, refs: list[ray.ObjectRef[Rollout]], num_programs: int) -> Sequence[OpenTurn]:
        call = self.graders.submit("examine_rollout", refs, num_items=num_programs)
        turns: Sequence[OpenTurn] = await answer(call, EXAMINE_S, "sandbox workers to run programs on examples")
        return turns

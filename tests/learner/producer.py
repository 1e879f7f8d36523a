"""Processes that make rollouts and may die."""

from __future__ import annotations

from typing import Any

import ray

from learner.experience import Experiences


@ray.remote
class Producer:
    def produce(self, buffer: Any, rollouts: list[tuple[str, Experiences]], timeout_s: float) -> None:
        ray.get([buffer.add.remote(*rollout) for rollout in rollouts], timeout=timeout_s)

    def put(self, experiences: Experiences) -> list[Any]:
        """A reference to an object that dies with this process."""
        return [ray.put(experiences)]

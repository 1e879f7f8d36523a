"""A Ray actor that produces rollouts; tests kill it."""

from __future__ import annotations

from typing import Any

import ray

from rltf.learner.data import Experiences


@ray.remote
class Producer:
    def produce(self, buffer: Any, rollouts: list[tuple[str, Experiences]], timeout_s: float) -> None:
        ray.get([buffer.add.remote(*rollout) for rollout in rollouts], timeout=timeout_s)

    def put(self, experiences: Experiences) -> list[Any]:
        """A reference to an object that is lost when this process dies."""
        return [ray.put(experiences)]

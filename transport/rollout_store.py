"""An actor that owns objects for others.

In Ray the process that puts an object owns it, and the object is lost when its owner dies. A generator may die at any
time, so it hands what it made to the rollout store, which lives as long as the job and puts it into the object store.
An object is freed with the last reference to it. If the rollout store dies after all, Ray restarts it under the same
handle and repeats the calls in flight; what it held is lost.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, TypeVar

import ray

T = TypeVar("T")


class RolloutStore:
    """Run as a Ray actor without CPUs, on the node that is to hold the objects."""

    def __init__(self) -> None:
        self._epoch = uuid.uuid4().hex

    def __repr__(self) -> str:
        """What Ray puts before each line of this actor's log, and before its methods in the dashboard."""
        return "rollout-store"

    def keep(self, values: Sequence[T]) -> list[ray.ObjectRef[T]]:
        """Put each value; the caller holds the references."""
        return [ray.put(value) for value in values]

    def epoch(self) -> str:
        """Another one after each death."""
        return self._epoch


def start_rollout_store(**options: Any) -> Any:
    """The handle of a new rollout store; `options` are Ray's."""
    return ray.remote(RolloutStore).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, **options).remote()

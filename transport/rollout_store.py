"""An actor that owns objects for others.

In Ray the process that puts an object owns it, and the object is lost when its owner dies. A generator may die at any
time, so it hands what it made to the keeper, which lives as long as the job and puts it into the store. An object goes
when the last reference to it, anywhere, does. Where the keeper dies all the same, Ray starts it again under the same
handle and makes the calls again that were under way; what it kept is lost.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, TypeVar

import ray

T = TypeVar("T")


class Keeper:
    """Run as a Ray actor without CPUs, on the node that is to hold the objects."""

    def __init__(self) -> None:
        self._incarnation = uuid.uuid4().hex

    def __repr__(self) -> str:
        """What Ray puts before each line of this actor's log, and before its methods in the dashboard."""
        return "keeper"

    def keep(self, values: Sequence[T]) -> list[ray.ObjectRef[T]]:
        """Put each value; the caller holds the references."""
        return [ray.put(value) for value in values]

    def incarnation(self) -> str:
        """Another one after each death."""
        return self._incarnation


def start_rollout_store(**options: Any) -> Any:
    """The handle of a new keeper actor; `options` are Ray's."""
    return ray.remote(Keeper).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, **options).remote()

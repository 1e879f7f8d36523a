"""From references to updates that are ready to train: objects fetched, tensors packed, one update ahead.

While one update trains, the next one's objects are fetched and packed in another thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError

from learner.buffer import BufferItem, RolloutRef
from learner.experience import Experiences
from learner.learner import Learner, PreparedUpdate

Item = BufferItem[RolloutRef]


@dataclass(frozen=True, slots=True, eq=False)
class FedUpdate:
    """An update and the rollouts it is made of; `lost` ones died with the process that held them.

    `prepared` is None where nothing is left.
    """

    items: list[Item]
    lost: list[Item]
    prepared: PreparedUpdate | None


class Prefetcher:
    """Updates in the order in which they are trained.

    Usage:
        feed.announce(next_items)         # at most one at a time; it must be the next one asked for
        fed = feed.get(items)             # waits for the objects
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._timeout_s = learner.settings.fetch_timeout_s
        self._announced: tuple[list[str], Future[FedUpdate]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")

    def announce(self, items: Sequence[Item]) -> None:
        """Fetch and pack these meanwhile: the next `get` is of them."""
        self._announced = _ids(items), self._thread.submit(self._fetch, items)

    def get(self, items: Sequence[Item]) -> FedUpdate:
        """The update of these rollouts.

        Raises ValueError where others were announced, TimeoutError where the object store did not answer in time.
        """
        if self._announced is None:
            self.announce(items)
        assert self._announced is not None  # just announced
        (announced, future), self._announced = self._announced, None
        if announced != _ids(items):
            raise ValueError(f"rollouts {_ids(items)} are to be trained on, but {announced} were announced as the next")
        return future.result()

    def _fetch(self, items: Sequence[Item]) -> FedUpdate:
        kept: list[Item] = list(items)
        lost: list[Item] = []
        try:
            experiences = ray.get([item.ref for item in items], timeout=self._timeout_s)
        except ObjectLostError:
            kept, lost, experiences = self._fetch_what_is_left(items)
        except GetTimeoutError as error:
            raise TimeoutError(
                f"the learner waited {self._timeout_s:g} s for {len(items)} rollouts from the object store"
            ) from error
        prepared = self._learner.prepare([e for group in experiences for e in group]) if kept else None
        return FedUpdate(kept, lost, prepared)

    def _fetch_what_is_left(self, items: Sequence[Item]) -> tuple[list[Item], list[Item], list[Experiences]]:
        kept: list[Item] = []
        lost: list[Item] = []
        experiences: list[Experiences] = []
        for item in items:
            try:
                experiences.append(ray.get(item.ref, timeout=self._timeout_s))
                kept.append(item)
            except ObjectLostError:
                lost.append(item)
        return kept, lost, experiences


def _ids(items: Sequence[Item]) -> list[str]:
    return [item.meta.rollout_id for item in items]

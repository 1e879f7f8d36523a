"""The learner's other ranks: actors that the learner starts, and that make each of its calls with it.

Everything else in the program sees one learner. If a rank dies, or does not take part in a call in time, the learner's
process ends, and with it all ranks; another learner then continues from the newest checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import GetTimeoutError, RayActorError
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

from rltf.learner.data import TokenSequence
from rltf.learner.learner import Learner
from rltf.learner.process import prepare_process, threads_for_sft
from rltf.learner.ranks import Ranks
from rltf.learner.sft import run_sft
from rltf.settings import Settings
from rltf.supervise import first_line

logger = logging.getLogger(__name__)

# All ranks are on one node.
_HOST = "127.0.0.1"
# After a call has failed here: how long to wait for the other ranks to say why.
_GRACE_S = 5.0


class Follower:
    """A rank above 0. Its methods are those of `Learner` that need all ranks."""

    def __init__(self, rank: int, port: int, model: Path, settings: Settings, critic: Path | None) -> None:
        """Join the ranks at `port`, and load the part of `model` that this one holds."""
        self._rank = rank
        self._settings = settings
        prepare_process(settings)
        size = settings.learner.num_workers
        store = TCPStore(_HOST, port, size, is_master=False)
        self._ranks = _join(store, rank, settings)
        self._learner = Learner(model, settings, critic, self._ranks)
        self._references: Sequence[TokenSequence] = ()

    def __repr__(self) -> str:
        """The prefix of this actor's log lines, and of its methods in the Ray dashboard."""
        return f"learner rank {self._rank}"

    def set_references(self, references: Sequence[TokenSequence]) -> None:
        """See `Learner.set_references`."""
        self._references = references
        self._learner.set_references(references)

    def sft(self) -> None:
        """See `learner.sft.run_sft`."""
        with threads_for_sft(self._settings):
            run_sft(self._learner, self._references, seed=self._settings.run.seed)

    def update(self) -> None:
        """Make the update that rank 0 has prepared."""
        self._learner.update(None)

    def publish(self) -> None:
        """Give rank 0 this rank's part of the weights."""
        self._learner.publish()

    def save_checkpoint(self, folder: Path) -> None:
        """Write this rank's part of a checkpoint."""
        self._learner.save_checkpoint(folder)

    def resume(self, path: Path, version: int) -> None:
        """Read this rank's part of a checkpoint."""
        self._learner.resume(path, version)


class Followers:
    """All other ranks. With one rank there are none, and `also` does nothing.

    Usage:
        followers = Followers(settings, options, model, critic)
        learner = Learner(model, settings, critic, followers.ranks)
        with followers.also("update"):
            learner.update(prepared)
    """

    def __init__(self, settings: Settings, options: Mapping[str, Any], model: Path, critic: Path | None) -> None:
        """Start them, with these `options` for Ray, and wait until all have joined.

        They end with this process, which owns them.
        """
        size = settings.learner.num_workers
        self._timeout_s = settings.learner.dist_timeout_s
        self._actors: list[Any] = []
        store = None
        if size > 1:
            store = TCPStore(_HOST, 0, size, is_master=True, wait_for_workers=False)
            actor = ray.remote(Follower).options(**options)
            self._actors = [actor.remote(rank, store.port, model, settings, critic) for rank in range(1, size)]
        self.ranks = _join(store, 0, settings)

    @contextlib.contextmanager
    def also(self, method: str, *arguments: Any) -> Iterator[None]:
        """Let all other ranks make a call while this one makes it in the context. Raises what it raises there.

        Ends this process if another rank is gone, or does not finish.
        """
        calls = [getattr(actor, method).remote(*arguments) for actor in self._actors]
        try:
            yield
        except Exception as error:
            if calls and _is_of_the_group(error):
                self._end_if_gone(calls)
                _end(f"{method}: {first_line(error)}")
            raise
        if calls:
            self._end_if_gone(calls, self._timeout_s)
            try:
                ray.get(calls, timeout=_GRACE_S)
            except GetTimeoutError:
                _end(f"{method}: a rank did not finish within {self._timeout_s:g} s")

    def _end_if_gone(self, calls: Sequence[Any], timeout_s: float = _GRACE_S) -> None:
        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=timeout_s)
        for call in done:
            try:
                ray.get(call)
            except RayActorError as error:
                _end(f"a rank is gone: {first_line(error)}")


def _join(store: Any, rank: int, settings: Settings) -> Ranks:
    device = torch.device("cuda" if settings.learner.num_gpus > 0 else "cpu")
    size, timeout_s = settings.learner.num_workers, settings.learner.dist_timeout_s
    return Ranks.join(store, rank, size, device=device, timeout_s=timeout_s)


def _is_of_the_group(error: Exception) -> bool:
    """Whether an error may come from ranks that stopped answering. Gloo raises plain RuntimeErrors."""
    return type(error) is RuntimeError or isinstance(error, dist.DistError)


def _end(why: str) -> None:
    """End this process at once: calls of a broken group may hang, also in threads."""
    logger.error("the learner ends, because its ranks are incomplete: %s", why)
    os._exit(1)

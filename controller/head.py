"""The head of the cluster, and what becomes of a job if it is lost or frozen.

Without its head, Ray can neither start actors nor notice that one died, but actors that run go on working. So a job has
the time to save a checkpoint. Most of Ray's own calls wait for a frozen head without a deadline; those here don't.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import RayError, RpcError

logger = logging.getLogger(__name__)

CONNECT_S = 10.0
HEAD_EVERY_S = 5.0
MAX_SILENCE_S = 20.0
# Ray ends a driver whose head has been gone for 60 s: save what can be saved before that.
GRACE_S = 20.0
_RESUME = "continue with --resume and the run's folder"


class HeadLostError(RuntimeError):
    """The head node of the cluster stopped answering."""


class Head:
    """The head of the cluster that this driver has joined, at `address` (HOST:PORT)."""

    def __init__(self) -> None:
        self.address: str = ray.get_runtime_context().gcs_address
        self._client: Any = GcsClient(address=self.address)

    def nodes(self) -> dict[str, tuple[str, bool]]:
        """The address of each node that there ever was, and whether it is alive, by its id.

        Raises RpcError if the head does not answer within CONNECT_S.
        """
        found = self._client.get_all_node_info(timeout=CONNECT_S)
        return {node.hex(): (facts.node_manager_address, facts.state == facts.ALIVE) for node, facts in found.items()}

    def answers(self) -> bool:
        """Whether the head answers a request. A frozen one does not, but still accepts connections."""
        try:
            self.nodes()
        except RpcError:
            return False
        return True


def accepts(address: str) -> bool:
    """Whether something listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_S):
            return True
    except OSError:
        return False


async def while_head_lives(
    work: Coroutine[Any, Any, None],
    address: str,
    answers: Callable[[], bool],
    frozen_after_s: float,
    say: Callable[[str], None],
) -> None:
    """Do `work`; if the cluster's head at `address` is lost, or `answers` is False for so long, say so and cancel it.

    Raises what `work` raises, and HeadLostError, also instead of an error of Ray while the head does not answer.
    """
    job, watch = asyncio.create_task(work), asyncio.create_task(watch_head(address, answers, frozen_after_s))
    try:
        await asyncio.wait([job, watch], return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            logger.warning("%s", watch.exception())
            say(str(watch.exception()))
            job.cancel()
            await asyncio.wait([job], timeout=GRACE_S)
            watch.result()
        if not job.cancelled() and _is_of_ray(job.exception()) and not await asyncio.to_thread(answers):
            raise HeadLostError(
                f"the head of the cluster ({address}) does not answer; when it is up again, {_RESUME}"
            ) from job.exception()
        job.result()
    except asyncio.CancelledError:
        job.cancel()
        await job
        raise
    finally:
        watch.cancel()


def _is_of_ray(error: BaseException | None) -> bool:
    return isinstance(error, RayError) or (
        isinstance(error, BaseExceptionGroup) and error.subgroup(RayError) is not None
    )


async def watch_head(address: str, answers: Callable[[], bool], frozen_after_s: float) -> None:
    """Raise HeadLostError once the head is gone for `MAX_SILENCE_S`, or accepts connections but does not answer."""
    clock = asyncio.get_running_loop().time
    reached = heard = clock()
    since = time.time()
    while True:
        await asyncio.sleep(HEAD_EVERY_S)
        if await asyncio.to_thread(accepts, address):
            reached = clock()
            if await asyncio.to_thread(answers):
                heard, since = clock(), time.time()
        if clock() - reached > MAX_SILENCE_S:
            raise HeadLostError(
                f"the head of the cluster ({address}) stopped answering; when it is up again, {_RESUME}"
            )
        if clock() - heard > frozen_after_s:
            raise HeadLostError(
                f"the head of the cluster ({address}) is frozen: it accepts connections, but has not answered for "
                f"{frozen_after_s:g} s, since {time.strftime('%H:%M:%S', time.localtime(since))}; {_RESUME}"
            )

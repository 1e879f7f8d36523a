"""Starting a Ray on this machine, or joining the cluster that it belongs to; and noticing when the cluster is gone."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import ray
from ray._private.services import canonicalize_bootstrap_address

from errors import UserError
from settings import Settings

CONNECT_S = 10.0
WATCH_EVERY_S = 5.0
MAX_SILENCE_S = 20.0
# Ray itself ends a driver whose head has been gone for 60 s: what can still be saved is saved before.
GRACE_S = 20.0
NO_DASHBOARD = "Ray's dashboard did not start in time: the run continues without it"


class HeadLostError(RuntimeError):
    """The head node of the cluster does not answer any more."""


def start_ray(settings: Settings) -> str:
    """Start Ray here, or join the cluster that `cluster.address` names.

    Returns the address of the dashboard, or an empty string if there is none. Raises UserError if there is no such
    cluster.
    """
    cluster = settings.cluster
    common: dict[str, Any] = {"configure_logging": True, "logging_level": logging.WARNING, "log_to_driver": False}
    if cluster.address == "local":
        context = ray.init(
            address="local",
            object_store_memory=cluster.object_store_bytes,
            # None: Ray tries to start it and carries on if it fails. With True, a slow dashboard ends the program.
            include_dashboard=None if cluster.dashboard else False,
            **common,
        )
    else:
        context = ray.init(address=_find_head(cluster.address), **common)
    return str(context.dashboard_url or "")


def _find_head(address: str) -> str:
    """HOST:PORT of the head. Asked before Ray is, which tries for two minutes and then ends the process."""
    cure = (
        "Start a cluster (`ray up cluster.yaml`, or `ray start --head`) and run launch.py on its head node, or start "
        "Ray here with --cluster.address local"
    )
    try:
        found = canonicalize_bootstrap_address(address)
    except ConnectionError as error:
        raise UserError(f"cluster.address {address}: no Ray cluster runs on this machine. {cure}") from error
    if found is None or not answers(found):
        raise UserError(f"cluster.address {address}: the head at {found} does not answer. {cure}")
    return found


async def while_head_lives(work: Coroutine[Any, Any, None], head: str, say: Callable[[str], None]) -> None:
    """Do `work`; where the cluster's head (HOST:PORT) is lost meanwhile, say so at once and cancel it.

    Raises what `work` raises, and HeadLostError.
    """
    job, watch = asyncio.create_task(work), asyncio.create_task(_watch(head))
    try:
        await asyncio.wait([job, watch], return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            say(str(watch.exception()))
            job.cancel()
            await asyncio.wait([job], timeout=GRACE_S)
            watch.result()
        job.result()
    except asyncio.CancelledError:
        job.cancel()
        await job
        raise
    finally:
        watch.cancel()


async def _watch(address: str) -> None:
    """Ends only with HeadLostError, when the head has not answered for `MAX_SILENCE_S`."""
    loop = asyncio.get_running_loop()
    heard = loop.time()
    while True:
        await asyncio.sleep(WATCH_EVERY_S)
        if await asyncio.to_thread(answers, address):
            heard = loop.time()
        elif loop.time() - heard > MAX_SILENCE_S:
            raise HeadLostError(
                f"the head of the cluster ({address}) does not answer any more; when it is up again, go on with "
                "--resume and the run's folder"
            )


def answers(address: str) -> bool:
    """Whether something listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_S):
            return True
    except OSError:
        return False

"""Logs deaths that nobody else notices: nodes, and the rollout store, which Ray restarts by itself."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import actors
from ray.actor import ActorProxy
from ray.exceptions import RayError

from controller.waiting import StallError, answer
from transport.rollouts import RolloutStore

logger = logging.getLogger(__name__)

NODES_EVERY_S = 5.0
ROLLOUT_STORE_EVERY_S = 1.0
ANSWER_S = 60.0
MEMORY_S = 60.0


async def note_faults(rollout_store: ActorProxy[RolloutStore]) -> None:
    """Until cancelled."""
    await asyncio.gather(_note_nodes(), _note_rollout_store(rollout_store))


@dataclass(frozen=True, slots=True)
class _Seen:
    """An actor that lived on a node at a time."""

    name: str
    node: str
    at: float


async def _note_nodes() -> None:
    nodes = await asyncio.to_thread(_nodes)
    told = {node for node, (_, alive) in nodes.items() if not alive}  # before this run
    seen: dict[tuple[str, str], _Seen] = {}
    while True:
        nodes = await asyncio.to_thread(_nodes)
        for node, (address, alive) in nodes.items():
            if alive or node in told:
                continue
            told.add(node)
            there = ", ".join(sorted(actor.name for actor in seen.values() if actor.node == node))
            logger.warning(
                "node %s (%s) is gone, and what ran there with it: %s; it is started again where there is room",
                node[:8], address, there or "nothing of this run",
            )  # fmt: skip
        # Ray takes a while to call a node dead, and the actors on it may be dead before.
        recent = time.monotonic() - MEMORY_S
        seen = {key: actor for key, actor in seen.items() if actor.at > recent} | await asyncio.to_thread(_actors)
        await asyncio.sleep(NODES_EVERY_S)


def _nodes() -> dict[str, tuple[str, bool]]:
    """The address of each node that there ever was, and whether it lives."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: (node["NodeManagerAddress"], node["Alive"]) for node in nodes}


def _actors() -> dict[tuple[str, str], _Seen]:
    """The living actors of this job, by actor and node; one without a name goes by its class."""
    job, now = ray.JobID.from_hex(ray.get_runtime_context().get_job_id()), time.monotonic()
    found = {}
    for actor_id, row in actors(job_id=job, actor_state_name="ALIVE").items():
        node = row["Address"]["NodeID"]
        found[actor_id, node] = _Seen(row["Name"] or row["ActorClassName"], node, now)
    return found


async def _note_rollout_store(rollout_store: ActorProxy[RolloutStore]) -> None:
    known = None
    while True:
        try:
            now = await answer(rollout_store.epoch.remote(), ANSWER_S, "the rollout store")
        except (RayError, StallError) as error:
            logger.warning("the rollout store does not answer: %s", error)
            now = ""
        if known and now and known != now:
            logger.warning(
                "the rollout store is gone: its process died, and an empty one took its place; rollouts that waited in "
                "it for a grader are dropped as lost once a grader asks for them, and their problems are sampled again"
            )
        known = now or known
        await asyncio.sleep(ROLLOUT_STORE_EVERY_S)

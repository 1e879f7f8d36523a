"""Scenarios on a cluster of several Ray nodes, all on this machine. A cluster needs a process of its own.

    python -m tests.controller.on_nodes OUTPUT.json FOLDER

Writes its results as JSON. The head has no CPUs, as in cluster.yaml. Two nodes are of the kind `sandbox`. A third one
joins later with another version of transformers, as if it had not been set up again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from rltf.controller.cluster import check_nodes, kind_request, uses_kinds
from rltf.controller.placement import hold_room
from rltf.errors import UserError
from rltf.sandbox.pool import SandboxPool
from rltf.settings import SandboxSettings, Settings
from tests.sandbox.pool_worker import PlacedWorker

NODE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}
SANDBOX = SandboxSettings(
    min_workers=2, max_workers=4, num_cpus=0.5, min_isolation="rlimits", backlog_per_worker=4, idle_s=5
)


async def versions(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """Nodes that run the same program pass. If one does not, the message names it and what differs."""
    same = await check_nodes()
    other = folder / "site" / "transformers-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 0.0.1\n")
    node = cluster.add_node(**NODE | {"num_cpus": 0}, env_vars={"PYTHONPATH": str(other.parent)})
    cluster.wait_for_nodes()
    try:
        await check_nodes(same)
        said = ""
    except UserError as error:
        said = str(error)
    cluster.remove_node(node)
    return {"num_same": len(same), "said": said}


async def lost_node(cluster: Cluster, node: Any) -> dict[str, Any]:
    """Programs spread over the sandbox nodes. One node dies under load, and the rest of the pool finishes the work."""
    resources = kind_request("sandbox", uses=uses_kinds(ray.cluster_resources()))  # type: ignore[no-untyped-call]
    pool = SandboxPool(PlacedWorker, SANDBOX, ray.put({}), heartbeat_timeout_s=60, resources=resources)
    await pool.start()
    num_before = 0
    async with asyncio.timeout(240):  # workers leave when nothing waits, so keep calls waiting until all have started
        while pool.stats().num_ready < SANDBOX.max_workers:
            num_before += len(await asyncio.gather(*(pool.submit("where", 0.2) for _ in range(40))))
    calls = [asyncio.ensure_future(pool.submit("where", 0.2)) for _ in range(60)]
    first = Counter(await asyncio.gather(*calls[:20]))
    cluster.remove_node(node, allow_graceful=False)
    answers = await asyncio.gather(*calls)
    stats = pool.stats()
    await until(lambda: pool.stats().num_workers == SANDBOX.min_workers)
    await pool.close()
    return {
        "nodes_used": sorted(first.values()),
        "num_answers": len(answers),
        "num_done": stats.num_done - num_before,
        "num_repeated": stats.num_repeated,
        "nodes_after": len(set(answers[-4:])),
    }


async def no_room(_: Cluster) -> dict[str, Any]:
    """A learner asks for a GPU, but no node has one: the wait ends with a message."""
    try:
        await hold_room(Settings.model_validate({"cluster": {"address": "auto"}}), timeout_s=2)
    except UserError as error:
        return {"said": str(error)}
    return {"said": ""}


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.05)


def main(output: Path, folder: Path) -> None:
    """Run all scenarios on one cluster."""
    head = NODE | {"num_cpus": 0, "resources": {"node_kinds": 1}}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(**NODE, resources={"sandbox": 1}) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    seen = {
        "versions": asyncio.run(versions(cluster, folder)),
        "no_room": asyncio.run(no_room(cluster)),
        "lost_node": asyncio.run(lost_node(cluster, nodes[1])),
    }
    output.write_text(json.dumps(seen))
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

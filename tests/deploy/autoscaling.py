"""Scenario: a pool on a cluster whose autoscaler starts and stops nodes. Run it isolated from any other Ray.

    python -m tests.deploy.autoscaling OUTPUT.json FOLDER

The node type is that of the sandboxes in cluster.yaml. Ray's fake provider runs its "machines" as local processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from rltf.controller.cluster import kind_request, uses_kinds
from rltf.sandbox.pool import SandboxPool
from rltf.settings import SandboxSettings
from tests.sandbox.pool_worker import PlacedWorker

ROOT = Path(__file__).parents[2]
STORE_BYTES = 80 << 20
SANDBOX = SandboxSettings(
    min_workers=1, max_workers=4, num_cpus=1, min_isolation="rlimits", backlog_per_worker=4, idle_s=1
)


def configuration() -> dict[str, Any]:
    """The autoscaler's configuration: a head without CPUs, up to two sandbox nodes with two CPUs, 3 s idle timeout."""
    cloud = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    node = cloud["available_node_types"]["cpu-sandbox"]
    resources = node["resources"] | {"CPU": 2, "object_store_memory": STORE_BYTES}
    return {
        "cluster_name": "fake",
        "provider": {
            "type": "fake_multinode",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "use_node_id_as_ip": True,  # all of them share one address
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "cpu-sandbox": node | {"resources": resources, "node_config": {}, "max_workers": 2},
        },
        "max_workers": 2,
        "upscaling_speed": cloud["upscaling_speed"],
        "idle_timeout_minutes": 0.05,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "head_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_setup_commands": [],
        "worker_start_ray_commands": [],
        "initialization_commands": [],
    }


def start_head(folder: Path) -> None:
    """`ray start` with an autoscaler that updates once per second."""
    config = folder / "autoscaling.yaml"
    config.write_text(yaml.safe_dump(configuration()))
    environment = os.environ | {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    command = [str(Path(sys.prefix) / "bin" / "ray"), "start", "--head", "--num-cpus=0", "--include-dashboard=false"]
    command += ["--resources", json.dumps({"node_kinds": 1}), f"--object-store-memory={STORE_BYTES}"]
    subprocess.run([*command, f"--autoscaling-config={config}"], env=environment, check=True)


async def scenario() -> dict[str, list[int]]:
    """The number of sandbox nodes at each stage, first rising, then falling."""
    seen = {"rising": [num_nodes()], "falling": []}
    resources = kind_request("sandbox", uses=uses_kinds(ray.cluster_resources()))  # type: ignore[no-untyped-call]
    pool = SandboxPool(PlacedWorker, SANDBOX, ray.put({}), heartbeat_timeout_s=60, resources=resources)
    await pool.start()
    seen["rising"].append(num_nodes())
    calls = [asyncio.ensure_future(pool.submit("where", 0.5)) for _ in range(60)]
    await until(lambda: num_nodes() == 2)
    seen["rising"].append(num_nodes())
    seen["answers"] = [len(await asyncio.gather(*calls))]
    seen["falling"].append(num_nodes())
    await until(lambda: num_nodes() == 1)
    seen["falling"].append(pool.stats().num_workers)
    await pool.close()
    await until(lambda: num_nodes() == 0)
    return seen


def num_nodes() -> int:
    """The number of live sandbox nodes."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return sum(node["Alive"] and "sandbox" in node["Resources"] for node in nodes)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.2)


if __name__ == "__main__":
    os.environ["RAY_AUTH_MODE"] = "disabled"
    start_head(Path(sys.argv[2]))
    ray.init(address="auto", log_to_driver=False)
    Path(sys.argv[1]).write_text(json.dumps(asyncio.run(scenario())))

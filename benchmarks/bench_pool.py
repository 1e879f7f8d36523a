"""The sandbox pool: the gain from a second worker, and the cost of its control plane with a thousand workers.

    PYTHONPATH=. python benchmarks/bench_pool.py [--only workers|control-plane] [--seconds S]

Prints one JSON object per case. `workers`: tests per second in real sandboxes, for programs of ten tests that go
through the pool, with 1 and 2 workers on this machine. `control-plane`: 1,000 simulated workers on four local Ray
nodes. Each answers a call after `GRADING_S` of wall time, like a sandbox on a machine of its own. The calls are real
Ray calls, to one process per node that stands for all workers there. The output has the calls per second, the most that
the workers could do, and the driver's CPU time per call.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.cluster_utils import Cluster

from rltf.problems.types import Problem, StdinTest
from rltf.sandbox.pool import SandboxPool, _Worker
from rltf.sandbox.worker import SandboxWorker
from rltf.settings import SandboxSettings

NUM_TESTS = 10
PROBLEM = Problem("square", "bench", "", tuple(StdinTest(f"{n}\n", f"{n * n}\n") for n in range(NUM_TESTS)))
PROGRAM = "n = int(input())\nprint(n ** 2)\n"
NUM_SIMULATED, NUM_NODES, GRADING_S = 1000, 4, 2.0
HEARTBEAT_S = 120.0


class _Host:
    """Stands for all workers of a node."""

    async def start(self) -> None: ...

    async def ping(self) -> None: ...

    async def grade(self) -> None:
        await asyncio.sleep(GRADING_S)

    async def close(self) -> None: ...


class _SimulatedPool(SandboxPool):
    """A pool whose workers share one process per node."""

    def __init__(self, settings: SandboxSettings, hosts: list[Any]) -> None:
        super().__init__(SandboxWorker, settings, None, heartbeat_timeout_s=HEARTBEAT_S)
        self._hosts = itertools.cycle(hosts)

    def _new_worker(self) -> _Worker:
        self._num_started += 1
        return _Worker(f"simulated-{self._num_started}", next(self._hosts))

    async def _end(self, worker: Any) -> None:
        await worker.actor.close.remote()


@dataclass(frozen=True, slots=True)
class Load:
    """What a pool did in a period."""

    calls_per_s: float
    driver_cpu_ms_per_call: float


async def measure(pool: SandboxPool, submit: Callable[[], Any], num_under_way: int, seconds: float) -> Load:
    """Keep `num_under_way` calls under way. Counting starts once that many have been answered."""
    answered = 0

    async def caller() -> None:
        nonlocal answered
        while True:
            await submit()
            answered += 1

    callers = [asyncio.create_task(caller()) for _ in range(num_under_way)]
    while answered < num_under_way:
        await asyncio.sleep(0.05)
    first, cpu, started = answered, time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    num_calls, elapsed = answered - first, time.perf_counter() - started
    load = Load(num_calls / elapsed, 1000 * (time.process_time() - cpu) / num_calls)
    for each in callers:
        each.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    return load


def workers(seconds: float) -> None:
    """One worker, then two."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    rates = {}
    for number in (1, 2):
        rates[number] = asyncio.run(_tests_per_s(number, seconds))
    gain = round(rates[2] / rates[1], 2)
    _say("workers", tests_per_s={str(number): round(rate, 1) for number, rate in rates.items()}, gain=gain)
    ray.shutdown()


async def _tests_per_s(number: int, seconds: float) -> float:
    settings = SandboxSettings(min_workers=number, max_workers=number, num_cpus=1, min_isolation="landlock")
    pool = SandboxPool(SandboxWorker, settings, ray.put({PROBLEM.task_id: PROBLEM}), heartbeat_timeout_s=HEARTBEAT_S)
    await pool.start()
    work = [(PROBLEM.task_id, PROGRAM, str(index)) for index in range(8)]
    load = await measure(pool, lambda: pool.submit("grade", work, num_items=len(work)), 4 * number, seconds)
    await pool.close()
    return load.calls_per_s * len(work) * NUM_TESTS


def control_plane(seconds: float) -> None:
    """A thousand workers on several nodes."""
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"num_cpus": 0})
    for index in range(NUM_NODES):
        cluster.add_node(**node, resources={f"node-{index}": 1})
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    load = asyncio.run(_simulate(seconds))
    _say(
        "control-plane",
        workers=NUM_SIMULATED,
        nodes=NUM_NODES,
        calls_per_s=round(load.calls_per_s, 1),
        at_most=round(NUM_SIMULATED / GRADING_S, 1),
        driver_cpu_ms_per_call=round(load.driver_cpu_ms_per_call, 3),
    )
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]


async def _simulate(seconds: float) -> Load:
    host: Any = ray.remote(_Host)
    options = {"num_cpus": 0, "max_concurrency": 2 * NUM_SIMULATED}
    hosts = [host.options(**options, resources={f"node-{index}": 1}).remote() for index in range(NUM_NODES)]
    settings = SandboxSettings(min_workers=NUM_SIMULATED, max_workers=NUM_SIMULATED)
    pool = _SimulatedPool(settings, hosts)
    await pool.start()
    # A real worker queues its second call. Here it would run at once, so each worker gets only one.
    load = await measure(pool, lambda: pool.submit("grade"), NUM_SIMULATED, seconds)
    await pool.close()
    return load


def _say(case: str, **found: Any) -> None:
    print(json.dumps({"benchmark": "pool", "case": case, **found, "load": os.getloadavg()[0]}), flush=True)


def main() -> int:
    """Run the selected cases."""
    cases = {"workers": workers, "control-plane": control_plane}
    parser = argparse.ArgumentParser(description="Scaling of the sandbox pool.")
    parser.add_argument("--only", choices=list(cases))
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    for name, run in cases.items():
        if options.only in (None, name):
            run(options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Starts Ray with its dashboard and some actors of a run, with the learner at an update; ends when its input ends.

python -m tests.reporting.dashboard_run     prints the address of the dashboard when everything is up
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import ray

from rltf.controller.learner_service import LearnerService, shown_step
from rltf.learner.buffer import start_buffer
from rltf.sandbox import selftest
from rltf.sandbox.pool import SandboxPool
from rltf.sandbox.worker import SandboxWorker
from rltf.settings import BufferSettings, SandboxSettings
from rltf.transport.rollouts import start_rollout_store


class SlowLearner:
    """Stands in for a learner at a long update."""

    def __repr__(self) -> str:
        return "learner"

    def step(self) -> None:
        time.sleep(600)


def spawn_learner(life: int) -> Any:
    """Start it under the name that a run gives it."""
    return ray.remote(SlowLearner).options(name="learner", num_cpus=0).remote()


async def main() -> None:
    """Start everything and wait."""
    context = ray.init(
        address="local", num_cpus=2, include_dashboard=True, object_store_memory=100 * 1024 * 1024, log_to_driver=False
    )
    kept = [start_rollout_store(name="rollout-store"), start_buffer(BufferSettings(), name="buffer")]
    level = selftest.find_level(SandboxSettings()).level
    sandbox = SandboxSettings(min_workers=1, max_workers=1, num_cpus=0.5, min_isolation=level)
    pool = SandboxPool(SandboxWorker, sandbox, ray.put({}), heartbeat_timeout_s=60, name="sandbox")
    await pool.start()
    learner = LearnerService(spawn_learner, (), Path(), sft=False, emit=print)
    update: asyncio.Task[None] = asyncio.create_task(
        learner.call(lambda actor: actor.step.options(name=shown_step(11, 60)).remote(), "make an update")
    )
    print(f"http://{context.dashboard_url}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    update.cancel()
    await pool.close()
    kept.clear()


if __name__ == "__main__":
    asyncio.run(main())

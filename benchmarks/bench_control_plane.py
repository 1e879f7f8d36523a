"""The control plane: samples per second through the buffer, with 1,000 sandbox workers and 64 generators.

    PYTHONPATH=. python benchmarks/bench_control_plane.py [--samples N] [--sandboxes N] [--generators N]

Prints one JSON object. Simulated actors (`benchmarks.simulated`) take almost no time, so this measures the real driver,
pools, buffer and prefetcher. Over the second half of the run it gives `samples_per_s` (target: 5,000), the CPU seconds
that the driver and the buffer spend per thousand samples, and the growth of the driver's memory (target: none). If the
simulated actors share few cores with the driver, the CPU seconds say more than the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys

import ray

from benchmarks.simulated import SimulatedRun, StageTimes, run_simulated
from rltf.settings import (
    GIB,
    MIB,
    BufferSettings,
    CheckpointSettings,
    GeneratorSettings,
    LearnerSettings,
    RunSettings,
    SandboxSettings,
    Settings,
)

BATCH = 1024
TIMES = StageTimes(rollout_s=0.2, grade_s=0.005, update_s=0.0, slots=16)


def main() -> int:
    """Run the job once and print the measurements."""
    parser = argparse.ArgumentParser(description="Throughput of the control plane.")
    parser.add_argument("--samples", type=int, default=200 * BATCH)
    parser.add_argument("--sandboxes", type=int, default=1000)
    parser.add_argument("--generators", type=int, default=64)
    options = parser.parse_args()
    settings = Settings(
        run=RunSettings(num_steps=options.samples // BATCH),
        generator=GeneratorSettings(num_generators=options.generators),
        sandbox=SandboxSettings(min_workers=options.sandboxes, max_workers=options.sandboxes),
        learner=LearnerSettings(batch_size=BATCH),
        checkpoint=CheckpointSettings(every=10**9),
        buffer=BufferSettings(capacity=64 * BATCH, refresh_every=4, max_off_policy_versions=3),
    )
    load = os.getloadavg()[0]
    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=GIB, log_to_driver=False)
    run = asyncio.run(run_simulated(settings, TIMES))
    ray.shutdown()
    size = {"sandboxes": options.sandboxes, "generators": options.generators}
    print(json.dumps({"benchmark": "control_plane", **size, **_figures(run), "load_before": load}))
    return 0


def _figures(run: SimulatedRun) -> dict[str, float]:
    observed = run.observed
    half, last = len(observed.steps) // 2, len(observed.steps) - 1
    num_samples = sum(step.update.num_samples for step in observed.steps[half + 1 :])
    seconds = observed.at_s[last] - observed.at_s[half]
    return {
        "num_samples": sum(step.update.num_samples for step in observed.steps),
        "samples_per_s": round(num_samples / seconds),
        "driver_cpu_s_per_1000": round(
            1000 * (observed.driver_cpu_s[last] - observed.driver_cpu_s[half]) / num_samples, 4
        ),
        "buffer_cpu_s_per_1000": round(
            1000 * (observed.buffer_cpu_s[last] - observed.buffer_cpu_s[half]) / num_samples, 4
        ),
        "driver_mib": round(observed.driver_bytes[last] / MIB, 1),
        "driver_growth_mib": round((observed.driver_bytes[last] - observed.driver_bytes[half]) / MIB, 2),
        "staleness_max": max(step.staleness_max for step in observed.steps),
        "seconds": round(run.seconds, 1),
    }


if __name__ == "__main__":
    sys.exit(main())

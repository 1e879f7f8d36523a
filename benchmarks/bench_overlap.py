"""Overlapped and serial runs of the same simulated stages, compared with each other and with the plan.

    PYTHONPATH=. python benchmarks/bench_overlap.py [--updates N] [--only simulated|real]

Prints one JSON object per case. `ratio` is the overlapped wall time divided by the serial one. `bottleneck_busy` is the
share of the overlapped run in which its slowest stage was busy (target: 0.9). `plan_*` are the predictions of
`controller.planner` for the same figures. Driver, pools, buffer and prefetcher are real, and the stages sleep
(`benchmarks.simulated`). The last case is the real starter job with `buffer.max_off_policy_versions` 0 and 1; its first
updates are not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import ray

from benchmarks.simulated import SimulatedRun, StageTimes, run_simulated
from rltf.controller.planner import Shape, predict
from rltf.settings import (
    GIB,
    BufferSettings,
    CheckpointSettings,
    GeneratorSettings,
    LearnerSettings,
    RunSettings,
    SandboxSettings,
    Settings,
)

NUM_FIRST = 5
SAMPLES, BATCH, SLOTS, WORKERS = 8, 64, 4, 4
# A snapshot is one update of 64 samples: 8 rollouts, 4 at a time in each of 2 generators, and 16 programs per worker.
CASES = {
    "learner": StageTimes(rollout_s=0.6, grade_s=0.03, update_s=1.0, slots=SLOTS),
    "generators": StageTimes(rollout_s=1.0, grade_s=0.03, update_s=0.6, slots=SLOTS),
    "balanced": StageTimes(rollout_s=1.0, grade_s=0.0625, update_s=1.0, slots=SLOTS),
}


def main() -> int:
    """Run every case, serial and overlapped."""
    parser = argparse.ArgumentParser(description="Overlapped against serial runs.")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--only", choices=("simulated", "real"))
    options = parser.parse_args()
    if options.only != "real":
        simulated(options.updates)
    if options.only != "simulated":
        real(options.updates)
    return 0


def simulated(updates: int) -> None:
    """Run each case with sleeping stages."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=GIB, log_to_driver=False)
    for name, times in CASES.items():
        load = os.getloadavg()[0]
        serial, overlapped = (asyncio.run(_run(updates, times, staleness)) for staleness in (0, 2))
        plan, plan_serial = (predict(_shape(times, staleness)) for staleness in (2, 0))
        figures = {
            "serial_s": serial.seconds,
            "overlapped_s": overlapped.seconds,
            "ratio": overlapped.seconds / serial.seconds,
            "plan_ratio": plan.round_s / plan_serial.round_s,
            "bottleneck_busy": max(overlapped.generator_busy, overlapped.sandbox_busy, overlapped.learner_busy),
            "staleness": sum(step.staleness_mean for step in overlapped.observed.steps) / updates,
            "plan_staleness": plan.staleness_mean,
            "learner_busy": overlapped.learner_busy,
            "plan_learner_busy": 1 - plan.learner_idle,
            "load_before": load,
        }
        rounded = {key: round(value, 3) for key, value in figures.items()}
        print(json.dumps({"benchmark": "overlap", "case": name, "updates": updates, **rounded}), flush=True)
    ray.shutdown()


def real(updates: int) -> None:
    """Run the starter job. With two cores, its generator and its learner have one each."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        serial, overlapped = (_seconds(Path(folder), updates, staleness) for staleness in (0, 1))
    figures = {"serial_s": serial, "overlapped_s": overlapped, "ratio": overlapped / serial, "load_before": load}
    rounded = {key: round(value, 3) for key, value in figures.items()}
    print(json.dumps({"benchmark": "overlap", "case": "real", "updates": updates, **rounded}), flush=True)


def _seconds(folder: Path, updates: int, max_off_policy_versions: int) -> float:
    run = folder / f"staleness-{max_off_policy_versions}"
    settings = {
        "run.dir": run,
        "run.num_steps": updates + NUM_FIRST,
        "learner.sft.cache_dir": folder / "cache",
        "problems.evaluation": "[]",
        "evaluation.initial": "false",
        "buffer.max_off_policy_versions": max_off_policy_versions,
        "cluster.dashboard": "false",
    }
    words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    subprocess.run([sys.executable, "launch.py", *words], check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float(sum(row["elapsed_s"] for row in rows[NUM_FIRST:]))


async def _run(num_updates: int, times: StageTimes, max_off_policy_versions: int) -> SimulatedRun:
    settings = Settings(
        run=RunSettings(num_steps=num_updates),
        generator=GeneratorSettings(num_generators=2, num_generations=SAMPLES),
        sandbox=SandboxSettings(min_workers=WORKERS, max_workers=WORKERS),
        learner=LearnerSettings(batch_size=BATCH),
        checkpoint=CheckpointSettings(every=10**9),
        buffer=BufferSettings(capacity=64 * BATCH, refresh_every=1, max_off_policy_versions=max_off_policy_versions),
    )
    return await run_simulated(settings, times)


def _shape(times: StageTimes, max_off_policy_versions: int) -> Shape:
    return Shape(
        num_generators=2,
        num_workers=WORKERS,
        samples_per_s=times.slots * SAMPLES / times.rollout_s,
        programs_per_s=1 / times.grade_s,
        snapshot=BATCH,
        train_s=times.update_s,
        publish_s=times.publish_s,
        load_s=times.load_s,
        latency_s=times.rollout_s + SAMPLES * times.grade_s,
        max_off_policy_versions=max_off_policy_versions,
    )


if __name__ == "__main__":
    sys.exit(main())

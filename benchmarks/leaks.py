"""Leaks: what a job holds while it runs, and what is left after its exit and after its driver was killed.

    make leaks                                          # 300 updates, then a killed run and its resumption
    python -m benchmarks.leaks --steps 40 --runs FOLDER

While the job runs, its processes are counted every two seconds: number, resident memory, descriptors and threads by
kind. Around each run, the machine is compared with what it was before: processes, shared memory, temporary files and
control groups. Run it on a machine where nothing else starts or ends meanwhile. Prints one JSON object. The exit status
is 1 if a run failed, or if anything is left after the exit or after the resumption.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.chaos import ROOT, descendants, kind_of, num_updates
from rltf.settings import MIB

EVERY_S = 2.0
SETTLE_S = 30.0
DEADLINE_S = 3000.0
_KERNEL = 2
"""The process that is the parent of all threads of the kernel, which come and go."""
# What the machine holds for a run besides its processes.
PLACES = ("/dev/shm/*", "/tmp/*", "/tmp/ray/*", "/sys/fs/cgroup/**/rltf-*")


@dataclass(frozen=True, slots=True)
class Holding:
    """What the processes of one kind hold, after `step` updates."""

    step: int
    processes: int
    resident_mib: int
    descriptors: int
    threads: int


def holdings(driver: psutil.Process, step: int) -> dict[str, Holding]:
    """What the job holds now, by kind of process."""
    groups: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for process in [driver, *descendants(driver)]:
        kind = "driver" if process == driver else kind_of(process) or "ray and jails"
        try:
            groups[kind].append((process.memory_info().rss, process.num_fds(), process.num_threads()))
        except psutil.Error:
            continue  # it has ended
    return {
        kind: Holding(step, len(found), *(int(total) for total in np.sum(found, axis=0) // (MIB, 1, 1)))
        for kind, found in groups.items()
    }


def traces() -> set[str]:
    """Everything on this machine that a run might leave behind."""
    files = {str(path) for place in PLACES for path in Path("/").glob(place.lstrip("/"))}
    processes = [one.info for one in psutil.process_iter(["pid", "ppid", "name"])]
    return files | {
        f"process {one['pid']} {one['name']}" for one in processes if _KERNEL not in (one["pid"], one["ppid"])
    }


def run(arguments: list[str], until: Callable[[int], bool]) -> tuple[int, list[dict[str, Holding]]]:
    """Run the job; kill its driver as soon as `until` says so of the number of updates. Returns status and samples."""
    folder = Path(arguments[arguments.index("--run.dir") + 1])
    samples: list[dict[str, Holding]] = []
    with (folder.parent / "leaks.log").open("ab") as log:
        command = [sys.executable, "launch.py", *arguments]
        driver = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + DEADLINE_S
        while driver.poll() is None:
            step = num_updates(folder)
            if step:
                samples.append(holdings(psutil.Process(driver.pid), step))
            if until(step) or time.monotonic() > deadline:
                driver.send_signal(signal.SIGKILL)
            time.sleep(EVERY_S)
    return driver.returncode, samples


def growth(samples: list[dict[str, Holding]]) -> dict[str, Any]:
    """By kind of process: the medians of the samples in the first, the middle and the last fifth of the run."""
    fifth = max(1, len(samples) // 5)
    middle = (len(samples) - fifth) // 2
    parts = {"start": samples[:fifth], "middle": samples[middle : middle + fifth], "end": samples[-fifth:]}
    kinds = Counter(kind for sample in samples for kind in sample)
    return {
        kind: {
            name: {
                field: int(np.median([asdict(sample[kind])[field] for sample in part if kind in sample] or [0]))
                for field in Holding.__dataclass_fields__
            }
            for name, part in parts.items()
        }
        for kind in kinds
    }


def measure(runs: Path, num_steps: int) -> dict[str, Any]:
    """Run a whole job, then one that is killed and resumed."""
    runs.mkdir(parents=True, exist_ok=True)
    common = ["--learner.sft.cache_dir", str(runs / "cache"), "--evaluation.every", "1000"]
    job = ["--run.dir", str(runs / "whole"), "--run.num_steps", str(num_steps), *common]
    job += ["--learner.optim.decay_steps", str(num_steps)]
    before = traces()
    status, samples = run(job, lambda step: False)
    time.sleep(SETTLE_S)
    report = {"benchmark": "leaks", "steps": num_steps, "status": status, "holds": growth(samples)}
    report["left after the exit"] = sorted(traces() - before)
    killed = ["--run.dir", str(runs / "killed"), "--run.num_steps", "20", "--checkpoint.every", "5", *common]
    run(killed, lambda step: step >= 10)
    time.sleep(SETTLE_S)
    report["left after a kill"] = sorted(traces() - before)
    report["status of the resumed run"], _ = run(["--resume", str(runs / "killed"), *killed], lambda step: False)
    time.sleep(SETTLE_S)
    report["left after the resumed run"] = sorted(traces() - before)
    return report


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="number of updates")
    parser.add_argument("--runs", type=Path, help="folder to keep the runs in; default: they are deleted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="leaks-") as temporary:
        report = measure((options.runs or Path(temporary)).resolve(), options.steps)
    print(json.dumps(report), flush=True)
    ended_well = report["status"] == 0 and report["status of the resumed run"] == 0
    return 0 if ended_well and not report["left after the exit"] and not report["left after the resumed run"] else 1


if __name__ == "__main__":
    sys.exit(main())

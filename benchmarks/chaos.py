"""Chaos: actors and a whole node are killed with SIGKILL while a real job runs, beside the same job undisturbed.

    make chaos                              # at least 20 kills of every kind, on two Ray nodes of this machine
    python benchmarks/chaos.py --kills 6 --steps 12 --nodes 1 --no-undisturbed

Prints one JSON object: who was killed, how the ledger ended, pass@1 on held-out problems with 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

ROOT = Path(__file__).parents[1]
DEADLINE_S = 1500.0
POLL_S = 0.2
# Part of the title that Ray gives an actor's process.
KINDS = {
    "generator": "ray::Generator",
    "sandbox worker": "ray::GradingWorker",
    "buffer": "ray::BufferServer",
    "keeper": "ray::Keeper",
    "learner": "ray::LearnerActor",
}
NODE = "node"
JOB = {
    "problems.train": "starter:train?references=no[:200]",
    "problems.supervised": "starter:train?references=yes[:200]",
    "generator.engine": "transformers",
    "generator.num_generators": "2",
    "generator.num_cpus": "1",
    "generator.samples_per_problem": "4",
    "learner.batch_size": "32",
    "learner.supervised_batch_size": "16",
    "learner.warmup_steps": "2",
    "learner.learning_rate": "2e-4",
    "learner.decay_steps": "0",
    "learner.checkpoint_every": "5",
    "learner.num_cpus": "1",
    "sandbox.min_workers": "2",
    "sandbox.max_workers": "2",
    "buffer.capacity": "256",
    "evaluation.every": "1000",
}


def job(runs: Path, name: str, address: str, options: argparse.Namespace) -> list[str]:
    """The command line of the job."""
    settings = JOB | {
        "run.num_steps": str(options.steps),
        "run.dir": str(runs / name),
        "problems.evaluation": f"starter:test[:{options.problems}]",
        "learner.warm_start.num_steps": str(options.warm_start),
        "learner.warm_start.cache_dir": str(runs / "cache"),
        "cluster.address": address,
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    return [sys.executable, "launch.py", *words]


def rows(path: Path) -> list[dict[str, Any]]:
    """The complete rows of a file that is being written."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


class Killer:
    """Kills one thing after the other, each kind in turn, on a cluster whose raylets are children of this process."""

    def __init__(self, cluster: Cluster, num_kills: int, with_node: bool, seed: int) -> None:
        kinds = [*KINDS, *([NODE] if with_node else [])]
        self._random = random.Random(seed)
        self._cluster = cluster
        self.plan = [kinds[index % len(kinds)] for index in range(num_kills)]
        self._random.shuffle(self.plan)
        self.killed: list[tuple[str, int]] = []

    def kill_next(self, step: int) -> None:
        """Kill whom the plan names next, if one is alive."""
        if len(self.killed) == len(self.plan):
            return
        kind = self.plan[len(self.killed)]
        if kind == NODE:
            self._kill_node()
        else:
            found = processes(KINDS[kind])
            if not found:
                return
            os.kill(self._random.choice(found), signal.SIGKILL)
        self.killed.append((kind, step))

    def _kill_node(self) -> None:
        (node,) = self._cluster.worker_nodes
        self._cluster.remove_node(node, allow_graceful=False)
        add_node(self._cluster)


def processes(title: str) -> list[int]:
    """Processes below this one whose title begins so."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline() and process.cmdline()[0].startswith(title):
                found.append(process.pid)
        except psutil.Error:
            continue  # it ended meanwhile
    return found


def add_node(cluster: Cluster) -> None:
    """Add a node with room for every kind of actor."""
    cluster.add_node(num_cpus=4, object_store_memory=150 * 1024 * 1024, include_dashboard=False)


def run(command: list[str], folder: Path, killer: Killer | None) -> tuple[int, float]:
    """Run the job, killing after every other update; returns its exit status and seconds."""
    began = time.monotonic()
    log = folder.with_suffix(".log").open("wb")
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    last = 0
    while process.poll() is None:
        time.sleep(POLL_S)
        if time.monotonic() - began > DEADLINE_S:
            process.kill()
        num_rows = max((row["step"] for row in rows(folder / "metrics.jsonl")), default=0)
        if killer is not None and num_rows >= 1 and num_rows != last:
            last = num_rows
            # A little later than the update, so that it hits anything that is under way.
            time.sleep(random.random())
            killer.kill_next(num_rows)
    log.close()
    return process.returncode, time.monotonic() - began


def result(folder: Path, status: int, seconds: float) -> dict[str, Any]:
    """What became of a run."""
    evaluations, ledger = rows(folder / "evaluations.jsonl"), json.loads((folder / "ledger.json").read_text())
    spent = ledger["trained"] + sum(ledger["dropped"].values()) + sum(ledger["in_flight"].values())
    first, last = evaluations[0], evaluations[-1]
    return {
        "status": status,
        "seconds": round(seconds, 1),
        "steps": [row["step"] for row in rows(folder / "metrics.jsonl")][-1],
        "ledger": ledger,
        "balance": ledger["issued"] - spent,
        "pass@1 before": first["pass@1"]["all"],
        "pass@1": last["pass@1"]["all"],
        "interval": last["intervals"]["pass@1"]["all"],
    }


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24, help="kills, over all kinds in turn")
    parser.add_argument("--steps", type=int, default=60, help="updates of the job; at most one kill after each")
    parser.add_argument("--problems", type=int, default=60, help="held-out problems")
    parser.add_argument("--warm-start", type=int, default=300, help="supervised updates before")
    parser.add_argument("--nodes", type=int, default=2, choices=(1, 2), help="2: the second one is killed too")
    parser.add_argument("--seed", type=int, default=0, help="of the order of kills")
    parser.add_argument("--runs", type=Path, help="where the runs are kept; default: nowhere")
    parser.add_argument("--no-undisturbed", action="store_true", help="leave the run to compare with out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        print(json.dumps(measure((options.runs or Path(temporary)).resolve(), options)), flush=True)
    return 0


def measure(runs: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both runs on a cluster of their own."""
    runs.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 4, "object_store_memory": 150 * 1024 * 1024, "include_dashboard": False},
    )
    try:
        for _ in range(options.nodes - 1):
            add_node(cluster)
        report: dict[str, Any] = {"benchmark": "chaos"}
        if not options.no_undisturbed:
            status, seconds = run(job(runs, "undisturbed", cluster.address, options), runs / "undisturbed", None)
            report["undisturbed"] = result(runs / "undisturbed", status, seconds)
        killer = Killer(cluster, options.kills, options.nodes > 1, options.seed)
        status, seconds = run(job(runs, "chaos", cluster.address, options), runs / "chaos", killer)
        report["kills"] = dict(Counter(kind for kind, _ in killer.killed))
        report["num_kills"] = len(killer.killed)
        report["chaos"] = result(runs / "chaos", status, seconds)
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
    return report


if __name__ == "__main__":
    sys.exit(main())

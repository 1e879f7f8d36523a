"""Chaos: inject faults into a real job while it runs, and compare it with the same job left alone.

    make chaos                              # 28 faults: two of every kind
    python -m benchmarks.chaos --kinds generator "frozen learner" --faults 4 --steps 12 --undisturbed 0

An actor, the driver or a Ray node is killed with SIGKILL; an actor is frozen with SIGSTOP; the newest checkpoint is
damaged before a killed driver resumes; a second driver starts on the same run folder. Faults come at random moments;
the time between them is exponentially distributed. A killed driver is started again with `--resume`. Killing a node
kills its raylet and all processes below it at once; an empty node then takes its place. Prints one JSON object: the
faults, the final ledger, whether it agrees with the updates that were made, which faults the log names, and held-out
pass@1 with 95 % intervals. The exit status is 1 if the job did not survive or the books do not balance.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from ray.cluster_utils import Cluster

from rltf.evaluation.passes import bootstrap_interval
from rltf.files import checkpoints, read_rows
from rltf.supervise import EXIT_UNUSABLE_INPUT

ROOT = Path(__file__).parents[1]
DEADLINE_S = 1500.0
POLL_S = 0.1
DRIVER, NODE = "driver", "node"
DAMAGED, SECOND = "damaged checkpoint", "second driver"
FROZEN = "frozen "
# The titles that Ray gives the processes of actors.
TITLES = {
    "generator": re.compile(r"ray::\w*Generator\b"),
    "sandbox worker": re.compile(r"ray::GradingWorker\b"),
    "buffer": re.compile(r"ray::BufferServer\b"),
    "rollout store": re.compile(r"ray::RolloutStore\b"),
    "learner": re.compile(r"ray::(LearnerActor|learner)\b"),  # Ray shows the names of its updates
}
KINDS = (*TITLES, *(FROZEN + kind for kind in TITLES), DRIVER, NODE, DAMAGED, SECOND)
# What launch.log, or a second driver, says about each fault.
SAID = {
    "generator": re.compile(r"generator \d+ is gone"),
    "sandbox worker": re.compile(r"sandbox worker \S+ is gone"),
    "buffer": re.compile(r"the buffer is gone"),
    "rollout store": re.compile(r"the rollout store is gone"),
    "learner": re.compile(r"the learner is gone"),
    DRIVER: re.compile(r"resumed from|starts again from the beginning"),
    NODE: re.compile(r"node \S+ .*is gone"),
    FROZEN + "generator": re.compile(r"generator \d+ is frozen"),
    FROZEN + "sandbox worker": re.compile(r"sandbox worker \S+ is frozen"),
    FROZEN + "buffer": re.compile(r"the buffer is frozen"),
    FROZEN + "rollout store": re.compile(r"the rollout store is frozen"),
    FROZEN + "learner": re.compile(r"the learner is frozen"),
    DAMAGED: re.compile(r"step-\d+ is damaged"),
    SECOND: re.compile(r"is in use by process \d+ on "),
}
# The last fault comes before this share of the updates is made, however fast the machine is.
LAST_FAULT_AT = 0.8
NODE_ARGUMENTS: dict[str, Any] = {"num_cpus": 4, "object_store_memory": 150 * 1024 * 1024, "include_dashboard": False}
JOB = {
    "generator.engine": "transformers",
    "generator.num_generators": "2",
    "generator.num_cpus": "1",
    "generator.max_turns": "3",
    "model.max_model_len": "512",
    "learner.supervised_batch_size": "32",
    "checkpoint.every": "5",
    "learner.num_cpus": "1",
    "sandbox.min_workers": "2",
    "sandbox.max_workers": "2",
    "evaluation.every": "1000",
    "cluster.heartbeat_timeout_s": "15",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault after `step` updates. `lost` counts the processes that were hit, by kind: one, or all those of a node."""

    kind: str
    step: int
    seconds: float
    lost: dict[str, int]


@dataclass(slots=True)
class Saboteur:
    """Injects the faults that `plan` names, one after another, at random moments."""

    folder: Path
    cluster: Cluster
    plan: list[str]
    mean_s: float
    random: random.Random
    faults: list[Fault] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    _next: float = 0.0

    def poll(self, driver: subprocess.Popen[bytes], step: int, num_steps: int) -> None:
        """Inject what the plan names next, if it is time and its target is alive. Call this all the time."""
        if len(self.faults) == len(self.plan) or step == 0:
            return
        is_late = step / num_steps > LAST_FAULT_AT * (len(self.faults) + 1) / len(self.plan)
        if time.monotonic() < self._next and not is_late:
            return
        if is_late:
            time.sleep(self.random.random())  # at any moment of an update, not only right after one
        kind = self.plan[len(self.faults)]
        lost = self._inject(kind, driver)
        if lost:
            self.faults.append(Fault(kind, step, round(time.monotonic() - self.began, 1), dict(lost)))
            self._next = time.monotonic() + self.random.expovariate(1 / self.mean_s)

    def _inject(self, kind: str, driver: subprocess.Popen[bytes]) -> Counter[str]:
        match kind:
            case "node":
                return self._kill_node()
            case "driver":
                driver.send_signal(signal.SIGKILL)
                return Counter([kind])
            case "damaged checkpoint":
                return self._damage_checkpoint(driver)
            case "second driver":
                return self._start_second_driver()
        found = [process for process in descendants(psutil.Process()) if kind_of(process) == kind.removeprefix(FROZEN)]
        if not found:
            return Counter()
        return hit([self.random.choice(found)], signal.SIGSTOP if kind.startswith(FROZEN) else signal.SIGKILL)

    def _damage_checkpoint(self, driver: subprocess.Popen[bytes]) -> Counter[str]:
        """Kill the driver, and change one byte of its newest checkpoint. Waits until there is an older one."""
        if len(checkpoints(self.folder / "checkpoints")) < 2:
            return Counter()
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        newest = checkpoints(self.folder / "checkpoints")[-1]
        file = self.random.choice([path for path in sorted(newest.rglob("*")) if path.is_file()])
        content = bytearray(file.read_bytes())
        content[self.random.randrange(len(content))] ^= 1
        file.write_bytes(content)
        return Counter([DRIVER])

    def _start_second_driver(self) -> Counter[str]:
        """Resume the run while its driver trains. Raises RuntimeError unless that is refused."""
        if not any(kind_of(process) == "learner" for process in descendants(psutil.Process())):
            return Counter()  # a driver that has just started may not hold the run folder yet
        command = [sys.executable, "launch.py", "--resume", str(self.folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        if done.returncode != EXIT_UNUSABLE_INPUT or not SAID[SECOND].search(done.stderr):
            raise RuntimeError(f"a second driver was not refused: status {done.returncode}: {done.stdout}{done.stderr}")
        return Counter([SECOND])

    def _kill_node(self) -> Counter[str]:
        (node,) = self.cluster.worker_nodes
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        lost = hit([raylet, *descendants(raylet)], signal.SIGKILL)
        self.cluster.remove_node(node, allow_graceful=False)
        self.cluster.add_node(**NODE_ARGUMENTS)
        return Counter([NODE]) + lost


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """All processes below this one."""
    return process.children(recursive=True)


def hit(processes: list[psutil.Process], by: signal.Signals) -> Counter[str]:
    """Send a signal to the processes that are still alive; returns how many actors of each kind are among them."""
    lost = Counter(kind for process in processes if (kind := kind_of(process)) is not None)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(by)
    return lost


def kind_of(process: psutil.Process) -> str | None:
    """The kind of actor that runs in a process; None if there is none."""
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:
        return None  # it has ended
    return next((kind for kind, pattern in TITLES.items() if pattern.match(title)), None)


def job(folder: Path, address: str, options: argparse.Namespace) -> list[str]:
    """The command line of the job."""
    settings = JOB | {
        "run.num_steps": str(options.steps),
        "learner.batch_size": str(options.batch_size),
        "learner.optim.decay_steps": str(options.steps),  # so the result depends less on the last updates
        "run.seed": str(options.seed),
        "run.dir": str(folder),
        "problems.evaluation": f"starter:test[:{options.problems}]",
        "learner.sft.num_steps": str(options.sft_steps),
        "learner.sft.cache_dir": str(folder.parent / "cache"),
        "cluster.address": address,
    }
    return [word for key, value in settings.items() for word in (f"--{key}", value)]


def run(folder: Path, address: str, options: argparse.Namespace, saboteur: Saboteur | None) -> int:
    """Run the job until it ends by itself, however often it is killed; returns its exit status."""
    deadline = time.monotonic() + DEADLINE_S
    with folder.with_suffix(".log").open("wb") as log:

        def start(*arguments: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "launch.py", *arguments]
            return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)

        driver = start(*job(folder, address, options))
        while True:
            status = driver.poll()
            if status == -signal.SIGKILL and saboteur is not None and saboteur.faults[-1].kind in (DRIVER, DAMAGED):
                driver = start("--resume", str(folder))
            elif status is not None:
                return status
            if time.monotonic() > deadline:
                driver.kill()
                saboteur = None
            time.sleep(POLL_S)
            if saboteur is not None:
                saboteur.poll(driver, num_updates(folder), options.steps)


def num_updates(folder: Path) -> int:
    """The number of updates that a run has made so far, from its folder."""
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def result(folder: Path, status: int, seconds: float) -> dict[str, Any]:
    """The outcome of a run."""
    evaluations, ledger = read_rows(folder / "evaluations.jsonl"), json.loads((folder / "ledger.json").read_text())
    updates = read_rows(folder / "metrics.jsonl")
    spent = ledger["trained"] + sum(ledger["dropped"].values()) + sum(ledger["in_flight"].values())
    first, last = evaluations[0], evaluations[-1]
    return {
        "status": status,
        "seconds": round(seconds, 1),
        "steps": updates[-1]["step"],
        "ledger": ledger,
        "balance": ledger["issued"] - spent,
        # The learner's own count of the samples it trained on, to compare with the driver's.
        "trained_by_learner": sum(sum(update["outcomes"].values()) for update in updates),
        "pass@1 before": first["pass@1"]["all"],
        "pass@1": last["pass@1"]["all"],
        "interval": last["intervals"]["pass@1"]["all"],
    }


def passes(folder: Path) -> NDArray[np.float64]:
    """Held-out pass@1 [problems] at the end of a run."""
    last = read_rows(folder / "evaluations.jsonl")[-1]
    num_samples = last["num_samples"] / last["num_problems"]
    return np.array([last["num_passed"][task] / num_samples for task in sorted(last["num_passed"])])


def difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> dict[str, Any]:
    """The difference in points, with a 95 % bootstrap interval over the problems; both runs have the same ones."""
    low, high = bootstrap_interval(100 * (ours - theirs))
    return {"points": round(100 * float((ours - theirs).mean()), 1), "interval": [round(low, 1), round(high, 1)]}


def measure(runs: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make all runs on a local cluster."""
    runs.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(initialize_head=True, head_node_args=NODE_ARGUMENTS)
    report: dict[str, Any] = {"benchmark": "chaos"}

    def timed(name: str, saboteur: Saboteur | None) -> None:
        began = time.monotonic()
        status = run(runs / name, cluster.address, options, saboteur)
        report[name] = result(runs / name, status, time.monotonic() - began)

    undisturbed = [f"undisturbed-{index}" for index in range(options.undisturbed)]
    try:
        if NODE in options.kinds:
            cluster.add_node(**NODE_ARGUMENTS)
        for name in undisturbed:
            timed(name, None)
        plan = [options.kinds[index % len(options.kinds)] for index in range(options.faults)]
        order = random.Random(options.seed)
        order.shuffle(plan)
        saboteur = Saboteur(runs / "chaos", cluster, plan, options.mean_s, order)
        timed("chaos", saboteur)
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
    log = (runs / "chaos" / "launch.log").read_text()
    report["num_faults"] = len(saboteur.faults)
    report["faults"] = dict(Counter(fault.kind for fault in saboteur.faults))
    report["when"] = [asdict(fault) for fault in saboteur.faults]
    # A second driver writes nothing into the run folder; it was checked when it started.
    report["said"] = {kind: len(SAID[kind].findall(log)) for kind in options.kinds if kind != SECOND}
    if undisturbed:
        theirs = [passes(runs / name) for name in undisturbed]
        report["chaos - undisturbed"] = difference(passes(runs / "chaos"), np.mean(theirs, axis=0))
        if len(theirs) > 1:
            report["undisturbed - undisturbed"] = difference(theirs[0], theirs[1])
    return report


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=28, help="number of faults, the same of each kind")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="kinds of faults")
    parser.add_argument("--mean-s", type=float, default=8.0, help="mean seconds between faults")
    parser.add_argument("--steps", type=int, default=80, help="number of updates")
    parser.add_argument("--batch-size", type=int, default=64, help="samples per update")
    parser.add_argument("--problems", type=int, default=150, help="number of held-out problems")
    parser.add_argument("--sft-steps", type=int, default=1000, help="maximum number of supervised updates before RL")
    parser.add_argument("--undisturbed", type=int, default=2, help="number of runs without faults, for comparison")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults and of the job")
    parser.add_argument("--runs", type=Path, help="folder to keep the runs in; default: they are deleted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        report = measure((options.runs or Path(temporary)).resolve(), options)
    print(json.dumps(report), flush=True)
    chaos = report["chaos"]
    survived = chaos["status"] == 0 and chaos["steps"] == options.steps and report["num_faults"] == options.faults
    balanced = chaos["balance"] == 0 and chaos["trained_by_learner"] == chaos["ledger"]["trained"]
    return 0 if survived and balanced else 1


if __name__ == "__main__":
    sys.exit(main())

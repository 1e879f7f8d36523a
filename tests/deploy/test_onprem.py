"""A real `ray up deploy/onprem.yaml`, over ssh, on machines made of namespaces; then a job, and `ray down`."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.machines import HOME, ROOT, Laptop, Machine, NotHereError, machines
from tests.jobs import small_job

RAY = str(Path(sys.prefix) / "bin" / "ray")
COMMAND_S = 240.0
# A short job: one update from random weights, without an evaluation and without vLLM.
SHORT = {
    "run.num_steps": "1",
    "buffer.refresh_every": "1",
    "checkpoint.every": "1",
    "problems.evaluation": "[]",
    "generator.engine": "transformers",
    "cluster.address": "auto",
}


@dataclass(frozen=True)
class OnPrem:
    """A running cluster: its machines and its file."""

    laptop: Laptop
    head: Machine
    worker: Machine
    file: Path

    def launch(self, *arguments: str) -> str:
        """Run a job on the head, as a user would. It must succeed; returns its output."""
        done = self.laptop.ssh(self.head, f"cd rltf && {shlex.join(['python', 'launch.py', *arguments])}", COMMAND_S)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def ran_on(self, machine: Machine) -> set[str]:
        """The names of the actor classes that ran on a machine, from Ray's log files."""
        logs = machine.home.parent.glob("session_2*/logs/worker-*.err")
        lines = (line for path in logs for line in path.read_text().splitlines())
        return {line.removeprefix(":actor_name:") for line in lines if line.startswith(":actor_name:")}


@contextlib.contextmanager
def cluster(base: Path, change: Callable[[dict[str, Any]], None] = lambda config: None) -> Iterator[OnPrem]:
    """Start the cluster of deploy/onprem.yaml on two machines. At the end, `ray down` must leave no Ray process."""
    try:
        with machines(["head", "worker"], base) as (laptop, (head, worker)):
            config = yaml.safe_load((ROOT / "deploy" / "onprem.yaml").read_text())
            config["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address]}
            config["auth"] = {"ssh_user": "root", "ssh_private_key": str(laptop.key)}
            config["min_workers"] = config["max_workers"] = 1
            change(config)
            file = base / "onprem.yaml"
            file.write_text(yaml.safe_dump(config))
            for command in (["get-auth-token", "--generate"], ["up", str(file), "--yes", "--no-config-cache"]):
                done = laptop.run([RAY, *command], COMMAND_S)
                assert done.returncode == 0, done.stdout
            until("both machines were in the cluster", lambda: num_nodes(laptop, head) == 2)
            yield OnPrem(laptop, head, worker, file)
            done = laptop.run([RAY, "down", str(file), "--yes"], COMMAND_S)
            assert done.returncode == 0, done.stdout
            assert "Command failed" not in done.stdout, done.stdout
            for machine in (head, worker):
                until(f"Ray had stopped on {machine.name}", lambda m=machine: not raylets(laptop, m))  # type: ignore[misc]
    except NotHereError as error:
        pytest.skip(f"no machines made of namespaces here: {error}")


def num_nodes(laptop: Laptop, head: Machine) -> int:
    return laptop.ssh(head, "ray list nodes --filter state=ALIVE --format json", COMMAND_S).stdout.count('"node_id"')


def raylets(laptop: Laptop, machine: Machine) -> bool:
    return laptop.ssh(machine, "grep -lz '[r]aylet/raylet' /proc/[0-9]*/cmdline", COMMAND_S).returncode == 0


def until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + COMMAND_S
    while not holds():
        assert time.monotonic() < deadline, f"timed out after {COMMAND_S:g} s waiting until {what}"
        time.sleep(1)


def options(changes: dict[str, str]) -> list[str]:
    return [word for key, value in changes.items() for word in (f"--{key}", value)]


@pytest.mark.ray
@pytest.mark.long
def test_a_job_on_your_own_machines(tmp_path: Path) -> None:
    with cluster(tmp_path) as onprem:
        onprem.launch(*small_job(Path("runs"), "short", *options(SHORT), sft_steps=0))
        run = onprem.head.home / "rltf" / "runs" / "short"
        (row,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert row["num_samples"] == 16
        assert (run / "checkpoints" / "step-1" / "config.json").is_file()
        assert onprem.ran_on(onprem.worker) >= {"GradingWorker"}
        assert "GradingWorker" not in onprem.ran_on(onprem.head)
        assert "LearnerActor" in onprem.ran_on(onprem.head)


def learner_on_worker(config: dict[str, Any]) -> None:
    """Change the cluster: the worker has a GPU, and the head has none."""
    commands = config["head_start_ray_commands"]
    assert '"learner": 1, ' in commands[-1]
    commands[-1] = commands[-1].replace('"learner": 1, ', "")
    config["worker_setup_commands"] = [f"printf '#!/bin/sh\\n' > {HOME}/rltf/.gpu && chmod +x {HOME}/rltf/.gpu"]
    commands = config["worker_start_ray_commands"]
    assert "nvidia-smi -L" in commands[-1]
    commands[-1] = commands[-1].replace("nvidia-smi -L", f"{HOME}/rltf/.gpu")


@pytest.mark.ray
@pytest.mark.long
def test_the_learner_on_a_different_machine_than_the_driver(tmp_path: Path) -> None:
    """A short starter job with vLLM. Model and checkpoints go between machines, and the run can be resumed."""
    with cluster(tmp_path, learner_on_worker) as onprem:
        onprem.launch(*small_job(Path("runs"), "long", "--cluster.address", "auto"))
        run = onprem.head.home / "rltf" / "runs" / "long"
        assert "LearnerActor" in onprem.ran_on(onprem.worker)
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-2", "step-4"]
        assert (run / "report.html").is_file()
        onprem.launch("--resume", "runs/long", "--run.num_steps", "6")
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 6
        assert (run / "checkpoints" / "step-6" / "trainer_state" / "state.json").is_file()

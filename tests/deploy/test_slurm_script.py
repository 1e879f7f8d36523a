"""The commands that deploy/slurm.sbatch and deploy/sky.yaml run, with stand-ins for those of Slurm and Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from rltf.settings_sources import load_settings

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "slurm.sbatch"
SKY = ROOT / "deploy" / "sky.yaml"
HEAD = "ray start --head --port=24938 --dashboard-port=24939 --ray-client-server-port=24940"
OPTIONS = "--num-cpus=16 --num-gpus=2 --disable-usage-stats --block"
STAND_INS = {
    "srun": 'echo "srun $*" >> log; exec sleep 60',
    "scontrol": 'echo "scontrol $*" >> log; [ "$1" = show ] && printf "a1\\na2\\na3\\n"; true',
    "ray": 'echo "ray $*" >> log; [[ $* == *--block* ]] && exec sleep 60; [ -e has-ray ]',
    "rltf": 'trap "echo saved >> log; exit 143" TERM; echo "rltf $*" >> log; until [ -e ends ]; do sleep 0.1; done',
    "python": "echo secret",
}


@dataclass
class SlurmJob:
    """A folder of the program, and the script in it."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        commands = self.folder / ".venv" / "bin"
        commands.mkdir(parents=True)
        for name, body in STAND_INS.items():
            (commands / name).write_text(f"#!/bin/bash\n{body}\n")
            (commands / name).chmod(0o755)
        (self.folder / "has-ray").touch()
        slurm = {"JOB_ID": "5646", "JOB_NAME": "first", "JOB_NODELIST": "a[1-3]", "GPUS_ON_NODE": "2"}
        slurm |= {"CPUS_PER_TASK": "16", "SUBMIT_DIR": str(self.folder)}
        self.environment = os.environ | {f"SLURM_{name}": value for name, value in slurm.items()}
        self.environment["PATH"] = f"{commands}:{os.environ['PATH']}"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SCRIPT), *arguments], env=self.environment, stderr=subprocess.PIPE, text=True
        )

    def log(self) -> list[str]:
        file = self.folder / "log"
        return file.read_text().splitlines() if file.is_file() else []

    def wait_for(self, is_there: Callable[[list[str]], bool]) -> None:
        deadline = time.monotonic() + 60
        while not is_there(self.log()):
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)


@pytest.fixture
def job(tmp_path: Path) -> SlurmJob:
    return SlurmJob(tmp_path)


def trains(log: list[str]) -> bool:
    return any(line.startswith("rltf ") for line in log)


def test_one_ray_over_all_nodes_and_the_driver(job: SlurmJob) -> None:
    process = job.start("--config", "configs/mbpp.yaml")
    one = "--ntasks-per-node=1 --cpus-per-task=16"
    others = f"srun --nodes=2 --ntasks=2 {one} --exclude=a1 ray start --address=a1:24938 {OPTIONS}"
    job.wait_for(lambda log: others in log)  # it starts beside the driver
    (job.folder / "ends").touch()
    assert process.wait(60) == 0
    log = job.log()
    assert f"srun --nodes=1 --ntasks=1 {one} --nodelist=a1 {HEAD} {OPTIONS}" in log
    (command,) = [line for line in log if line.startswith("rltf ")]
    assert command == "rltf train --run.name first --config configs/mbpp.yaml --cluster.address a1:24938"
    settings, _ = load_settings(command.split()[2:], environ={})
    assert (settings.run.folder, settings.cluster.address) == (Path("runs/first"), "a1:24938")
    assert not [line for line in log if line.startswith("scontrol requeue")]


@pytest.mark.parametrize(
    ("number", "is_requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False), (signal.SIGINT, False)]
)
def test_a_signal_saves_a_checkpoint(job: SlurmJob, number: signal.Signals, is_requeued: bool) -> None:
    process = job.start()
    job.wait_for(trains)
    time.sleep(0.3)  # the script notes the driver's process
    process.send_signal(number)
    assert process.wait(60) == 143
    assert "saved" in job.log()
    assert ("scontrol requeue 5646" in job.log()) == is_requeued


def test_a_run_that_ends_before_the_limit_is_not_requeued(job: SlurmJob) -> None:
    (job.folder / ".venv" / "bin" / "rltf").write_text(
        '#!/bin/bash\ntrap "exit 0" TERM; echo rltf >> log; echo rltf train >> log; while true; do sleep 0.1; done\n'
    )
    process = job.start()
    job.wait_for(trains)
    time.sleep(0.3)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 0
    assert not [line for line in job.log() if line.startswith("scontrol requeue")]


def test_a_run_folder_is_resumed(job: SlurmJob) -> None:
    (job.folder / "runs" / "first").mkdir(parents=True)
    (job.folder / "runs" / "first" / "settings.yaml").touch()
    (job.folder / "ends").touch()
    assert job.start("--config", "configs/mbpp.yaml").wait(60) == 0
    assert "rltf train --resume runs/first --cluster.address a1:24938" in job.log()


@pytest.mark.slow
def test_a_head_that_does_not_start_ends_the_job(job: SlurmJob) -> None:
    (job.folder / "has-ray").unlink()
    (job.folder / ".venv" / "bin" / "srun").write_text("#!/bin/bash\nexit 1\n")
    process = job.start()
    assert process.wait(60) == 1
    assert process.stderr is not None
    assert "Ray did not start on a1" in process.stderr.read()
    assert not trains(job.log())


# SkyPilot


def sky() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(SKY.read_text())
    return loaded


@pytest.mark.parametrize("part", ["setup", "run"])
def test_the_commands_for_skypilot_are_valid(part: str) -> None:
    subprocess.run(["bash", "-n", "-c", sky()[part]], check=True)


@pytest.mark.parametrize("exists", [False, True])
def test_skypilot_starts_or_resumes_the_run(exists: bool, job: SlurmJob) -> None:
    (job.folder / "ends").touch()
    run = job.folder / "rltf-runs" / "first"
    if exists:
        run.mkdir(parents=True)
        (run / "settings.yaml").touch()
    variables = {"HOME": str(job.folder), "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": "0"}
    environment = job.environment | sky()["envs"] | variables
    subprocess.run(["bash", "-c", sky()["run"]], env=environment, cwd=job.folder, check=True, timeout=60)
    new = f"--config configs/mbpp.yaml --run.name first --run.dir {run}"
    arguments = f"--resume {run}" if exists else new
    assert f"rltf train {arguments} --cluster.address 10.0.0.1:6379" in job.log()
    head = "ray start --head --port=6379 --num-gpus=0 --dashboard-agent-listen-port=52366 --disable-usage-stats --block"
    assert head in job.log()
    mounts = sky()["file_mounts"]
    assert list(mounts) == ["~/rltf-runs"]

"""A whole job whose learner is two processes: one of them dies, and any number of them continues the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import AutoModelForCausalLM

from rltf.controller.ledger import Ledger
from tests.jobs import ROOT, launch, small_job

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TWO = ("--learner.num_workers", "2", "--learner.num_cpus", "0.5", "--learner.dist_timeout_s", "30")
ENGINE = ("--generator.engine", "transformers", "--checkpoint.every", "1", "--problems.evaluation", "[]")


def rows(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def stop_a_rank(driver: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to the second process of the learner."""
    (rank,) = [
        process
        for process in psutil.Process(driver.pid).children(recursive=True)
        if process.is_running() and "ray::Follower" in "".join(process.cmdline())
    ]
    os.kill(rank.pid, number)


def disturbed(runs: Path, number: signal.Signals) -> Path:
    """A finished run of two ranks. The second one got a signal after two updates."""
    command = small_job(runs, "run", *TWO, *ENGINE, "--run.num_steps", "5", sft_steps=2)
    driver = subprocess.Popen(
        [sys.executable, "launch.py", *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + 300
        while len(rows(runs / "run")) < 2:
            assert driver.poll() is None, driver.communicate()[0]
            assert time.monotonic() < deadline, "the job did not reach its updates in time"
            time.sleep(0.05)
        stop_a_rank(driver, number)
        output, _ = driver.communicate(timeout=300)
    finally:
        driver.kill()
    assert driver.returncode == 0, output
    return runs / "run"


def check(run: Path, num_steps: int) -> None:
    assert [row["step"] for row in rows(run)] == list(range(1, num_steps + 1))
    state = json.loads((run / "checkpoints" / f"step-{num_steps}" / "trainer_state" / "run_state.json").read_text())
    assert Ledger.from_json(state["ledger"]).counts().balance == 0
    AutoModelForCausalLM.from_pretrained(run / "checkpoints" / f"step-{num_steps}")


@pytest.mark.long
def test_a_run_outlives_the_death_of_a_rank(tmp_path: Path) -> None:
    run = disturbed(tmp_path, signal.SIGKILL)
    assert "the learner is gone" in (run / "launch.log").read_text()
    check(run, 5)


@pytest.mark.long
def test_a_run_outlives_a_frozen_rank_and_any_number_of_ranks_continues_it(tmp_path: Path) -> None:
    run = disturbed(tmp_path, signal.SIGSTOP)
    assert "the learner is gone" in (run / "launch.log").read_text()
    check(run, 5)
    for num_workers, num_steps in ((1, 6), (2, 7)):
        more = ("--learner.num_workers", str(num_workers), "--run.num_steps", str(num_steps))
        done = launch("--resume", str(run), *more)
        assert done.returncode == 0, done.stdout + done.stderr
        check(run, num_steps)


@pytest.mark.long
def test_two_ranks_learn_from_two_generators_of_several_workers_each(tmp_path: Path) -> None:
    """The tiny model has three heads, so three workers share them. Nothing of vLLM's processes is left."""
    before = shared_names()
    split = ("--generator.num_generators", "2", "--generator.num_cpus", "0.25", "--generator.tensor_parallel_size", "3")
    turns = ("--generator.max_turns", "2", "--model.max_model_len", "400", "--learner.num_workers", "2")
    done = launch(*small_job(tmp_path, "run", *split, *turns, "--learner.num_cpus", "0.25"))
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert counts["trained"] == sum(row["num_samples"] for row in rows(tmp_path / "run"))
    assert max(row["mismatch_max"] for row in rows(tmp_path / "run")[:1]) < 1e-3
    assert shared_names() <= before


def shared_names() -> set[str]:
    """Python's names in /dev/shm."""
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(("psm_", "sem.mp-"))}

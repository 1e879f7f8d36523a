"""A deterministic run gives the same bits in one go, killed and resumed, or as a plain loop."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rltf.controller.ledger import Ledger
from rltf.controller.problem_sampler import ProblemSampler
from rltf.controller.problems import load_problem_sets
from rltf.files import newest_checkpoint
from rltf.settings_sources import load_settings
from tests.jobs import ROOT, launch, python, small_job

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NUM_STEPS = 4
SAMPLES = 4
OPTIONS = {
    "run.num_steps": str(NUM_STEPS),
    "problems.evaluation": "[]",
    "problems.skip_solved": "0",
    "generator.engine": "transformers",
    "generator.max_tokens": "24",
    "generator.num_generations": str(SAMPLES),
    "checkpoint.every": "1",
    "checkpoint.keep": "99",
    "buffer.refresh_every": "1",
}
DETERMINISTIC: dict[str, object] = {
    "run__deterministic": True,
    "buffer__max_off_policy_versions": 0,
    "generator__max_turns": 3,
    "learner__sft__num_steps": 4,
}


def arguments(runs: Path, name: str, **more: object) -> list[str]:
    """The arguments of a job. `more` are further settings, with `__` instead of dots."""
    options = OPTIONS | {key.replace("__", "."): str(value).lower() for key, value in more.items()}
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    return small_job(runs, name, *words, sft_steps=0)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{NUM_STEPS}" / "model.safetensors")


def assert_same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def finish(*command: str) -> None:
    done = launch(*command)
    assert done.returncode == 0, done.stdout + done.stderr


def start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "launch.py", *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def kill(driver: subprocess.Popen[bytes]) -> None:
    driver.send_signal(signal.SIGKILL)
    driver.wait(timeout=60)


def kill_in_training(run: Path, job: list[str], num_updates: int) -> None:
    """Start the job, and kill its driver shortly after it has made `num_updates` more updates than before."""
    metrics = run / "metrics.jsonl"
    num_updates += metrics.read_text().count("\n") if metrics.exists() else 0
    driver = start(*job)
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text().count("\n") >= num_updates):
        assert driver.poll() is None, "the job ended by itself"
        assert time.monotonic() < deadline, "the job did not reach its updates in time"
        time.sleep(0.02)
    time.sleep(random.Random(num_updates).random() / 2)
    kill(driver)


def run_through(run: Path, job: list[str], lives_s: Sequence[float]) -> int:
    """Run the job to its end. Kill its driver after each time in `lives_s`; returns the number of kills."""
    for num_kills, seconds in enumerate(lives_s):
        driver = start(*job)
        try:
            assert driver.wait(timeout=seconds) == 0
            return num_kills
        except subprocess.TimeoutExpired:
            kill(driver)
        if (run / "settings.yaml").exists():
            job = ["--resume", str(run)]
    finish(*job)
    return len(lives_s)


def check_books(run: Path) -> None:
    """From one checkpoint to the next, the ledgers must skip no turn and take none twice.

    A turn is a position in the order of problems, which has each problem once per epoch.
    """
    settings, _ = load_settings(["--resume", str(run)], environ={})
    sets = load_problem_sets(settings.problems)
    order = ProblemSampler([problem.task_id for problem in sets.train], settings.run.seed)
    turns = [""]
    live: set[int] = set()
    issued = closed = 0
    for step in range(1, settings.run.num_steps + 1):
        path = run / "checkpoints" / f"step-{step}" / "trainer_state" / "run_state.json"
        state = json.loads(path.read_text())
        ledger = Ledger.from_json(state["ledger"])
        assert ledger.counts().balance == 0
        new = range(len(turns), state["order"]["position"] + 1)
        turns += [order.next() for _ in new]
        now = {rollout.position: rollout.task_id for rollout in ledger.live.values()}
        assert len(now) == len(ledger.live), "two rollouts for one turn"
        assert all(turns[position] == task_id for position, task_id in now.items())
        assert now.keys() <= live | set(new), "a turn came again"
        ended = (live | set(new)) - now.keys()
        assert ledger.num_issued - issued == SAMPLES * len(new), "a turn was not requested exactly once"
        dropped = ledger.dropped.total()
        assert ledger.num_trained + dropped - closed == SAMPLES * len(ended), "a turn ended without being counted"
        live, issued, closed = set(now), ledger.num_issued, ledger.num_trained + dropped


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deterministic run, after an SFT stage, that nothing disturbs."""
    runs = tmp_path_factory.mktemp("runs")
    finish(*arguments(runs, "whole", **DETERMINISTIC))
    return runs / "whole"


def test_a_killed_and_resumed_run_gives_the_same_bits(whole: Path) -> None:
    """Even if its newest checkpoint is damaged, so that it continues from an older one."""
    killed = whole.with_name("killed")
    job = arguments(whole.parent, "killed", **DETERMINISTIC)
    kill_in_training(killed, job, random.Random(0).randint(1, NUM_STEPS - 1))
    newest = newest_checkpoint(killed / "checkpoints")
    assert newest is not None
    with (newest / "trainer_state" / "optimizer" / ".metadata").open("r+b") as file:
        file.write(b"damaged")
    finish("--resume", str(killed))
    assert (
        f"{newest} is damaged and is set aside: trainer_state/optimizer/.metadata"
        in (killed / "launch.log").read_text()
    )
    assert_same_bits(weights(killed), weights(whole))
    check_books(killed)


def serial_loop(runs: Path, **options: object) -> dict[str, torch.Tensor]:
    """The weights that `examples/simple_loop.py` makes."""
    done = python("-m", "examples.simple_loop", *arguments(runs, "loop", **options))
    assert done.returncode == 0, done.stdout + done.stderr
    return weights(runs / "loop")


def test_the_serial_loop_gives_the_same_bits(whole: Path, tmp_path: Path) -> None:
    assert_same_bits(serial_loop(tmp_path, **DETERMINISTIC), weights(whole))


@pytest.mark.long
def test_the_serial_loop_gives_the_same_bits_with_greedy_decoding(tmp_path: Path) -> None:
    options = DETERMINISTIC | {"algorithm": "rltf-paper", "buffer__refresh_every": 2, "checkpoint__every": 2}
    finish(*arguments(tmp_path, "whole", **options))
    assert_same_bits(serial_loop(tmp_path, **options), weights(tmp_path / "whole"))


@pytest.mark.long
@pytest.mark.parametrize(("engine", "num_runs"), [("transformers", 6), ("vllm", 2)])
def test_runs_killed_at_any_moment_give_the_same_bits(engine: str, num_runs: int, tmp_path: Path) -> None:
    """Sampling runs ahead of training here, so rollouts are in progress when the driver is killed."""

    def job(name: str) -> list[str]:
        return arguments(
            tmp_path, name, run__deterministic=True, generator__engine=engine, buffer__max_off_policy_versions=1
        )  # fmt: skip

    began = time.monotonic()
    finish(*job("whole"))
    whole_s = time.monotonic() - began
    for seed in range(num_runs):
        moment = random.Random(seed)
        run = tmp_path / f"killed-{seed}"
        lives_s = [moment.uniform(0, whole_s) for _ in range(1 + seed % 2)]
        num_kills = run_through(run, job(run.name), lives_s)
        print(f"{engine}: {num_kills} kills, lives of {lives_s} s; the whole run takes {whole_s:.0f} s")
        assert_same_bits(weights(run), weights(tmp_path / "whole"))
        check_books(run)


@pytest.mark.long
def test_runs_killed_at_any_moment_skip_and_repeat_no_turn(tmp_path: Path) -> None:
    """Two generators overlap freely, for more than one epoch of problems."""
    job = arguments(
        tmp_path, "killed", run__num_steps=32, generator__num_generators=2, buffer__max_off_policy_versions=2,
        buffer__refresh_every=2,
    )  # fmt: skip
    run = tmp_path / "killed"
    for _ in range(10):
        kill_in_training(run, job, 2)
        job = ["--resume", str(run)]
    finish(*job)
    check_books(run)
    assert (run / "launch.log").read_text().count("resumed from") == 10

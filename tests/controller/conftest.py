"""One small job that several files look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.jobs import python, small_job


@dataclass(frozen=True)
class FinishedJob:
    """A finished job that recorded its updates, and the number of bytes that its driver read from Ray.

    It was evaluated on two named sets of problems. A function of the user rewards every program with 0.5. Samples have
    up to three turns.
    """

    folder: Path
    runs: Path
    output: str
    driver_bytes: int


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    """The job. Do not change its folder."""
    runs = tmp_path_factory.mktemp("runs")
    count = runs / "driver_bytes"
    sets = '{"first": "starter:test[:2]", "second": ["starter:test[2:4]", "starter:test[4:6]"]}'
    options = (
        "--run.log_batches",
        "4",
        "--learner.loss.kl_loss_coef",
        "0.1",
        "--problems.evaluation",
        sets,
        "--sandbox.max_tests",
        "3",
        "--generator.max_turns",
        "3",
        "--model.max_model_len",
        "400",
        "--rewards.function",
        "tests.rewards.functions:half",
    )
    done = python("-m", "tests.controller.counted_launch", str(count), *small_job(runs, "job", *options))
    assert done.returncode == 0, done.stdout + done.stderr
    return FinishedJob(runs / "job", runs, done.stdout, int(count.read_text()))

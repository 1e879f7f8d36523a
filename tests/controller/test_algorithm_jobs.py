"""A whole small job of every algorithm: its resume, its replay and the serial loop give the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rltf.settings import Algorithm
from tests.controller.test_resume import DETERMINISTIC, arguments, assert_same_bits, finish, serial_loop, weights
from tests.jobs import launch, python

pytestmark = [pytest.mark.ray, pytest.mark.long]


def check(runs: Path, **options: object) -> None:
    """Run a job of these options in one go, and again with a stop in the middle."""
    given = DETERMINISTIC | options
    finish(*arguments(runs, "whole", run__log_batches=4, **given))
    rows = [json.loads(line) for line in (runs / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert max(row["ratio_max"] for row in rows) < 1 + 1e-3, "every sample is from the weights that it updates"
    finish(*arguments(runs, "halves", **given), "--run.num_steps", "2")
    finish("--resume", str(runs / "halves"), "--run.num_steps", "4")
    assert_same_bits(weights(runs / "halves"), weights(runs / "whole"))
    replayed = launch("--replay", str(runs / "whole"))
    assert "All 4 updates reproduced the weights of the run bit for bit" in replayed.stdout, replayed.stderr
    assert_same_bits(serial_loop(runs, **given), weights(runs / "whole"))


@pytest.mark.parametrize("algorithm", [one for one in Algorithm if one is not Algorithm.CODERL])
def test_a_job_of_every_algorithm(algorithm: Algorithm, tmp_path: Path) -> None:
    more = {
        Algorithm.PPOCODER: {"problems__train": "starter:train?references=yes[:24]"},
        Algorithm.DAPO: {"rewards__outcome": "coarse"},  # nothing passes here, so 1 and -1 would drop every rollout
    }
    check(tmp_path, algorithm=algorithm, **more.get(algorithm, {}))


def test_a_job_with_a_critic(tmp_path: Path) -> None:
    """The critic learns from programs of the model that RL starts from."""
    finish(*arguments(tmp_path, "start", **DETERMINISTIC), "--run.num_steps", "1")
    model, problems = str(tmp_path / "start" / "checkpoints" / "step-1"), "starter:train[:24]"
    sampling = ("--num-samples", "2", "--k", "1", "--max-tokens", "24", "--engine", "transformers")
    graded = ("--model", model, "--problems", problems, *sampling, "--output", str(tmp_path / "graded"))
    trained = ("--samples", str(tmp_path / "graded"), "--num-epochs", "1", "--output", str(tmp_path / "critic"))
    for command in (
        ("evaluate.py", *graded),
        ("-m", "rltf.cli", "critic", "--model", model, "--problems", problems, *trained),
    ):
        done = python(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    check(tmp_path, algorithm=Algorithm.CODERL, learner__advantage__critic=tmp_path / "critic")

"""The short form of the chaos benchmark: one kill of each kind of actor in a tiny real job."""

from __future__ import annotations

import json

import pytest

from tests.ring.jobs import python


@pytest.mark.slow
def test_a_job_survives_the_death_of_each_kind_of_actor() -> None:
    done = python(
        "benchmarks/chaos.py", "--kills", "5", "--steps", "8", "--problems", "4", "--warm-start", "0",
        "--nodes", "1", "--no-undisturbed",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] == {"generator": 1, "sandbox worker": 1, "buffer": 1, "keeper": 1, "learner": 1}
    chaos = report["chaos"]
    assert (chaos["status"], chaos["steps"], chaos["balance"]) == (0, 8, 0)
    assert chaos["ledger"]["trained"] >= 8 * 32

"""The chaos benchmark, short: faults in a tiny real job."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.jobs import python

pytestmark = pytest.mark.ray

SMALL = ("--problems", "4", "--sft-steps", "0", "--undisturbed", "0")


def chaos(*options: str, timeout_s: float = 360.0) -> dict[str, Any]:
    done = python("-m", "benchmarks.chaos", *SMALL, *options, timeout_s=timeout_s)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.mark.slow
def test_a_job_survives_deaths_a_freeze_and_a_second_driver() -> None:
    kinds = ("generator", "learner", "frozen buffer", "second driver")
    report = chaos("--kinds", *kinds, "--faults", "4", "--steps", "6", "--mean-s", "2", "--batch-size", "32")
    assert report["faults"] == dict.fromkeys(kinds, 1)
    assert min(report["said"].values()) >= 1, report["said"]


@pytest.mark.long
def test_a_job_survives_the_death_of_each_kind_of_actor() -> None:
    kinds = ("generator", "sandbox worker", "buffer", "rollout store", "learner")
    report = chaos("--kinds", *kinds, "--faults", "5", "--steps", "8", "--mean-s", "2", "--batch-size", "32")
    assert report["faults"] == dict.fromkeys(kinds, 1)
    assert min(report["said"].values()) >= 1, report["said"]


@pytest.mark.long
def test_a_job_survives_the_death_of_a_node_and_of_the_driver() -> None:
    # Ray takes about 10 s to notice that a node died, and the driver must live long enough to log it.
    report = chaos("--kinds", "node", "driver", "--faults", "4", "--steps", "20", "--mean-s", "30", timeout_s=900.0)
    assert report["faults"] == {"node": 2, "driver": 2}
    assert min(report["said"].values()) >= 1, report["said"]

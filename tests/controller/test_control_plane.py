"""The control plane benchmark, short: real driver, pools, buffer and prefetcher with many simulated actors."""

from __future__ import annotations

import json

import pytest

from tests.jobs import python

pytestmark = pytest.mark.ray


@pytest.mark.long
def test_many_simulated_actors_feed_the_learner_through_the_buffer() -> None:
    options = ("--samples", "8192", "--sandboxes", "100", "--generators", "8")
    done = python("-m", "benchmarks.bench_control_plane", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["num_samples"] >= 8192
    assert figures["staleness_max"] <= 3

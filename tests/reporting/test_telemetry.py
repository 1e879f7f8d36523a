"""Every declared series arrives at Ray's metrics endpoint, under its name, with its help text and its tags."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from reporting.series import RUN_TAG, SERIES, Kind

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def endpoint_text() -> str:
    """What the endpoint says after a run has set everything, in a Ray of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.reporting.exporting_run", "--print"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_every_series_is_on_the_metrics_endpoint(endpoint_text: str) -> None:
    for one in SERIES:
        sample = one.exported + ("_bucket" if one.kind is Kind.HISTOGRAM else "")
        found = re.search(rf"^{sample}\{{(.*)\}} \S+$", endpoint_text, re.MULTILINE)
        assert found, f"{sample} is missing"
        for tag in (RUN_TAG, *one.tags):
            assert f'{tag}="' in found[1], f"{sample} has no tag {tag}"
        assert f"# HELP {one.exported} {one.description}" in endpoint_text
        assert f"# TYPE {one.exported} {one.kind.value}" in endpoint_text


def test_counts_add_up_over_a_replaced_generator(endpoint_text: str) -> None:
    sampled = re.search(r'^ray_rltf_sampled_tokens_total\{.*generator="generator-0".*\} (\S+)$', endpoint_text, re.M)
    assert sampled
    assert float(sampled[1]) == 1000 + 500 + 200  # the last 200 are those of its successor


def test_staleness_is_a_histogram_over_samples(endpoint_text: str) -> None:
    buckets = dict(re.findall(r'^ray_rltf_staleness_versions_bucket\{.*le="([^"]+)".*\} (\S+)$', endpoint_text, re.M))
    assert (float(buckets["0.5"]), float(buckets["1.5"]), float(buckets["+Inf"])) == (12, 15, 16)

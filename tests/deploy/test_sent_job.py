"""`launch.py --cluster.address ray://...` on a laptop: the cluster runs the job and keeps its run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.alone import run_alone


@pytest.mark.ray
@pytest.mark.long
def test_a_cluster_runs_a_job_sent_from_a_laptop(tmp_path: Path) -> None:
    seen = run_alone("tests.deploy.submission", tmp_path, 560)
    assert seen["status"] == 0, seen["said"]
    assert "submitted as job-" in seen["said"]
    assert "step 4/4" in seen["said"]
    assert {"metrics.jsonl", "checkpoints", "report.html"} <= set(seen["files"])
    assert not (tmp_path / "job").exists(), "the job ran on the laptop"
    assert "step 5/5" in seen["again"], seen["again"]

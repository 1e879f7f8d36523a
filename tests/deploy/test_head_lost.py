"""A job whose cluster loses its head says so and ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.alone import run_alone


@pytest.mark.ray
@pytest.mark.long
def test_a_job_whose_head_is_lost_says_so_and_ends(tmp_path: Path) -> None:
    seen = run_alone("tests.deploy.head_lost", tmp_path, 560)
    assert seen["status"] != 0
    assert "stopped answering" in " ".join(seen["said"].split())
    assert "--resume" in seen["said"]
    assert list((tmp_path / "job" / "checkpoints").glob("step-*"))

"""A job whose cluster loses its head says so and ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.alone import run_alone


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize(("is_frozen", "said"), [(False, "stopped answering"), (True, "is frozen: ")])
def test_a_job_whose_head_is_lost_or_frozen_says_so_and_ends(is_frozen: bool, said: str, tmp_path: Path) -> None:
    if is_frozen:
        (tmp_path / "freeze").touch()
    seen = run_alone("tests.deploy.head_lost", tmp_path, 560)
    assert seen["status"] != 0
    assert said in " ".join(seen["said"].split())
    assert "--resume" in seen["said"]
    assert list((tmp_path / "job" / "checkpoints").glob("step-*"))

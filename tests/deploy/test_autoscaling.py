"""A backlog starts sandbox nodes, and idle ones stop: with Ray's autoscaler and its fake provider."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.alone import run_alone


@pytest.mark.ray
@pytest.mark.long
def test_a_backlog_starts_nodes_and_idle_nodes_stop(tmp_path: Path) -> None:
    seen = run_alone("tests.deploy.autoscaling", tmp_path, 240)
    assert seen["rising"] == [0, 1, 2]
    assert seen["answers"] == [60]
    assert seen["falling"] == [2, 1]

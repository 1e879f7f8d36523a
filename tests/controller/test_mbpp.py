"""A whole job on real MBPP rows, with a tiny random model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.jobs import launch

pytestmark = [pytest.mark.ray, pytest.mark.long]


def test_mbpp_runs_through_several_refreshes(tmp_path: Path) -> None:
    data = os.environ.get("BENCHMARK_DATA")
    if data is None:
        pytest.skip("BENCHMARK_DATA is not a folder with benchmark data")
    rows = Path(data).resolve() / "mbpp" / "mbpp.jsonl"
    settings = {
        "run.num_steps": "6",
        "run.dir": str(tmp_path / "mbpp"),
        "problems.train": f"mbpp:{rows}?split=train",
        "problems.evaluation": f"mbpp:{rows}?split=test[0:4]",
        "learner.batch_size": "16",
        "learner.sft.cache_dir": str(tmp_path / "cache"),
        "buffer.refresh_every": "2",
        "evaluation.every": "6",
        "generator.max_tokens": "48",
        "cluster.dashboard": "false",
    }
    options = [word for key, value in settings.items() for word in (f"--{key}", value)]
    done = launch("--config", "configs/mbpp.yaml", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = [json.loads(line) for line in (tmp_path / "mbpp" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == list(range(1, 7))
    assert len({row["weights_version"] for row in metrics}) == 3
    assert all("infrastructure_error" not in row["outcomes"] for row in metrics)

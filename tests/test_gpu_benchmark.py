"""The script for a GPU runs, on a CPU, the code that it will run there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_script_for_a_gpu_measures_updates_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--only", "updates", "profile"]
    subprocess.run([*command, "--output", str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    updates = [row for row in rows if row["section"] == "updates"]
    ways = {(row["case"], row["attn_implementation"], row["torch_compile"], row["row_tokens"]) for row in updates}
    assert len(ways) == len(updates) == 16
    for row in updates:
        is_flex = row["attn_implementation"] == "flex_attention"
        assert ("no backward pass on a CPU" in row.get("skipped", "")) == is_flex
        assert is_flex or (row["tokens_per_cpu_s"] > 0 and 0 <= row["padding"] < 0.5 and row["mfu"] is None)
    profiled = [row for row in rows if row["section"] == "profile" and "skipped" not in row]
    assert {"matrix products", "optimizer", "attention"} <= profiled[0]["split_s"].keys()
    tables = (tmp_path / "results.md").read_text()
    assert "## updates" in tables
    assert tables.count("\n|") == len(rows) + 4  # two lines of heading each

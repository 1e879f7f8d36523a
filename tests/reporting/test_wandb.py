"""Weights & Biases through its own client in offline mode: the test reads back what it would have sent."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from rltf.errors import UserError
from rltf.reporting.run_folder import RunFolder
from rltf.settings import RunSettings, Settings
from tests.reporting.runs import PROBLEMS, evaluation_row, step_row

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(run=RunSettings(name="demo", wandb_project="rltf"))


@pytest.fixture(autouse=True)
def no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent")


def records(folder: Path) -> list[Any]:
    """Everything in the files of the offline runs in a run folder, oldest first."""
    found = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for data in payloads(file.read_bytes()):
            record = getattr(wandb_internal_pb2, "Record")()  # noqa: B009 - its types do not know it
            record.ParseFromString(data)
            found.append(record)
    return found


def payloads(log: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log after a header of 7 bytes: pieces of CRC, length, kind (1 full, 4 last), data."""
    position, so_far = 7, b""
    while position + 7 <= len(log):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", log, position)
        so_far += log[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield so_far
            so_far = b""


@pytest.mark.slow
def test_one_setting_sends_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with RunFolder.create(tmp_path / "run", SETTINGS, PROBLEMS) as folder:
        folder.metrics(step_row(1))
        folder.metrics(step_row(2))
        folder.evaluation(evaluation_row(2, 0.5))
    with RunFolder.resume(tmp_path / "run", SETTINGS, PROBLEMS, step=2) as folder:
        folder.metrics(step_row(3))
    all_records = records(tmp_path / "run")
    runs = [record.run for record in all_records if record.WhichOneof("record_type") == "run"]
    assert {(run.project, run.display_name) for run in runs} == {("rltf", "demo")}
    assert len({run.run_id for run in runs}) == 1  # resumed, not a second run
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in all_records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [row["step"] for row in rows] == [1, 2, 2, 3]
    assert rows[0]["train/reward_mean"] == step_row(1)["reward_mean"]
    assert rows[0]["train/outcomes/passed"] > 0
    assert rows[2]["evaluation/pass_at_1/all"] == 0.5


@pytest.mark.parametrize("content", [b"", b"0123456", b"0123456g", b"0123456\xff"])
def test_a_damaged_id_is_named(content: bytes, tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", Settings(), PROBLEMS).close()
    (tmp_path / "run" / "wandb-run-id").write_bytes(content)
    with pytest.raises(UserError, match=r"run/wandb-run-id.*(expected 8 hexadecimal digits|not UTF-8)"):
        RunFolder.resume(tmp_path / "run", SETTINGS, PROBLEMS, step=0)


def test_without_the_setting_nothing_is_written(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", Settings(), PROBLEMS).close()
    assert not list((tmp_path / "run").glob("wandb*"))


@pytest.mark.slow
def test_a_missing_key_is_explained_and_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    code = (
        "from pathlib import Path; from rltf.reporting.run_folder import RunFolder; "
        "from tests.reporting.test_wandb import SETTINGS;"
        f"RunFolder.create(Path({str(tmp_path / 'run')!r}), SETTINGS, {{}})"
    )
    # In its own process, because the client reads its mode once.
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)
    assert re.search(r"UserError: run\.wandb_project rltf: .*WANDB_API_KEY", done.stderr), done.stderr
    assert not (tmp_path / "run").exists()

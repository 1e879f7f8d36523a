"""A failed start leaves no run folder behind, unless the run learned something."""

from __future__ import annotations

from pathlib import Path

import pytest

import launch
from rltf import job
from rltf.errors import UserError
from rltf.settings import ClusterSettings
from tests.jobs import small_job


@pytest.mark.slow
@pytest.mark.parametrize(("error", "status"), [(UserError("no such model"), 2), (RuntimeError("Ray is broken"), 1)])
def test_a_failed_start_frees_the_name(
    error: Exception, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(cluster: ClusterSettings) -> str:
        assert (tmp_path / "first").is_dir()
        raise error

    monkeypatch.setattr(job, "ray_running", fail)
    for _ in range(2):
        assert launch.main(small_job(tmp_path, "first")) == status
        shown = capsys.readouterr().out
        assert f"launch.py: {error}" in shown.replace("RuntimeError: ", "")
        assert not (tmp_path / "first").exists()


def test_a_run_that_learned_something_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(cluster: ClusterSettings) -> str:
        (tmp_path / "first" / "checkpoints" / "step-1").mkdir()
        raise RuntimeError

    monkeypatch.setattr(job, "ray_running", fail)
    assert launch.main(small_job(tmp_path, "first")) == 1
    assert (tmp_path / "first" / "report.html").is_file()

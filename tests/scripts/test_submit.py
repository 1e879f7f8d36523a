"""What `make submit` has a cluster run, and what it refuses before anything is sent."""

from __future__ import annotations

import pytest

from scripts import submit
from settings_sources import SettingsError


def test_the_job_runs_on_the_cluster_and_its_folder_outlives_it() -> None:
    command, name = submit.entrypoint(["--run.name", "first", "--problems.train", "starter:train[:4]"])
    assert name == "first"
    assert command.startswith("python launch.py --run.name first --problems.train 'starter:train[:4]'")
    assert '--run.dir "$HOME/rltf/runs/first"' in command
    assert "--cluster.address auto" in command


def test_a_resumed_job_keeps_its_folder() -> None:
    command, _ = submit.entrypoint(["--resume", "rltf/runs/first"])
    assert command == "python launch.py --resume rltf/runs/first --cluster.address auto"


def test_unusable_settings_are_not_sent() -> None:
    with pytest.raises(SettingsError, match=r"run\.num_steps"):
        submit.entrypoint(["--run.num_step", "3"])


def test_an_address_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit.main(["localhost:8265"]) == 2
    assert "http://HOST:8265" in capsys.readouterr().out


def test_a_dashboard_that_does_not_answer_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit.main(["http://127.0.0.1:9"]) == 2
    assert "127.0.0.1:9" in capsys.readouterr().out

"""The command that a cluster is asked to run, and what is refused before anything is sent."""

from __future__ import annotations

import re

import pytest

import launch
from rltf.cli import remote_address
from rltf.controller.submit import entrypoint
from rltf.errors import UserError
from tests.controller.test_connection import free_port


def test_the_job_runs_on_the_cluster_and_its_folder_outlives_it() -> None:
    command, name = entrypoint(["--run.name", "first", "--problems.train", "starter:train[:4]"])
    assert name == "first"
    assert command.startswith("python launch.py --run.name first --problems.train 'starter:train[:4]'")
    assert '--run.dir "$HOME/rltf/runs/first"' in command
    assert "--cluster.address auto" in command


def test_a_resumed_job_keeps_its_folder() -> None:
    command, _ = entrypoint(["--resume", "/data/first"])
    assert command == "python launch.py --resume /data/first --cluster.address auto"
    command, _ = entrypoint(["--resume", "runs/first"])
    assert command.endswith(' --resume "$HOME/rltf/"runs/first')


def test_unusable_settings_are_not_sent() -> None:
    with pytest.raises(UserError, match=r"run\.num_steps"):
        entrypoint(["--run.num_step", "3"])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://127.0.0.1:{port}", r"nothing answers there.*http://localhost:8265"),
        ("http://127.0.0.1:{port}", r"does not answer here.*ray dashboard"),
        ("ftp://127.0.0.1:{port}", r"expected local, auto, HOST:PORT, ray://HOST:10001 or http://HOST:8265"),
    ],
)
def test_an_unreachable_cluster_is_reported(address: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--run.name", "first", "--cluster.address", address.format(port=free_port())]) == 2
    assert re.search(said, " ".join(capsys.readouterr().err.split()))


def test_settings_are_checked_before_a_cluster_is_contacted(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--run.num_steps", "0", "--cluster.address", "ray://127.0.0.1:10001"]) == 2
    assert "run.num_steps" in capsys.readouterr().err


def test_only_an_address_with_a_scheme_is_remote() -> None:
    assert remote_address(["--cluster.address", "auto"], {}) is None
    assert remote_address([], {}) is None
    assert remote_address(["--cluster.address=ray://h:1"], {"RLTF_CLUSTER__ADDRESS": "http://h:2"}) == "ray://h:1"
    assert remote_address(["--run.name", "first"], {"RLTF_CLUSTER__ADDRESS": "http://h:2"}) == "http://h:2"

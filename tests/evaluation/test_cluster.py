"""An evaluation on two nodes finds what one in a single process finds, whatever dies meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rltf.evaluate import main
from tests.jobs import python

SPEC = f"jsonl:{Path(__file__).parents[2] / 'examples' / 'own_problems.jsonl'}"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> dict[str, Any]:
    """The results of `tests.evaluation.on_cluster`."""
    folder = tmp_path_factory.mktemp("cluster")
    done = python("-m", "tests.evaluation.on_cluster", str(folder / "seen.json"), str(tiny_model_dir), str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return found


@pytest.mark.ray
def test_what_began_here_continues_there_and_neither_a_dead_generator_nor_sandbox_changes_it(
    seen: dict[str, Any],
) -> None:
    assert (seen["local"]["status"], seen["continued"]["status"]) == (0, 0)
    assert len({row["completion"] for row in seen["local"]["rows"].values()}) > 10
    assert seen["continued"]["rows"] == seen["local"]["rows"]


@pytest.mark.ray
def test_dialogues_are_the_same_and_those_before_an_interruption_are_kept(seen: dict[str, Any]) -> None:
    assert seen["interrupted"]["status"] == 130
    (line,) = seen["interrupted"]["said"]
    assert line.startswith("rltf: interrupted: 3 graded programs are in ")
    rows = seen["interrupted"]["rows"]
    assert [len(row["turns"]) for row in rows.values()] == [2] * 3
    assert rows.items() <= seen["local_turns"]["rows"].items()


@pytest.mark.ray
def test_a_program_that_kills_its_workers_is_a_grader_error(seen: dict[str, Any]) -> None:
    assert seen["file"]["status"] == 0
    outcomes = {row["completion_id"]: row["outcome"] for row in seen["file"]["rows"].values()}
    assert outcomes == {"0": "passed", "1": "infrastructure_error", "2": "failed"}


@pytest.mark.ray
def test_a_cluster_without_gpus_is_refused_before_anything_starts(seen: dict[str, Any]) -> None:
    (line,) = seen["no_room"]["said"]
    assert "asks for 1 CPUs and 1 GPUs: set --generator.num_gpus 0" in line
    assert seen["no_room"]["status"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cluster.address", "127.0.0.1:1"], ":1 does not answer"),
        (["--cluster.address", "nowhere"], "expected auto, local or HOST:PORT"),
        (["--cluster.address", "auto", "--critic", "critic"], "critic sampling runs in one process"),
        (["--generator.num_gpus", "0"], "add --cluster.address"),
    ],
)
def test_unusable_clusters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    command = ["--model", "folder", "--problems", SPEC, "--output", str(tmp_path / "out"), *options]
    assert main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert message in line


def test_generator_options_need_a_model_that_is_sampled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--samples", "file", "--problems", SPEC, "--output", str(tmp_path / "out"), "--cluster.address", "auto"]
    assert main([*command, "--generator.num_generators", "2"]) == 2
    assert "only a model folder or Hub id is sampled" in capsys.readouterr().err

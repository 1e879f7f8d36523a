"""A run on several nodes: where its programs run, what a lost node costs, and how unsuitable nodes are reported."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rltf.controller.cluster import NodeFacts
from tests.jobs import python


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of `tests.controller.on_nodes`."""
    folder = tmp_path_factory.mktemp("nodes")
    done = python("-m", "tests.controller.on_nodes", str(folder / "seen.json"), str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return result


@pytest.mark.ray
def test_a_node_with_other_versions_is_named_before_anything_starts(seen: dict[str, Any]) -> None:
    assert seen["versions"]["num_same"] == 3
    assert "1 of 1 other nodes do not run what this one runs" in seen["versions"]["said"]
    assert "transformers 0.0.1 instead of 5." in seen["versions"]["said"]
    assert "make setup" in seen["versions"]["said"]


@pytest.mark.ray
def test_missing_room_is_reported_with_what_was_requested(seen: dict[str, Any]) -> None:
    assert "timed out after 2 s waiting for room for learner and generators" in seen["no_room"]["said"]
    assert "1 GPU" in seen["no_room"]["said"]


@pytest.mark.ray
def test_programs_spread_over_nodes_of_their_kind(seen: dict[str, Any]) -> None:
    assert len(seen["lost_node"]["nodes_used"]) == 2


@pytest.mark.ray
def test_only_calls_in_progress_on_a_lost_node_are_repeated(seen: dict[str, Any]) -> None:
    assert seen["lost_node"]["num_answers"] == seen["lost_node"]["num_done"] == 60
    assert 1 <= seen["lost_node"]["num_repeated"] <= 2 * 4
    assert seen["lost_node"]["nodes_after"] == 1


def test_the_most_important_differences_come_first() -> None:
    here = NodeFacts({"python": "3.11.7", "numpy": "2.1", "torch": "2.13.0"}, "a")
    there = NodeFacts({"python": "3.11.7", "numpy": "2.2", "torch": "2.12.0"}, "b")
    assert here.differences(here) == []
    assert here.differences(there) == [
        "torch 2.12.0 instead of 2.13.0",
        "numpy 2.2 instead of 2.1",
        "different source files of this program",
    ]


def test_cpu_and_gpu_builds_count_as_the_same_version() -> None:
    versions = NodeFacts.here().versions
    assert versions["torch"][0].isdigit()
    assert "+" not in versions["torch"]
    assert versions["vllm"] != "missing"

"""References that fail their own tests are found once, and remembered until something changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rltf.problems.types import Problem, StdinTest
from rltf.sandbox.grading import Graders, validate_references
from rltf.sandbox.verdict import Isolation
from rltf.settings import SandboxSettings
from tests.benchmark_files import benchmark, needs_data

RIGHT, WRONG, CRASHING = "print(int(input()) ** 2)", "print(5)", "import nothing_of_the_kind"
TESTS = (StdinTest("5\n", "25\n"), StdinTest("1\n", "1\n"))


@pytest.fixture(scope="module")
def graders() -> Iterator[Graders]:
    with Graders(1, SandboxSettings(), Isolation.NAMESPACES) as made:
        yield made


def test_failing_references_are_rejected(tmp_path: Path, graders: Graders) -> None:
    mixed = Problem("mixed", "own", "?", TESTS, references=(WRONG, RIGHT, CRASHING))
    wrong = Problem("wrong", "own", "?", TESTS, references=(WRONG,))
    without = Problem("without", "own", "?", TESTS)
    found = validate_references([mixed, wrong, without], graders, tmp_path / "cache.json")
    assert found.problems == (replace(mixed, references=(RIGHT,)), without)
    assert found.left_out == (wrong,)
    assert [(item.task_id, item.number) for item in found.rejected] == [("mixed", 0), ("mixed", 2), ("wrong", 0)]
    assert str(found.rejected[0]) == "problem mixed, reference 0: failed at test 0"
    assert "ModuleNotFoundError" in found.rejected[1].reason


def test_cached_findings_hold_until_the_problem_changes(tmp_path: Path, graders: Graders) -> None:
    cache = tmp_path / "made" / "cache.json"
    problem = Problem("p", "own", "?", TESTS, references=(RIGHT,))
    assert validate_references([problem], graders, cache).problems == (problem,)
    known = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: {"0": "marked"} for key in known}))
    assert validate_references([problem], graders, cache).rejected[0].reason == "marked"
    cache.write_bytes(b"\0" * 100)
    assert validate_references([problem], graders, cache).problems == (problem,), "damage was not noticed"
    changed = replace(problem, tests=TESTS[:1])
    assert validate_references([changed], graders, cache).problems == (changed,)


@pytest.mark.slow
@needs_data
def test_references_of_codecontests(tmp_path: Path, graders: Graders) -> None:
    """Three problems accept several answers, of which the tests know one. One reference forgets the last `% mod`."""
    problems = benchmark("codecontests:{}/codecontests/problems.jsonl").problems
    # The reference of this one is for PyPy: it takes minutes on a test.
    problems = tuple(problem for problem in problems if problem.task_id != "1238_e_keyboard_purchase_2831")
    found = validate_references(problems, graders, tmp_path / "cache.json")
    several_answers = {
        "1041_e_tree_reconstruction_8858",
        "1071_c_triple_flips_5739",
        "715_b_complete_the_graph_3806",
    }
    assert len(found.problems) == 24
    assert {problem.task_id for problem in found.left_out} == several_answers | {"1540_b_tree_array_3053"}
    assert all(item.reason.startswith("failed at test") for item in found.rejected)


def test_cached_findings_hold_for_the_same_packages(tmp_path: Path, graders: Graders) -> None:
    cache = tmp_path / "cache.json"
    problem = Problem("p", "own", "?", TESTS, references=("import numpy\nprint(numpy.square(int(input())))",))
    assert validate_references([problem], graders, cache).left_out == (problem,)
    with Graders(1, SandboxSettings(packages=("numpy",)), Isolation.NAMESPACES) as with_numpy:
        assert validate_references([problem], with_numpy, cache).problems == (problem,)

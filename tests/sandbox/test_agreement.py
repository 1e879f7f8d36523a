"""Verdicts on programs whose results are known: a small part of `benchmarks/bench_references.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rltf.problems import CheckTest, load
from rltf.sandbox.grading import Graders
from rltf.sandbox.verdict import Isolation
from rltf.settings import SandboxSettings
from tests.benchmark_files import DATA, needs_data
from tests.jobs import python


def measure(corpus: str, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit status of the benchmark, and what it measured."""
    done = python("-m", "benchmarks.bench_references", "--corpus", corpus, "--workers", "2", *options)
    assert done.stdout, done.stderr
    measured: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, measured


@pytest.mark.slow
@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("corpus", "every"),
    [
        ("mbpp", 25),
        ("mbpp-sanitized", 25),
        ("humaneval", 8),
        ("leetcode", 15),
        ("quixbugs-correct", 3),
        ("quixbugs-buggy", 3),
        ("apps-train", 70),
        ("codet5-apps", 5),
        ("gpt-3.5-mbpp", 20),
    ],
)
def test_verdicts_are_as_expected_or_explained(corpus: str, every: int) -> None:
    # Some programs loop forever and use the whole limit, so it is low.
    status, found = measure(corpus, "--every", str(every), "--cpu-s", "1")
    assert found["num_known"] > 3
    assert found["unexplained"] == []
    assert status == 0


@pytest.mark.slow
@needs_data
def test_checks_that_cannot_be_split_tell_right_from_wrong() -> None:
    problems = [
        problem
        for problem in load(f"humaneval:{DATA}/humaneval/HumanEval.jsonl.gz").problems
        if any(isinstance(test, CheckTest) for test in problem.tests) or problem.task_id == "HumanEval/33"
    ]
    assert len(problems) == 6
    # Redefining the functions of the prompt that the test calls must not help.
    cheat = "    return None\ndef poly(*_): return 0\ndef encode_cyclic(s): return None\nencode_shift = encode_cyclic\n"
    with Graders(2, SandboxSettings(cpu_s=1.0, wall_s=2.5), Isolation.NAMESPACES) as graders:
        for problem in problems:
            (reference,) = problem.references
            assert graders.grade(problem, reference, "right").passed
            if problem.task_id != "HumanEval/33":  # its test compares the function with itself
                assert not graders.grade(problem, cheat, "cheat").passed


@pytest.mark.slow
def test_unexplained_differences_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"text": "Return 1.", "test_list": ["assert one() == 1"]}
    rows = [row | {"task_id": number, "code": f"def one(): return {number}"} for number in (1, 2)]
    (tmp_path / "mbpp").mkdir()
    (tmp_path / "mbpp" / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path))
    status, found = measure("mbpp")
    assert status == 1
    assert (found["num_agreeing"], found["num_explained"]) == (1, 0)
    assert found["unexplained"] == ["2:0: failed "]

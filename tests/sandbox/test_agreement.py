"""A small part of what `benchmarks/bench_references.py` measures. Needs BENCHMARK_DATA."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.bench_references import measure
from benchmarks.corpora import CORPORA, Case
from problems import CheckTest, Problem, StdinTest
from sandbox.grading import Graders
from sandbox.verdict import Isolation
from settings import SandboxSettings

DATA = Path(os.environ.get("BENCHMARK_DATA", "absent"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="BENCHMARK_DATA names no folder of benchmark data")
# Some programs of the corpora loop forever, and use up the whole limit.
LIMITS = SandboxSettings(cpu_s=1.0, wall_s=2.5)


@pytest.fixture(scope="module")
def graders() -> Iterator[Graders]:
    with Graders(2, LIMITS, Isolation.NAMESPACES) as made:
        yield made


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(
    ("corpus", "step"),
    [
        ("mbpp", 25),
        ("mbpp-sanitized", 25),
        ("humaneval", 8),
        ("quixbugs-correct", 3),
        ("quixbugs-buggy", 3),
        ("apps-train", 70),
        ("codet5-apps", 5),
        ("gpt-3.5-mbpp", 20),
    ],
)
def test_verdicts_are_as_expected_or_explained(graders: Graders, corpus: str, step: int) -> None:
    found = measure(corpus, islice(CORPORA[corpus](DATA), 0, None, step), graders)
    assert found["num_known"] > 3
    assert not found["unexplained"]


@needs_data
def test_checks_that_cannot_be_split_tell_right_from_wrong(graders: Graders) -> None:
    cases = [
        case
        for case in CORPORA["humaneval"](DATA)
        if any(isinstance(test, CheckTest) for test in case.problem.tests) or case.problem.task_id == "HumanEval/33"
    ]
    assert len(cases) == 6
    for case in cases:
        assert graders.grade(case.problem, case.program, "right").passed
        # Redefining the functions of the prompt that the test calls must not help.
        cheat = (
            "    return None\ndef poly(*_): return 0\ndef encode_cyclic(s): return None\nencode_shift = encode_cyclic\n"
        )
        if case.problem.task_id != "HumanEval/33":  # its test compares the function with itself
            assert not graders.grade(case.problem, cheat, "cheat").passed


def test_unexplained_differences_are_named(graders: Graders) -> None:
    problem = Problem("p", "own", "?", (StdinTest("", "1"),))
    cases = [Case(problem, "right", "print(1)", True), Case(problem, "wrong", "print(2)", True)]
    found = measure("own", cases, graders)
    assert (found["num_agreeing"], found["num_explained"]) == (1, 0)
    assert found["unexplained"] == ["wrong: failed "]

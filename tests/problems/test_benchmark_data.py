"""The real benchmarks load with exact counts. Needs BENCHMARK_DATA, the folder with their files."""

from __future__ import annotations

from collections import Counter

import pytest

from rltf.problems import AssertTest
from rltf.problems.assertions import split_assertion
from tests.benchmark_files import benchmark, needs_data

pytestmark = [pytest.mark.slow, needs_data]


@pytest.mark.parametrize(
    ("spec", "num_problems", "num_tests", "num_references"),
    [
        ("mbpp:{}/mbpp/mbpp.jsonl", 974, {"AssertTest": 2922}, 974),
        ("mbpp:{}/mbpp/mbpp.jsonl?split=train", 374, {"AssertTest": 1122}, 374),
        ("mbpp:{}/mbpp/sanitized-mbpp.json", 427, {"AssertTest": 1324}, 427),
        ("humaneval:{}/humaneval/HumanEval.jsonl.gz", 164, {"AssertTest": 1128, "CheckTest": 5}, 164),
        ("apps:{}/apps/train", 153, {"StdinTest": 951, "CallTest": 20}, 2331),
        ("apps:{}/apps/train?difficulty=introductory", 51, None, None),
        ("apps:{}/apps/test", 49, {"StdinTest": 605}, 0),
    ],
)
def test_counts(spec: str, num_problems: int, num_tests: dict[str, int] | None, num_references: int | None) -> None:
    loaded = benchmark(spec)
    assert len(loaded.problems) == num_problems
    assert not loaded.rejected
    if num_tests is not None:
        assert Counter(type(test).__name__ for problem in loaded.problems for test in problem.tests) == num_tests
        assert sum(len(problem.references) for problem in loaded.problems) == num_references


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        ("mbpp:{}/mbpp/mbpp.jsonl", {"Relation": 2919, "Check": 3}),
        ("mbpp:{}/mbpp/sanitized-mbpp.json", {"Relation": 1248, "Check": 15, "Closeness": 39, "Truth": 22}),
        ("humaneval:{}/humaneval/HumanEval.jsonl.gz", {"Relation": 1083, "Truth": 30, "Closeness": 5, "Check": 10}),
    ],
)
def test_shapes_of_assertions(spec: str, shapes: dict[str, int]) -> None:
    tests = [test for problem in benchmark(spec).problems for test in problem.tests]
    found = Counter(
        type(split_assertion(test.assertion, test.setup, test.classes)).__name__
        for test in tests
        if isinstance(test, AssertTest)
    )
    assert found == shapes


@pytest.mark.parametrize(
    "spec",
    [
        "mbpp:{}/mbpp/mbpp.jsonl",
        "humaneval:{}/humaneval/HumanEval.jsonl.gz",
        "apps:{}/apps/train",
    ],
)
def test_every_problem_can_be_graded(spec: str) -> None:
    assert not benchmark(spec).rejected


def test_every_mbpp_problem_names_its_function() -> None:
    problems = benchmark("mbpp:{}/mbpp/mbpp.jsonl").problems
    assert all(problem.entry_point for problem in problems)
    assert next(problem.entry_point for problem in problems if problem.task_id == "126") == "sum"


def test_codecontests_with_cut_answers() -> None:
    loaded = benchmark("codecontests:{}/codecontests/problems.jsonl")
    assert len(loaded.problems) == 29
    assert {(len(problem.tests), len(problem.references)) for problem in loaded.problems} == {(10, 1)}
    (rejected,) = loaded.rejected
    assert rejected.task_id == "1427_e_xum_2840"
    assert rejected.reason.startswith("tests[1].output: cut off")

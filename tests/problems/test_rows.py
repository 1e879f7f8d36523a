"""Problems that are written as rows read back as the same problems."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rltf.errors import UserError
from rltf.problems import AssertTest, Problem, load
from rltf.problems.spec import read_row, row_of
from tests.benchmark_files import benchmark, needs_data

EXAMPLES = Path(__file__).parents[2] / "examples" / "own_problems.jsonl"


def test_custom_rows_read_back() -> None:
    problems = load(f"jsonl:{EXAMPLES}").problems
    assert problems
    for problem in problems:
        assert read_row("jsonl", row_of(problem)) == problem


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(
    "spec",
    [
        "mbpp:{}/mbpp/mbpp.jsonl",
        "mbpp:{}/mbpp/sanitized-mbpp.json",
        "apps:{}/apps/train",
        "apps:{}/apps/test",
        "humaneval:{}/humaneval/HumanEval.jsonl.gz",
    ],
)
def test_every_benchmark_row_reads_back(spec: str) -> None:
    problems = benchmark(spec).problems
    assert problems
    for problem in problems:
        assert read_row(problem.benchmark, row_of(problem)) == problem


def test_hidden_asserts_of_mbpp_are_not_shown() -> None:
    shown, hidden = AssertTest("assert f(1) == 2"), AssertTest("assert f(2) == 3")
    problem = Problem("7", "mbpp", "?", (shown,), ("def f(x): return x + 1",), entry_point="f", num_visible_tests=1)
    longer = replace(problem, tests=(shown, hidden), examples=(shown,))
    assert read_row("mbpp", row_of(longer)) == longer


def test_a_benchmark_without_rows_is_named() -> None:
    with pytest.raises(UserError, match="starter problems have no row format"):
        row_of(Problem("1", "starter", "?", (AssertTest("assert f(1) == 2"),)))

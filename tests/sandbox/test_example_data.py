"""The examples in the statements of real benchmarks are read as they are meant: right programs pass them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest

from rltf.problems import Problem
from rltf.sandbox.examples import confirmed, judge_examples
from rltf.sandbox.grading import Graders
from rltf.sandbox.verdict import Isolation
from rltf.settings import SandboxSettings
from tests.benchmark_files import benchmark, needs_data

pytestmark = [pytest.mark.slow, needs_data]
SETS = {
    "apps:{}/apps/train": (51, 118),
    "apps:{}/apps/test": (49, 113),
    "codecontests:{}/codecontests/problems.jsonl": (28, 86),
    "humaneval:{}/humaneval/HumanEval.jsonl.gz": (73, 171),
    "humanevalplus:{}/humanevalplus/HumanEvalPlus-OriginFmt-third.jsonl.gz": (26, 63),
    "mbpp:{}/mbpp/mbpp.jsonl": (0, 0),
    "mbppplus:{}/mbppplus/MbppPlus-OriginFmt-third.jsonl.gz": (126, 392),
    "leetcode:{}/leetcode/LeetCodeDataset-v0.2.0-test.jsonl.gz": (0, 0),
}
"""How many problems have examples, and how many examples there are."""
FAIL_AN_EXAMPLE = {
    "1041_e_tree_reconstruction_8858": "prints another right tree, and fails its tests as well",
    "715_b_complete_the_graph_3806": "prints another right graph, and fails its tests as well",
    "HumanEval/47": "the docstring is wrong in one of two examples",
    "HumanEval/116": "the docstring is wrong in both examples",
}


@pytest.fixture(scope="module")
def graders() -> Iterator[Graders]:
    with Graders(2, SandboxSettings(), Isolation.NAMESPACES) as found:
        yield found


@cache
def with_examples(spec: str) -> list[Problem]:
    return [problem for problem in benchmark(spec).problems if problem.examples]


@pytest.mark.parametrize("spec", SETS)
def test_counts(spec: str) -> None:
    problems = with_examples(spec)
    assert (len(problems), sum(len(problem.examples) for problem in problems)) == SETS[spec]


@pytest.mark.parametrize("spec", [spec for spec in SETS if SETS[spec][0]])
def test_references_pass_the_examples(graders: Graders, spec: str) -> None:
    problems = [problem for problem in with_examples(spec) if problem.references]

    def outcomes(problem: Problem) -> list[str]:
        """Of the first references: some of APPS are in Python 2, or use what Python 3.9 removed."""
        found = (judge_examples(graders.grade, problem, one, "0") for one in problem.references[:3])
        return [verdict.outcome.value for verdict in found if verdict.passed or not verdict.error]

    failing = {problem.task_id for problem, found in graders.map(outcomes, problems) if set(found) - {"passed"}}
    assert failing == {problem.task_id for problem in problems} & FAIL_AN_EXAMPLE.keys()


def test_wrong_docstrings_are_dropped(graders: Graders) -> None:
    problems = {one.task_id: one for one in with_examples("humaneval:{}/humaneval/HumanEval.jsonl.gz")}
    for task_id, num_right in (("HumanEval/47", 1), ("HumanEval/116", 0), ("HumanEval/0", 2)):
        problem = problems[task_id]
        assert confirmed(graders.grade, problem) == replace(problem, examples=problem.examples[:num_right])

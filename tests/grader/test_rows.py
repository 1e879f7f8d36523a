"""Rows as data sets and trainers hand them over: recognized, read once, and refused with a reason."""

from __future__ import annotations

import copy
import gzip
import json
from collections import UserDict
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.errors import UserError
from rltf.grader import Grader, Isolation, Problem, problem_from_row
from rltf.grader.rows import _Cache
from rltf.problems import load
from rltf.problems.spec import ROW_KINDS, kind_of, row_of
from tests.benchmark_files import DATA, needs_data
from tests.sandbox.programs import squares

EXAMPLES = Path(__file__).parents[2] / "examples" / "own_problems.jsonl"
OWN = [json.loads(line) for line in EXAMPLES.read_text().splitlines()]
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "canonical_solution": "    return x\n",
    "test": "def check(candidate):\n    assert candidate(1) == 1\n",
}
APPS = {"problem_id": 7, "question": "Add.", "input_output": '{"inputs": ["1 2\\n"], "outputs": ["3\\n"]}'}
RELEASE = {**HUMANEVAL, "base_input": [[1]], "plus_input": [[2]], "atol": 0}
LEETCODE = {**HUMANEVAL, "completion": "", "query": "", "meta": {}}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (OWN[0], "jsonl"),
        (HUMANEVAL, "humaneval"),
        (RELEASE, "humanevalplus"),
        ({**RELEASE, "assertion": ""}, "mbppplus"),
        (LEETCODE, "leetcode"),
        (APPS, "apps"),
        ({**APPS, "time_limit": None, "skill_types": None}, "apps"),
        ({**APPS, "time_limit": None, "skill_types": "[]"}, "taco"),
        ({"text": "?", "code": "f = 1", "task_id": 1, "test_list": []}, "mbpp"),
        ({"question_id": "1", "question": "?", "solution": "", "test": "", "style": "instruct"}, "kodcode"),
        ({"complete_prompt": "", "instruct_prompt": "", "canonical_solution": "", "test": ""}, "bigcodebench"),
    ],
)
def test_rows_are_recognized_by_their_columns(row: dict[str, Any], kind: str) -> None:
    assert kind_of(row) == kind


SETS = {
    "mbpp/mbpp.jsonl": "mbpp",
    "humaneval/HumanEval.jsonl.gz": "humaneval",
    "codecontests/problems.jsonl": "codecontests",
    "humanevalplus/HumanEvalPlus-OriginFmt-third.jsonl.gz": "humanevalplus",
    "mbppplus/MbppPlus-OriginFmt-third.jsonl.gz": "mbppplus",
    "leetcode/LeetCodeDataset-v0.2.0-test.jsonl.gz": "leetcode",
}


def rows_of(path: Path, limit: int) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        yield from map(json.loads, islice(file, limit))


def usable(rows: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Problem]]:
    for row in rows:
        try:
            yield row, problem_from_row(row)
        except UserError as error:
            assert "cannot be used as" in str(error)  # noqa: PT017 - some rows of some sets cannot


@pytest.mark.slow
@needs_data
def test_rows_of_published_sets_are_graded() -> None:
    chosen: list[tuple[dict[str, Any], Problem]] = []
    for name, kind in SETS.items():
        found = [pair for pair in usable(rows_of(DATA / name, 6)) if pair[1].references][:2]
        assert [problem.benchmark for _, problem in found] == [kind] * 2
        chosen += found
    folder = load(f"apps:{DATA / 'apps' / 'train'}[0:2]").problems
    chosen += [(row, problem_from_row(row)) for row in map(row_of, folder)]
    assert [problem for _, problem in chosen[-2:]] == list(folder)
    rows = [row for row, _ in chosen]
    with Grader(2, min_isolation=Isolation.LANDLOCK) as grader:
        answers = [f"Here:\n```python\n{problem.references[0]}\n```" for _, problem in chosen]
        good = grader.grade_completions(rows, answers)
        few = [row for row, problem in chosen if len(problem.tests) < 100]
        bad = grader.grade(few, ["print('x')"] * len(few))
    assert len(few) >= 8
    assert sum(verdict.passed for verdict in good) >= len(rows) - 1  # the first reference of CodeContests fails
    assert not any(verdict.passed for verdict in bad)
    assert not any(verdict.is_grader_error for verdict in good + bad)


def test_rows_may_hold_what_data_sets_make_of_json() -> None:
    row: dict[str, Any] = copy.deepcopy(OWN[0])
    tests = np.empty(len(row["tests"]), dtype=object)
    tests[:] = row["tests"]
    loose = UserDict({**row, "tests": tests, "num_visible_tests": np.int64(1), "references": tuple(row["references"])})
    assert problem_from_row(loose) == problem_from_row(row)
    dated = {**APPS, "date": datetime(2024, 8, 1)}
    assert problem_from_row(dated) == problem_from_row(APPS)
    with pytest.raises(UserError, match="does not fit into JSON: it holds a value of type object"):
        problem_from_row({**row, "tests": object()})


def test_the_same_row_is_read_once() -> None:
    row = OWN[1]
    assert problem_from_row(copy.deepcopy(row)) is problem_from_row(row) is problem_from_row(row, "jsonl")
    changed = {**row, "statement": "Other."}
    assert problem_from_row(changed).statement == "Other."


def test_a_row_without_an_id_gets_one_from_its_content() -> None:
    row = {key: value for key, value in APPS.items() if key != "problem_id"}
    first, again, other = (problem_from_row(one).task_id for one in (row, dict(row), {**row, "question": "Sum."}))
    assert first == again != other


@pytest.mark.parametrize(
    ("row", "benchmark", "message"),
    [
        (OWN[0], "mbp", r"benchmark 'mbp': expected one of apps, .*; did you mean mbpp\?"),
        (OWN[0], "starter", r"benchmark 'starter': expected one of"),
        ([1], None, "expected a row with named columns, got list"),
        ({"a": 1}, None, rf"the columns of no benchmark \(a\); say which it is: {', '.join(ROW_KINDS)}"),
        ({**APPS, **OWN[0]}, None, r"the columns of apps and jsonl \("),
        (APPS, "mbpp", "the row cannot be used as mbpp: task_id: expected MBPP's number"),
        ({**APPS, "input_output": "{"}, None, "the row cannot be used as apps: input_output: not JSON"),
        ({**OWN[0], "statement": "\ud800"}, None, "cannot be used as jsonl: statement: not text"),
    ],
)
def test_rows_that_cannot_be_used_say_why(row: Any, benchmark: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        problem_from_row(row, benchmark)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12))))
def test_a_cache_holds_the_last_rows_within_its_bound(puts: list[tuple[int, int]]) -> None:
    cache, problem = _Cache(20), squares(1)
    used: dict[int, int] = {}
    for number, size in puts:
        cache.put(("jsonl", bytes([number])), problem, size)
        used.pop(number, None)
        used[number] = size
        while sum(used.values()) > 20:
            used.pop(next(iter(used)))
        held = {n for n in range(6) if (n in used) == (("jsonl", bytes([n])) in cache._found)}
        assert held == set(range(6))

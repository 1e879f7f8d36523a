"""LeetCodeDataset: keyword arguments in the order of the parameters, and lists and trees as plain lists."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.errors import UserError
from rltf.problems import CallTest, Problem, load
from rltf.problems.leetcode import _tree_values
from rltf.problems.prompts import render_prompt
from rltf.problems.python_source import as_run
from tests.benchmark_files import benchmark, needs_data

STARTER = "class Solution:\n    def take(self, head: Optional[ListNode], k: int) -> int:\n        "
PROMPT = (
    "from typing import *\nfrom math import *\ninf = float('inf')\n"
    "class ListNode:\n    def __init__(self, val=0, next=None):\n        self.val = val\n        self.next = next\n"
)
ROW = {
    "task_id": "take-some",
    "difficulty": "Easy",
    "problem_description": "Take the first k.",
    "starter_code": STARTER,
    "prompt": PROMPT,
    "completion": "class Solution:\n    def take(self, head, k):\n        return k\n",
    "entry_point": "Solution().take",
    "test": "def check(candidate):\n    assert candidate(k = 1, head = [2, None]) == 3\n",
}


def read(tmp_path: Path, **changed: Any) -> Problem:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROW | changed) + "\n")
    return load(f"leetcode:{file}").problems[0]


def loaded_tests(tmp_path: Path, *conditions: str) -> list[Any]:
    body = "".join(f"    assert {condition}\n" for condition in conditions)
    return list(read(tmp_path, test=f"def check(candidate):\n{body}").tests)


def test_arguments_come_in_the_order_of_the_parameters(tmp_path: Path) -> None:
    problem = read(tmp_path)
    assert problem.tests == (CallTest("take", ([2, None], 1), 3),)
    assert (problem.task_id, problem.difficulty, problem.entry_point) == ("take-some", "Easy", "take")
    assert render_prompt(problem) == f"\nQUESTION:\nTake the first k.\n{STARTER}\nUse Call-Based format\nANSWER:\n"
    prefix, program = as_run(problem, "x = 1\n")
    assert (prefix, program) == (problem.preamble, "x = 1\n")
    assert problem.preamble.startswith(PROMPT)


def test_older_releases_describe_the_problem_in_the_query(tmp_path: Path) -> None:
    row = {key: value for key, value in ROW.items() if key not in ("problem_description", "starter_code", "difficulty")}
    query = f"Take k.\n \nPlease complete the following python code precisely:\n```python\n{STARTER}\n```"
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row | {"query": query, "meta": {"lang_code": STARTER, "difficulty": "Meidum"}}))
    (problem,) = load(f"leetcode:{file}?difficulty=Medium").problems
    assert (problem.statement, problem.starter_code) == ("Take k.", STARTER)


def test_lists_and_trees_are_plain_lists_outside_the_program(tmp_path: Path) -> None:
    tests = loaded_tests(
        tmp_path,
        "is_same_list(candidate(head = list_node([1, 2]), k = 1), list_node([1]))",
        "is_same_list(candidate(head = list_node([]), k = 1), None)",
        "is_same_tree(candidate(head = tree_node([1, None, 2]), k = 1), tree_node([1, None, 2, None, None, 9]))",
        "candidate(head = [list_node([1]), list_node([2])], k = inf) == None",
        "candidate(head = 5, k = 1) == 1",
    )
    assert [(test.function, test.arguments, test.expected) for test in tests] == [
        ("_call_with_nodes", ("take", "list_node", ("list_node", [1, 2]), 1), [1]),
        ("_call_with_nodes", ("take", "list_node", ("list_node", []), 1), []),
        ("_call_with_nodes", ("take", "tree_node", ("tree_node", [1, None, 2]), 1), [1, None, 2]),
        ("_call_with_nodes", ("take", "value", [("list_node", [1]), ("list_node", [2])], float("inf")), None),
        ("take", (5, 1), 1),
    ]


def tree(values: list[Any]) -> Any:
    """A tree of nested tuples, made as LeetCode describes it."""
    nodes = [[value, None, None] for value in values[:1]]
    rest = iter(values[1:])
    for node in nodes:
        for side in (1, 2):
            value = next(rest, None)
            if value is not None:
                node[side] = [value, None, None]
                nodes.append(node[side])
    return nodes[0] if nodes else None


@given(st.integers(0, 9), st.lists(st.none() | st.integers(0, 9), max_size=12), st.lists(st.none(), max_size=3))
def test_equal_trees_have_equal_values(root: int, rest: list[int | None], more: list[None]) -> None:
    values = [root, *rest]
    found = _tree_values(values)
    assert tree(found) == tree(values)
    assert _tree_values(found) == _tree_values([*values, *more]) == found


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"entry_point": "LRUCache"}, "entry_point: expected Solution"),
        ({"starter_code": "class Solution:\n    def other(self): "}, "starter_code: no method take"),
        ({"test": "assert True"}, "expected a function check"),
        ({"test": "def check(candidate):\n    assert candidate(head = 1) == 1\n"}, "not the arguments head, k"),
        ({"test": "def check(candidate):\n    assert candidate(1, 2, 3) == 1\n"}, "not the arguments head, k"),
        ({"test": "def check(candidate):\n    assert candidate(1, k=f(2)) == 1\n"}, r"not a constant: f\(2\)"),
        ({"test": "def check(candidate):\n    assert candidate(1, k=2) in [1]\n"}, "unknown form: assert candidate"),
        ({"test": "def check(candidate):\n    assert other(1, k=2) == 1\n"}, "unknown form: assert other"),
        (
            {"test": "def check(candidate):\n    assert is_same_tree(candidate(1, 2), list_node([1]))\n"},
            r"expected tree_node\(\[...\]\), got list_node",
        ),
    ],
)
def test_rows_that_cannot_be_read(changed: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        read(tmp_path, **changed)


@pytest.mark.slow
@needs_data
def test_counts() -> None:
    loaded = benchmark("leetcode:{}/leetcode/LeetCodeDataset-v0.2.0-test.jsonl.gz")
    assert (len(loaded.problems), loaded.rejected) == (200, ())
    tests = [(problem.entry_point, test) for problem in loaded.problems for test in problem.tests]
    assert Counter(isinstance(test, CallTest) and test.function == name for name, test in tests) == {True: 492}
    assert Counter(problem.difficulty for problem in loaded.problems) == {"Easy": 51, "Medium": 102, "Hard": 47}

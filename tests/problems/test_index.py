"""Problems are found by the ways people write their ids."""

from __future__ import annotations

from rltf.problems.index import ProblemIndex
from rltf.problems.types import Problem, StdinTest


def problem(task_id: str, statement: str) -> Problem:
    return Problem(task_id, "own", statement, (StdinTest("", "1"),))


def test_ids_are_found_as_people_write_them() -> None:
    index = ProblemIndex([problem("0042", "First."), problem("HumanEval/1", "Second.")])
    for task_id in ("0042", "42", 42, "Mbpp/42"):
        assert index.find(task_id).statement == "First."
    assert index.find("HumanEval/1").statement == "Second."

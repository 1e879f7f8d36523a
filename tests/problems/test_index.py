"""Held-out problems that training has seen are found; others are not."""

from __future__ import annotations

from problems.index import ProblemIndex, find_leaks
from problems.types import Problem, StdinTest

LONG = "Given a list of integers and a target, return how many pairs of them add up to the target exactly once."


def problem(task_id: str, statement: str) -> Problem:
    return Problem(task_id, "own", statement, (StdinTest("", "1"),))


def test_the_same_statement_with_other_blanks_leaks() -> None:
    (leak,) = find_leaks(
        [problem("t0", "Another."), problem("t1", LONG)], [problem("e", LONG.upper().replace(" ", "\n "))]
    )
    assert (leak.held_out.task_id, leak.train.task_id, leak.overlap) == ("e", "t1", 1.0)
    assert "own e is like own t1" in str(leak)


def test_a_statement_inside_a_longer_one_leaks() -> None:
    assert find_leaks([problem("t", f"Story first. {LONG} Then more.")], [problem("e", LONG)])


def test_a_small_change_is_still_found_and_another_problem_is_not() -> None:
    changed = LONG.replace("exactly once", "at least twice")
    (leak,) = find_leaks([problem("t", changed)], [problem("e", LONG)])
    assert 0.8 <= leak.overlap < 1
    assert not find_leaks([problem("t", "Given a list of integers and a target, sort it.")], [problem("e", LONG)])


def test_short_statements_leak_only_if_they_are_the_same() -> None:
    train = [problem("t", "Add two numbers.")]
    assert find_leaks(train, [problem("e", "add two  numbers")])
    assert not find_leaks(train, [problem("e", "Add three numbers.")])


def test_ids_are_found_as_people_write_them() -> None:
    index = ProblemIndex([problem("0042", "First."), problem("HumanEval/1", "Second.")])
    for task_id in ("0042", "42", 42, "Mbpp/42"):
        assert index.find(task_id).statement == "First."
    assert index.find("HumanEval/1").statement == "Second."

"""pass@k agrees with brute force, and the tally reports what it leaves out."""

from __future__ import annotations

from itertools import combinations, pairwise
from math import isclose

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.evaluation import Tally, bootstrap_interval, compare_tallies, evaluate_tally, pass_at_k
from rltf.problems.types import Problem, StdinTest
from rltf.sandbox.verdict import Outcome


@given(st.integers(1, 9), st.data())
def test_pass_at_k_agrees_with_brute_force(num_samples: int, data: st.DataObject) -> None:
    num_passed = data.draw(st.integers(0, num_samples))
    k = data.draw(st.integers(1, num_samples))
    programs = [index < num_passed for index in range(num_samples)]
    draws = list(combinations(programs, k))
    assert isclose(pass_at_k(num_samples, num_passed, k), sum(map(any, draws)) / len(draws), rel_tol=1e-12)


@pytest.mark.parametrize("k", [1, 10, 500, 999, 1000])
def test_a_thousand_samples_are_stable(k: int) -> None:
    values = [pass_at_k(1000, num_passed, k) for num_passed in range(1001)]
    assert values[0] == 0.0
    assert values[1] == pytest.approx(k / 1000, rel=1e-15)
    assert values[1000] == 1.0
    assert all(low <= high for low, high in pairwise(values))
    assert pass_at_k(10**5, 1, 1) == 1e-5


@pytest.mark.parametrize(("num_samples", "num_passed", "k"), [(5, 6, 1), (5, -1, 1), (5, 1, 6), (5, 1, 0)])
def test_impossible_counts(num_samples: int, num_passed: int, k: int) -> None:
    with pytest.raises(ValueError, match=r"passed|needs k"):
        pass_at_k(num_samples, num_passed, k)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_an_interval_contains_the_mean_and_repeats(values: list[float]) -> None:
    array = np.array(values)
    low, high = bootstrap_interval(array)
    assert array.min() - 1e-12 <= low <= high <= array.max() + 1e-12
    assert low <= array.mean() + 1e-12
    assert high >= array.mean() - 1e-12
    assert bootstrap_interval(array) == (low, high)


def test_an_interval_is_as_wide_as_the_normal_one() -> None:
    values = np.random.default_rng(1).random(400)
    low, high = bootstrap_interval(values)
    normal = 2 * 1.96 * values.std() / np.sqrt(len(values))
    assert high - low == pytest.approx(normal, rel=0.05)


def problem(task_id: str, difficulty: str | None = None) -> Problem:
    return Problem(task_id, "own", "?", (StdinTest("", "1"),), difficulty=difficulty)


PROBLEMS = [problem("a", "easy"), problem("b", "hard"), problem("c", "hard"), problem("never sampled")]
OUTCOMES = [
    *[("a", Outcome.PASSED)] * 2,
    *[("b", Outcome.PASSED), ("b", Outcome.FAILED)],
    *[("c", Outcome.TIMEOUT), ("c", Outcome.INFRASTRUCTURE_ERROR)],
]


@pytest.fixture
def counted() -> Tally:
    made = Tally(PROBLEMS)
    for task_id, outcome in OUTCOMES:
        made.add(task_id, outcome)
    return made


def test_outcomes_become_a_table_by_difficulty(counted: Tally) -> None:
    result = evaluate_tally(counted, [2, 1])
    assert result.pass_at[1] == {"all": 0.5, "easy": 1.0, "hard": 0.25}
    assert result.pass_at[2] == {"all": 1.0, "easy": 1.0, "hard": 1.0}
    assert result.num_left_out == {1: 0, 2: 1}
    assert (result.num_problems, result.num_samples) == (3, 5)
    report = result.to_json()
    assert list(report)[:2] == ["pass@1", "pass@2"]
    assert report["outcomes"] == {"failed": 1, "infrastructure_error": 1, "passed": 3, "timeout": 1}
    assert report["intervals"]["pass@1"]["easy"] == [1.0, 1.0]
    assert report["problems_with_too_few_samples"] == {"pass@2": 1}


def test_named_sets_are_groups_beside_difficulties() -> None:
    made = Tally(PROBLEMS, {"first": ["a", "b"], "second": ["b", "c"], "alone": ["c", "never sampled"]})
    for task_id, outcome in OUTCOMES:
        made.add(task_id, outcome)
    result = evaluate_tally(made, [1])
    assert result.pass_at[1] == {"all": 0.5, "first": 0.75, "second": 0.25, "alone": 0.0, "easy": 1.0, "hard": 0.25}
    assert result.intervals[1].keys() == result.pass_at[1].keys()
    assert result.sets == {"first": ["a", "b"], "second": ["b", "c"], "alone": ["c"]}
    assert result.shown == ("first", "second", "alone")
    assert evaluate_tally(made, [1, 2]).shown == ("first", "second")  # no problem of `alone` has two programs


def test_without_named_sets_all_problems_are_shown(counted: Tally) -> None:
    assert evaluate_tally(counted, [1]).shown == ("all",)


def test_a_k_that_no_problem_reaches_is_an_error(counted: Tally) -> None:
    with pytest.raises(ValueError, match="pass@3 needs 3 graded programs of a problem; no problem has over 2"):
        evaluate_tally(counted, [3])


def test_an_unknown_problem_is_an_error(counted: Tally) -> None:
    with pytest.raises(KeyError):
        counted.add("d", Outcome.PASSED)


def tally(passes: dict[str, tuple[int, int]]) -> Tally:
    made = Tally([problem(task_id) for task_id in passes])
    for task_id, (num_passed, num_failed) in passes.items():
        for outcome, count in ((Outcome.PASSED, num_passed), (Outcome.FAILED, num_failed)):
            for _ in range(count):
                made.add(task_id, outcome)
    return made


def test_runs_are_compared_problem_by_problem() -> None:
    ours = {f"p{i}": (i % 10 + 1, 10 - i % 10) for i in range(50)}
    theirs = {f"p{i}": (i % 10, 11 - i % 10) for i in range(50)} | {"other": (11, 0)}
    compared = compare_tallies(tally(ours), tally(theirs), [1])["pass@1"]["all"]
    assert compared["difference"] == pytest.approx(1 / 11)
    assert compared["interval"] == pytest.approx([1 / 11, 1 / 11])
    assert compared["num_problems"] == 50
    with pytest.raises(ValueError, match="both runs"):
        compare_tallies(tally(ours), tally({"x": (1, 1)}), [1])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12), st.integers(1, 6))
def test_a_comparison_is_the_difference_of_two_results(passes: list[tuple[int, int]], k: int) -> None:
    ours = tally({f"p{i}": (one, 6 - one) for i, (one, _) in enumerate(passes)})
    theirs = tally({f"p{i}": (other, 6 - other) for i, (_, other) in enumerate(passes)})
    found = compare_tallies(ours, theirs, [k])[f"pass@{k}"]["all"]
    reported = [evaluate_tally(one, [k]).pass_at[k]["all"] for one in (ours, theirs)]
    assert isclose(found["difference"], reported[0] - reported[1], abs_tol=1e-12)
    back = compare_tallies(theirs, ours, [k])[f"pass@{k}"]["all"]
    assert isclose(back["difference"], -found["difference"], abs_tol=1e-12)
    low, high = found["interval"]
    assert low - 1e-12 <= found["difference"] <= high + 1e-12


def test_difficulties_are_compared_separately() -> None:
    problems = [problem("a", "easy"), problem("b", "hard")]
    ours, theirs = Tally(problems), Tally(problems)
    for made, outcome in ((ours, Outcome.PASSED), (theirs, Outcome.FAILED)):
        made.add("a", outcome)
        made.add("b", Outcome.FAILED)
    found = compare_tallies(ours, theirs, [1])["pass@1"]
    assert {group: one["difference"] for group, one in found.items()} == {"all": 0.5, "easy": 1.0, "hard": 0.0}

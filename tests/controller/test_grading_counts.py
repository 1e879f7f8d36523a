"""The counts of a step describe the rollouts graded for it."""

from dataclasses import replace

from rltf.controller.grading import chosen_tests
from rltf.controller.rollouts import GradingCounts
from rltf.problems.types import Problem, StdinTest
from tests.reporting.exporting_run import graded_rollout


def test_truncated_completions_and_silent_groups_are_counted() -> None:
    rollout = graded_rollout()
    counts = GradingCounts()
    counts.add(replace(rollout, num_truncated=3))
    counts.add(replace(rollout, has_signal=False))
    counts.add(replace(rollout, num_samples=0, has_signal=False))  # the grader failed on all of them
    assert counts.num_truncated == 3
    assert (counts.num_groups, counts.num_silent_groups) == (2, 1)
    assert counts.isolation == {"namespaces": 2 * 9 + 1}


def test_each_rollout_runs_its_own_choice_of_tests() -> None:
    few, many = (Problem("p", "any", "", (StdinTest("", "1"),) * count) for count in (5, 40))
    assert chosen_tests(few, None, "r1") == chosen_tests(few, 5, "r1") == (0, 1, 2, 3, 4)
    choices = [chosen_tests(many, 6, f"r{n}") for n in range(60)]
    assert all(len(set(choice)) == 6 and list(choice) == sorted(choice) for choice in choices)
    assert choices[3] == chosen_tests(many, 6, "r3")
    assert {number for choice in choices for number in choice} == set(range(40))

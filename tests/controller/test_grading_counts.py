"""The counts of a step describe the rollouts graded for it."""

from dataclasses import replace

from controller.rollouts import GradingCounts
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

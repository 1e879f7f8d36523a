"""Reward functions for tests."""

from __future__ import annotations

from rltf.rewards import CustomReward, GradedProgram, weights_on_lines


def half(graded: GradedProgram) -> float:
    return 0.5


def share_of_x(graded: GradedProgram) -> float:
    return graded.program.text.count("x") / 4


def on_lines(graded: GradedProgram) -> CustomReward:
    return CustomReward(2.0, weights_on_lines(graded.program, {1: 0.5, 2: 9.0, 3: -1.0, 7: 9.0}))

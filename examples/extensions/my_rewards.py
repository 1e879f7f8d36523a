"""A reward for short programs that pass, and a penalty on lines that print."""

from __future__ import annotations

from rltf.rewards import CustomReward, GradedProgram, weights_on_lines

PRINT_PENALTY = -0.1


def concise(graded: GradedProgram) -> CustomReward:
    """1 for an empty program that passes, falling to 0 at 40 lines, and less on the tokens of every `print`."""
    lines = graded.program.text.splitlines()
    value = max(0.0, 1 - len(lines) / 40) if graded.verdict.passed else 0.0
    prints = {number: PRINT_PENALTY for number, line in enumerate(lines, start=1) if "print(" in line}
    return CustomReward(value, weights_on_lines(graded.program, prints))

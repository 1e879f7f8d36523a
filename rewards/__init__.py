"""Turns verdicts into rewards and token weights. Pure functions: no Ray, no torch.

Invariants: nothing a program claims about its error raises a reward; the fine term never raises a weight; penalties
change weights only inside their span; lines to blame for a wrong answer change neither the sum nor the sign of its
weights; an `infrastructure_error` is never scored. A reward function of the user (`rewards.custom`) may say anything.
"""

from rltf.rewards.custom import CustomReward, GradedProgram, weights_on_lines
from rltf.rewards.scoring import score_group
from rltf.rewards.types import Category, Granularity, GroupScores, ProgramReward, ProgramTokens, ScoredSample

__all__ = [
    "Category",
    "CustomReward",
    "GradedProgram",
    "Granularity",
    "GroupScores",
    "ProgramReward",
    "ProgramTokens",
    "ScoredSample",
    "score_group",
    "weights_on_lines",
]

"""Measures how good a policy is: pass@k with its uncertainty, over programs graded here or elsewhere.

Invariants: the estimator is unbiased; an error of the grader never counts as a wrong program; every figure comes with
an interval; an output folder never mixes programs of different problems, models or options.
"""

from rltf.evaluation.passes import (
    EvaluationResult,
    Tally,
    bootstrap_interval,
    compare_tallies,
    evaluate_tally,
    pass_at_k,
)

__all__ = ["EvaluationResult", "Tally", "bootstrap_interval", "compare_tallies", "evaluate_tally", "pass_at_k"]

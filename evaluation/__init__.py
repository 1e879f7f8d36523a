"""Measures how good a policy is: pass@k with its uncertainty, over programs graded here or elsewhere.

Invariants: the estimator is unbiased; an error of the grader never counts as a wrong program; every figure comes with
an interval; an output folder never mixes programs of different problems, models or options.
"""

from rltf.evaluation.passes import EvaluationResult as EvaluationResult
from rltf.evaluation.passes import Tally as Tally
from rltf.evaluation.passes import bootstrap_interval as bootstrap_interval
from rltf.evaluation.passes import compare_tallies as compare_tallies
from rltf.evaluation.passes import evaluate_tally as evaluate_tally
from rltf.evaluation.passes import pass_at_k as pass_at_k

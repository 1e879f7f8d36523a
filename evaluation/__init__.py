"""How good a policy is: pass@k with its uncertainty, over programs graded here or elsewhere.

Invariants: the estimator is unbiased; a fault of the grader is never counted as a wrong program; an interval stands
next to every figure; an output folder never mixes programs of other problems, models or options (`fingerprints.py`).
Counting (`passes.py`, `result.py`) is pure; `run.py` grades into a folder (`store.py`) what comes from a file
(`samples_file.py`), a model (`model.py`) or a server (`endpoint.py`).
"""

from evaluation.result import EvaluationResult, Tally, compare_tallies, evaluate_verdicts

__all__ = ["EvaluationResult", "Tally", "compare_tallies", "evaluate_verdicts"]

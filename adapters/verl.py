"""Reward functions for verl's `custom_reward_function` (written for verl 0.9).

    reward.custom_reward_function.path=pkg://rltf.adapters.verl
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.workers=4

`reward_model.ground_truth` of the data set has the row of a problem as JSON.

verl has no "no reward". If the grader fails, these functions raise `GraderError`, and the run ends with its cause: a
score of 0 would teach the model that a good program is bad. With `grader_error_score` the run continues with that
score, and `grader_error` counts these completions in verl's metrics. verl's managers `prime` and `rate_limited` catch
exceptions themselves and score 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rltf.adapters.scoring import Row, Scorer
from rltf.grader import Verdict


def compute_score(
    data_source: str, solution_str: str, ground_truth: Row, extra_info: Any = None, **options: Any
) -> dict[str, float]:
    """The score of one completion, and what verl logs beside it. `options` are those of `Scorer`.

    Raises UserError for a row that cannot be used, and GraderError if the grader failed and there is no
    `grader_error_score`.
    """
    return _result(*Scorer(**options).judge(ground_truth, solution_str))


def compute_score_batch(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[Row],
    extra_infos: Any = None,
    **options: Any,
) -> list[dict[str, float]]:
    """The same for a batch, as `BatchRewardManager` asks for it."""
    scorer = Scorer(**options)
    verdicts = scorer.verdicts(ground_truths, solution_strs)
    return [_result(scorer.required(verdict), verdict) for verdict in verdicts]


def _result(score: float, verdict: Verdict) -> dict[str, float]:
    """verl logs `acc` and all other numbers, and expects the same keys for each completion."""
    return {
        "score": score,
        "acc": float(verdict.passed),
        "pass_ratio": verdict.pass_ratio,
        "grader_error": float(verdict.is_grader_error),
    }

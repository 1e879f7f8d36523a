"""A single-turn environment for SkyRL (written for skyrl-gym 0.4).

    skyrl_gym.register("unit_tests", entry_point="rltf.adapters.skyrl:UnitTestEnv", kwargs={"workers": 4})

Rows of the data set have `"env_class": "unit_tests"`, and the row of a problem as JSON in `reward_spec.ground_truth`.

SkyRL has no "no reward". If the grader fails, `step` raises `GraderError`, which ends the run with its cause, unless
there is a `grader_error_score`; the metric `grader_error` then counts these completions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput

from rltf.adapters.scoring import Scorer
from rltf.errors import UserError


class UnitTestEnv(BaseTextEnv):  # type: ignore[misc]
    """One completion, one verdict. `options` are those of `Scorer`."""

    def __init__(self, env_config: Any = None, extras: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__()
        try:
            self._row = (extras or {})["reward_spec"]["ground_truth"]
        except (KeyError, TypeError) as error:
            raise UserError("reward_spec.ground_truth: expected the row of a problem as JSON, found nothing") from error
        self._scorer = Scorer(**options)
        self._metrics: dict[str, float] = {}

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """Score the completion, and end the episode.

        Raises UserError if the row cannot be used, and GraderError if the grader failed and there is no
        `grader_error_score`.
        """
        score, verdict = self._scorer.judge(self._row, action)
        self._metrics = {
            "passed": float(verdict.passed),
            "pass_ratio": verdict.pass_ratio,
            "grader_error": float(verdict.is_grader_error),
        }
        return BaseTextEnvStepOutput(
            observations=[], reward=score, done=True, metadata={"outcome": verdict.outcome.value}
        )

    def get_metrics(self) -> dict[str, float]:
        return self._metrics

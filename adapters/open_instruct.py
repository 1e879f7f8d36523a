"""A verifier for open-instruct (written for its `ground_truth_utils.py` at commit c28e030).

    from rltf.adapters.open_instruct import unit_test_verifier

    unit_test_verifier()            # before `build_all_verifiers`, which takes every subclass of `VerifierFunction`

Rows of the data set name it in `dataset` (`rltf`), and have the row of a problem as JSON in `ground_truth`.

open-instruct has no "no reward", and its own code verifier scores 0 if its server fails. This one raises `GraderError`,
which ends the run with its cause, unless there is a `grader_error_score`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from rltf.adapters.scoring import Row, Scorer

_made: list[type] = []
"""Keeps the classes alive: a class knows its subclasses only as long as somebody else holds them."""


def unit_test_verifier(name: str = "rltf", **options: Any) -> type:
    """A subclass of `VerifierFunction` with the options of `Scorer`, for rows whose `dataset` is `name`."""
    from open_instruct.ground_truth_utils import VerificationResult, VerifierFunction

    scorer = Scorer(**options)

    class UnitTestVerifier(VerifierFunction):  # type: ignore[misc]
        def __init__(self, verifier_config: Any = None) -> None:
            super().__init__(name, weight=1.0, verifier_config=verifier_config)

        def __call__(
            self, tokenized_prediction: list[int], prediction: str, label: Row, query: str | None = None
        ) -> Any:
            score, verdict = scorer.judge(label, prediction)
            return VerificationResult(score=score, reasoning=verdict.outcome.value)

        async def async_call(
            self, tokenized_prediction: list[int], prediction: str, label: Row, query: str | None = None
        ) -> Any:
            return await asyncio.to_thread(self, tokenized_prediction, prediction, label, query)

    _made.append(UnitTestVerifier)
    return UnitTestVerifier

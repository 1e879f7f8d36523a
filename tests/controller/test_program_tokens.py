"""The part of a completion that the rewards see."""

from __future__ import annotations

import numpy as np
import pytest

from rltf.controller.samples import program_tokens
from rltf.rewards import Category, score_group
from rltf.sandbox.verdict import Isolation, Outcome, ProgramError, Verdict
from rltf.settings import RewardSettings
from rltf.transport.rollouts import Completion, FinishReason, VersionSpan


@pytest.mark.parametrize("reason", FinishReason)
def test_completions_of_generators_are_scored(reason: FinishReason) -> None:
    """The fine penalty is only for tokens of the program. If the completion was cut off, all of them are penalized."""
    completion = Completion(
        task_id="t0",
        completion_id="c0",
        prompt_ids=np.array([1], dtype=np.int32),
        token_ids=np.arange(5, dtype=np.int32),
        logprobs=np.zeros(5, dtype=np.float32),
        char_spans=np.array([[0, 4], [4, 7], [7, 10], [10, 14], [14, 17]], dtype=np.int32),
        weight_versions=(VersionSpan(0, 5, 0),),
        finish_reason=reason,
        text="```\nif x:\ny=1\n```",
        program_start=4,
        program_end=14,
    )
    tokens = program_tokens(completion)
    assert tokens.text == completion.program == "if x:\ny=1\n"
    assert tokens.char_spans.dtype == np.int32
    outcome = Outcome.SYNTAX_ERROR
    error = ProgramError("IndentationError", line=2)
    verdict = Verdict("t0", "c0", outcome, (outcome,), error, Isolation.NAMESPACES, 0.1, 0.1, 1)
    (scored,) = score_group([tokens], [verdict], RewardSettings()).samples
    assert scored is not None
    assert scored.num_tokens == 3
    if reason is FinishReason.LENGTH:
        assert (scored.category, scored.fine_span) == (Category.GLOBAL, (0, 2))
    else:
        assert (scored.category, scored.fine_span) == (Category.LINE, (2, 2))

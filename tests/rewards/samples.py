"""Programs, verdicts and settings for the tests of the rewards."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from rltf.problems.token_spans import char_spans
from rltf.rewards import ProgramTokens, ScoredSample, score_group
from rltf.sandbox.verdict import Isolation, Outcome, ProgramError, Verdict
from rltf.settings import RewardSettings, rewards_of
from tests.small_tokenizers import END


def plain(preset: str, **changes: object) -> RewardSettings:
    """A preset with a zero baseline and unchanged signs, so that its rewards are those of the formulas."""
    fields = {"baseline": "none", "negative_scale": 1.0, "failing_never_positive": False} | changes
    return rewards_of(preset, **fields)


def score_one(program: ProgramTokens, verdict: Verdict, settings: RewardSettings) -> ScoredSample:
    """The score of a program in a group of its own."""
    (scored,) = score_group([program], [verdict], settings).samples
    assert scored is not None
    return scored


def make_verdict(
    outcome: Outcome,
    tests: tuple[Outcome, ...] = (Outcome.PASSED,),
    *,
    error: ProgramError | None = None,
    completion_id: str = "c0",
    task_id: str = "t0",
) -> Verdict:
    return Verdict(
        task_id=task_id,
        completion_id=completion_id,
        outcome=outcome,
        tests=tests,
        error=error,
        isolation=Isolation.NAMESPACES,
        seconds=0.1,
        cpu_seconds=0.1,
        peak_memory_bytes=1,
    )


def character_tokens(program: str, *, truncated: bool = False) -> ProgramTokens:
    """One token per character and, unless truncated, an end token, so that spans can be counted by hand."""
    starts = np.arange(len(program))
    spans = np.stack([starts, starts + 1], axis=1)
    if not truncated:
        spans = np.concatenate([spans, [[len(program), len(program)]]])
    return ProgramTokens(program, spans.astype(np.int32), truncated)


def tokenized(tokenizer: Tokenizer, program: str, *, before: str = "", after: str = "") -> ProgramTokens:
    """The program as `tokenizer` splits it, between `before` and `after`, with an end token."""
    end = tokenizer.token_to_id(END)
    assert end is not None
    ids = [*tokenizer.encode(before + program + after, add_special_tokens=False).ids, end]
    text = before + program + after
    return ProgramTokens(program, char_spans(tokenizer, ids, text) - len(before), truncated=False)

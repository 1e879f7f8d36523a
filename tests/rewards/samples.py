"""Samples and verdicts for the tests of this room."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from problems.token_spans import char_spans
from rewards import Sample
from sandbox.verdict import Isolation, Outcome, ProgramError, Verdict
from settings import RewardSettings, rewards_of
from tests.small_tokenizers import END


def plain(preset: str, **changes: object) -> RewardSettings:
    """The preset with a zero baseline and untouched signs: its rewards as the formulas give them."""
    fields = {"baseline": "none", "negative_scale": 1.0, "failing_never_positive": False} | changes
    return rewards_of(preset, **fields)


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


def character_sample(program: str, verdict: Verdict, *, truncated: bool = False) -> Sample:
    """One token a character and, where sampling was not cut off, an end token: spans can be counted by hand."""
    starts = np.arange(len(program))
    spans = np.stack([starts, starts + 1], axis=1)
    if not truncated:
        spans = np.concatenate([spans, [[len(program), len(program)]]])
    return Sample(
        task_id=verdict.task_id,
        completion_id=verdict.completion_id,
        verdict=verdict,
        char_spans=spans.astype(np.int32),
        text=program,
        program_start=0,
        program_end=len(program),
        truncated=truncated,
    )


def tokenized_sample(
    tokenizer: Tokenizer, program: str, verdict: Verdict, *, before: str = "", after: str = ""
) -> Sample:
    """The program as `tokenizer` splits it, between `before` and `after`, with an end token."""
    end = tokenizer.token_to_id(END)
    assert end is not None
    ids = [*tokenizer.encode(before + program + after, add_special_tokens=False).ids, end]
    text = before + program + after
    return Sample(
        task_id=verdict.task_id,
        completion_id=verdict.completion_id,
        verdict=verdict,
        char_spans=char_spans(tokenizer, ids, text),
        text=text,
        program_start=len(before),
        program_end=len(before) + len(program),
        truncated=False,
    )

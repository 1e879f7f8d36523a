"""What the turns of a dialogue earn: the last verdict, their own outcomes, and the penalties of their own errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.rewards import Granularity, ProgramTokens, ScoredSample, score_group
from rltf.sandbox.verdict import Outcome, ProgramError, Verdict
from rltf.settings import Baseline, RewardSettings
from tests.rewards.samples import character_tokens, make_verdict, plain

PASSED = make_verdict(Outcome.PASSED)
FAILED = make_verdict(Outcome.FAILED, (Outcome.FAILED,))
SYNTAX = make_verdict(Outcome.SYNTAX_ERROR, (Outcome.SYNTAX_ERROR,))
CRASHED = make_verdict(
    Outcome.RUNTIME_ERROR, (Outcome.RUNTIME_ERROR,), error=ProgramError("ZeroDivisionError", "division by zero", 2)
)
PROGRAM = character_tokens("x = 1\nx / 0\n")
ONLY_COARSE = {"fine_weight": 0.0, "adaptive_weight": 0.0}


def score(dialogues: list[list[Verdict]], settings: RewardSettings) -> list[tuple[ScoredSample, ...]]:
    """The scores of the turns of dialogues in which every answer is `PROGRAM`."""
    found = score_group(
        [PROGRAM] * len(dialogues),
        [verdicts[-1] for verdicts in dialogues],
        settings,
        earlier=[[(PROGRAM, verdict) for verdict in verdicts[:-1]] for verdicts in dialogues],
    ).samples
    assert None not in found
    return [(*sample.earlier, sample) for sample in found if sample is not None]


def coarse(turn: ScoredSample) -> float:
    """The coarse weight of every token."""
    (value,) = set(turn.token_weights[Granularity.COARSE].tolist())
    return float(value)


def test_rlef_pays_for_invalid_code_and_at_the_end() -> None:
    """Gehring et al. 2024: 1 or -1 at the end, -0.2 for a turn without valid code, and each turn looks ahead."""
    settings = plain("rltf", outcome="sign", turn_weight=0.2, **ONLY_COARSE)
    ((first, second),) = score([[SYNTAX, PASSED]], settings)
    assert coarse(first) == pytest.approx(0.8)
    assert coarse(second) == 1.0
    ((first, second, third),) = score([[SYNTAX, SYNTAX, FAILED]], settings)
    assert [coarse(turn) for turn in (first, second, third)] == pytest.approx([-1.4, -1.2, -1.0])


def test_the_baseline_is_the_return_of_the_other_dialogues() -> None:
    settings = plain("rltf", baseline="leave_one_out", turn_weight=0.2, **ONLY_COARSE)
    first, second = score([[SYNTAX, PASSED], [PASSED]], settings)
    assert [coarse(turn) for turn in first] == pytest.approx([0.8 - 1.0, 1.0 - 1.0])
    assert coarse(second[0]) == pytest.approx(1.0 - 0.8)


def test_an_estimator_that_looks_ahead_gets_the_reward_of_each_turn_at_its_end() -> None:
    settings = plain("ppo", placement="last", outcome="coarse", coarse_weight=2.0, turn_weight=0.1)
    ((first, second, third),) = score([[SYNTAX, FAILED, PASSED]], settings)
    for turn, value in ((first, -0.2), (second, -0.06), (third, 2.0)):
        row = turn.token_weights.sum(axis=0)
        assert row[:-1].tolist() == [0.0] * (len(row) - 1)
        assert row[-1] == pytest.approx(value)


def test_an_error_is_penalized_in_its_own_turn() -> None:
    ((first, second),) = score([[CRASHED, PASSED]], plain("rltf", coarse_weight=0.0, adaptive_weight=0.0))
    penalized = np.flatnonzero(first.token_weights[Granularity.FINE])
    assert PROGRAM.text[penalized[0] : penalized[-1] + 1].strip() == "x / 0"
    assert not second.token_weights.any()
    assert first.verdict is CRASHED


OUTCOMES = st.sampled_from([PASSED, FAILED, SYNTAX, CRASHED])


@given(
    st.lists(OUTCOMES, min_size=1, max_size=6),
    st.sampled_from(list(Baseline)),
    st.sampled_from(["rltf", "grpo", "ppo", "rltf-code"]),
)
def test_a_dialogue_of_one_turn_is_scored_as_a_program(
    verdicts: list[Verdict], baseline: Baseline, preset: str
) -> None:
    settings = plain(preset, baseline=baseline)
    programs: list[ProgramTokens] = [PROGRAM] * len(verdicts)
    alone = score_group(programs, verdicts, settings).samples
    for theirs, (ours,) in zip(alone, score([[verdict] for verdict in verdicts], settings), strict=True):
        assert theirs is not None
        assert np.array_equal(theirs.token_weights, ours.token_weights)


@given(st.lists(st.lists(OUTCOMES, min_size=1, max_size=4), min_size=1, max_size=5))
def test_without_a_turn_weight_all_turns_share_what_the_last_one_earned(dialogues: list[list[Verdict]]) -> None:
    settings = plain("rltf", baseline="leave_one_out", fine_weight=0.0)
    for turns in score(dialogues, settings):
        totals = {round(float(weight), 6) for turn in turns for weight in turn.token_weights.sum(axis=0)}
        assert len(totals) == 1
    alone = score([verdicts[-1:] for verdicts in dialogues], settings)
    for turns, (only,) in zip(score(dialogues, settings), alone, strict=True):
        assert np.array_equal(turns[-1].token_weights, only.token_weights)

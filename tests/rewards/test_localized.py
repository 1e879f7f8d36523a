"""Weights of whole rollouts with `localize: siblings`, by hand and compared with those without it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rltf.rewards import Granularity, ProgramTokens, ScoredSample, score_group
from rltf.sandbox.verdict import Outcome, ProgramError, Verdict
from rltf.settings import RewardSettings, rewards_of
from tests.rewards.samples import character_tokens, make_verdict, plain, tokenized
from tests.rewards.test_siblings import DISTINCT, EVEN, SHORT, UNSORTED, WRONG
from tests.small_tokenizers import FAMILIES

TOKENIZERS = {name: FAMILIES[name]() for name in ("byte_level_bpe", "sentencepiece_bpe")}
MOVED = [Granularity.COARSE, Granularity.ADAPTIVE]
UNMOVED = [Granularity.FINE, Granularity.STATIC]
ON = plain("rltf", localize="siblings")


def rollout(*samples: tuple[str, Outcome], chosen: RewardSettings = ON) -> list[ScoredSample]:
    """The scores of programs with one token per character."""
    verdicts = [make_verdict(outcome, (outcome,)) for _, outcome in samples]
    scores = score_group([character_tokens(text) for text, _ in samples], verdicts, chosen).samples
    return [scored for scored in scores if scored is not None]


def split_around_line_4(num_before: int, num_inside: int, num_after: int) -> ProgramTokens:
    """`WRONG` in as many tokens as given before, on and after its line 4."""
    first = WRONG.index("if x")
    last = WRONG.index("\n", first)
    counts = zip([0, first, last], [first, last, len(WRONG)], [num_before, num_inside, num_after], strict=True)
    starts = [int(edge) for begin, end, count in counts for edge in np.linspace(begin, end, count, endpoint=False)]
    spans: NDArray[np.int32] = np.stack([starts, [*starts[1:], len(WRONG)]], axis=1).astype(np.int32)
    return ProgramTokens(WRONG, spans, truncated=False)


def test_the_line_of_a_wrong_condition_by_hand() -> None:
    """Coarse -0.3 on 40 tokens, 8 of them on line 4: -0.9 there and -0.15 elsewhere, with the sum of before, -12."""
    tokens = split_around_line_4(20, 8, 12)
    verdicts = [make_verdict(Outcome.FAILED, (Outcome.FAILED,)), make_verdict(Outcome.PASSED)]
    chosen = plain("rltf", localize="siblings", adaptive_weight=0)
    wrong, right = score_group([tokens, character_tokens(EVEN)], verdicts, chosen).samples
    assert wrong is not None
    assert right is not None
    assert (wrong.blamed, right.blamed) == ((4,), ())
    expected = [-0.15] * 20 + [-0.9] * 8 + [-0.15] * 12
    np.testing.assert_allclose(wrong.token_weights.sum(axis=0), expected, rtol=1e-6)
    assert wrong.token_weights.sum() == pytest.approx(-12)
    assert (wrong.coarse, wrong.num_tokens) == (-0.3, 40)


@pytest.mark.parametrize(
    ("samples", "blamed"),
    [
        ([(WRONG, Outcome.FAILED), (EVEN, Outcome.PASSED)], (4,)),
        ([(UNSORTED, Outcome.FAILED), (DISTINCT, Outcome.PASSED)], (2,)),
        ([(WRONG, Outcome.FAILED), (SHORT, Outcome.PASSED)], ()),
        ([(WRONG, Outcome.FAILED), (EVEN, Outcome.FAILED)], ()),
        ([(WRONG, Outcome.RUNTIME_ERROR), (EVEN, Outcome.PASSED)], ()),
        ([(WRONG, Outcome.TIMEOUT), (EVEN, Outcome.PASSED)], ()),
        ([(WRONG, Outcome.FAILED)], ()),
    ],
)
def test_only_wrong_answers_with_a_sibling_that_passes(
    samples: list[tuple[str, Outcome]], blamed: tuple[int, ...]
) -> None:
    first, *_ = rollout(*samples)
    assert first.blamed == blamed
    assert (np.ptp(first.token_weights[Granularity.COARSE]) > 0) == bool(blamed)


def test_a_wrong_answer_with_a_positive_weight_is_left_alone() -> None:
    """Among many timeouts, a wrong answer is above the mean."""
    samples = [(WRONG, Outcome.FAILED), (EVEN, Outcome.PASSED), *[(SHORT, Outcome.TIMEOUT)] * 20]
    assert rollout(*samples)[0].blamed == (4,)
    above = plain("rltf", localize="siblings", baseline="mean")
    assert rollout(*samples, chosen=above)[0].blamed == ()


def test_nothing_moves_to_a_line_without_tokens_of_its_own() -> None:
    """One token holds the whole program."""
    whole = ProgramTokens(WRONG, np.array([[0, len(WRONG)]], dtype=np.int32), truncated=False)
    verdicts = [make_verdict(Outcome.FAILED, (Outcome.FAILED,)), make_verdict(Outcome.PASSED)]
    wrong, _ = score_group([whole, character_tokens(EVEN)], verdicts, ON).samples
    assert wrong is not None
    assert wrong.blamed == ()
    np.testing.assert_allclose(wrong.token_weights[MOVED], -0.3)


@pytest.mark.parametrize("preset", ["rltf", "rltf-paper", "rltf-code"])
def test_off_in_every_preset(preset: str) -> None:
    first, _ = rollout((WRONG, Outcome.FAILED), (EVEN, Outcome.PASSED), chosen=plain(preset))
    assert first.blamed == ()
    assert np.ptp(first.token_weights[Granularity.COARSE]) == 0


PROGRAMS = [
    *(WRONG, EVEN, SHORT, UNSORTED, DISTINCT),
    WRONG.replace("total = 0", "total = 1"),
    WRONG.replace("\n", "\r\n").replace("== 1", "in (\r\n 1,\r\r\n)"),
    WRONG.partition("\n")[2],
    EVEN.partition("\n")[2],
    "",
    "x\0y",
    "(" * 10_000,
]
OUTCOMES = [Outcome.PASSED, Outcome.FAILED, Outcome.RUNTIME_ERROR, Outcome.INFRASTRUCTURE_ERROR]


@st.composite
def samples(draw: st.DrawFn, programs: list[str], outcomes: list[Outcome]) -> tuple[ProgramTokens, Verdict]:
    outcome = draw(st.sampled_from(outcomes))
    tests = (outcome, *draw(st.lists(st.just(Outcome.PASSED), max_size=2)))
    error = ProgramError("TypeError", line=2) if outcome is Outcome.RUNTIME_ERROR else None
    program = draw(st.sampled_from(programs))
    around = draw(st.sampled_from([("", ""), ("```python\n", "\n```\n")]))
    tokenizer = TOKENIZERS[draw(st.sampled_from(sorted(TOKENIZERS)))]
    tokens = tokenized(tokenizer, program, before=around[0], after=around[1])
    return tokens, make_verdict(outcome, tests, error=error)


wrong = samples([WRONG, PROGRAMS[5], PROGRAMS[6]], [Outcome.FAILED])
right = samples([EVEN, DISTINCT], [Outcome.PASSED])
groups = st.builds(
    lambda *parts: [*parts[:2], *parts[2]], wrong, right, st.lists(samples(PROGRAMS, OUTCOMES), max_size=4)
)

reward_settings = st.builds(
    rewards_of,
    st.sampled_from(["rltf", "rltf-paper", "rltf-code"]),
    baseline=st.sampled_from(["mean", "leave_one_out", "none"]),
    static_weight=st.sampled_from([0.0, 1.0]),
    localize=st.just("siblings"),
    localize_share=st.sampled_from([0.1, 0.5, 1.0]),
    localize_cap=st.sampled_from([1.0, 4.0, 100.0]),
    localize_distance=st.sampled_from([0.0, 0.3, 0.9]),
)


@given(groups, reward_settings)
def test_weight_moves_only_between_the_tokens_of_wrong_answers(
    group: list[tuple[ProgramTokens, Verdict]], chosen: RewardSettings
) -> None:
    programs, verdicts = [program for program, _ in group], [verdict for _, verdict in group]
    off = score_group(programs, verdicts, chosen.model_copy(update={"localize": "off"})).samples
    on = score_group(programs, verdicts, chosen).samples
    for program, before, after in zip(programs, off, on, strict=True):
        if before is None or after is None:
            assert before is after
            continue
        assert before.blamed == ()
        old, new = before.token_weights, after.token_weights
        np.testing.assert_array_equal(new[UNMOVED], old[UNMOVED])
        np.testing.assert_allclose(new.sum(axis=1), old.sum(axis=1), rtol=1e-4, atol=1e-4)
        if not after.blamed:
            np.testing.assert_array_equal(new, old)
            continue
        assert after.verdict.outcome is Outcome.FAILED
        assert old[MOVED].sum(axis=0).max() < 0
        lines = program.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        assert all(1 <= line <= len(lines) for line in after.blamed)
        outside = (program.char_spans[:, 1] <= 0) | (program.char_spans[:, 0] >= len(program.text))
        np.testing.assert_array_equal(new[:, outside], old[:, outside])
        factor = new[MOVED][old[MOVED] != 0] / old[MOVED][old[MOVED] != 0]
        assert factor.min() >= 1 - chosen.localize_share - 1e-5, "so no sign turns"
        assert factor.max() <= chosen.localize_cap + 1e-5

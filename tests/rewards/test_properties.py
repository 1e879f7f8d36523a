"""Rules that hold for all programs and verdicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.rewards import Category, Granularity, GroupScores, ProgramReward, ProgramTokens, ScoredSample, score_group
from rltf.sandbox.verdict import Outcome, ProgramError, Verdict
from rltf.settings import RewardSettings, rewards_of
from tests.rewards.samples import character_tokens, make_verdict, plain, score_one, tokenized
from tests.small_tokenizers import FAMILIES
from tests.tiers import examples

TOKENIZERS = {name: build() for name, build in FAMILIES.items()}
WHOLE = [Granularity.COARSE, Granularity.ADAPTIVE]
PRIORITY = [
    Outcome.SYNTAX_ERROR,
    Outcome.INFRASTRUCTURE_ERROR,
    Outcome.TIMEOUT,
    Outcome.MEMORY_LIMIT,
    Outcome.OUTPUT_LIMIT,
    Outcome.RUNTIME_ERROR,
    Outcome.FAILED,
    Outcome.PASSED,
]
PROGRAMS = [
    "",
    "x",
    "a = 1\nb = a[0]\n",
    "\n\n  \n",
    "a\r\n\r\n\tb = '日本'\r\nb\n",
    "if x:\n    y\n  z",
    "x = '''a\nb",
]

errors = st.none() | st.builds(
    ProgramError,
    type=st.sampled_from(["TypeError", "MemoryError", "RecursionError", "SyntaxError", "TabError", "Mine"]),
    line=st.none() | st.integers(-1, 6),
    column=st.none(),
)


def settings_of(*presets: str) -> st.SearchStrategy[RewardSettings]:
    return st.builds(
        rewards_of,
        st.sampled_from(presets),
        baseline=st.sampled_from(["greedy_latest", "greedy_best", "mean", "leave_one_out", "none"]),
        static_weight=st.sampled_from([0.0, 1.0]),
        negative_scale=st.sampled_from([0.1, 1.0]),
        failing_never_positive=st.booleans(),
    )


reward_settings = settings_of("rltf", "rltf-paper", "rltf-code")

Sample = tuple[ProgramTokens, Verdict]


@st.composite
def samples(draw: st.DrawFn, completion_id: str = "c0") -> Sample:
    program = draw(st.sampled_from(PROGRAMS))
    outcome = draw(st.sampled_from(PRIORITY))
    milder = [outcome] if outcome is Outcome.SYNTAX_ERROR else PRIORITY[PRIORITY.index(outcome) :]
    others = draw(st.lists(st.sampled_from(milder), max_size=5))
    tests = draw(st.permutations([outcome, *others]))
    verdict = make_verdict(outcome, tuple(tests), error=draw(errors), completion_id=completion_id)
    if draw(st.booleans()):
        return character_tokens(program, truncated=draw(st.booleans())), verdict
    around = draw(st.sampled_from([("", ""), ("```python\n", "\n```\n"), ("So: ", ".")]))
    tokenizer = TOKENIZERS[draw(st.sampled_from(["byte_level_bpe", "sentencepiece_bpe"]))]
    return tokenized(tokenizer, program, before=around[0], after=around[1]), verdict


def score(
    group: Sequence[Sample],
    chosen: RewardSettings,
    *,
    greedy: Verdict | None = None,
    previous: ProgramReward | None = None,
) -> GroupScores:
    programs, verdicts = [program for program, _ in group], [verdict for _, verdict in group]
    return score_group(programs, verdicts, chosen, greedy=greedy, previous=previous)


groups = st.integers(0, 6).flatmap(lambda n: st.tuples(*[samples(f"c{i}") for i in range(n)]))
greedy_verdicts = st.none() | samples("greedy").map(lambda sample: sample[1])


@given(groups, reward_settings, greedy_verdicts)
@examples(2)
def test_shape_spans_and_sums(group: tuple[Sample, ...], chosen: RewardSettings, greedy: Verdict | None) -> None:
    scores = score(group, chosen, greedy=greedy)
    assert len(scores.samples) == len(group)
    for (program, verdict), scored in zip(group, scores.samples, strict=True):
        if verdict.outcome is Outcome.INFRASTRUCTURE_ERROR:
            assert scored is None
            continue
        assert scored is not None
        assert scored.verdict is verdict
        weights = scored.token_weights
        assert weights.shape == (len(Granularity), len(program.char_spans))
        assert np.isfinite(weights).all()
        for row in WHOLE:
            assert len(set(weights[row].tolist())) <= 1, "one weight for every token"
        for row in (Granularity.FINE, Granularity.STATIC):
            assert (weights[row] <= 0).all(), "a penalty only lowers"
        check_fine_row(program, scored, chosen)
        if chosen.failing_never_positive and verdict.outcome is not Outcome.PASSED:
            assert (weights.sum(axis=0) <= 1e-6).all()


def check_fine_row(program: ProgramTokens, scored: ScoredSample, chosen: RewardSettings) -> None:
    """Nothing falls outside the span. Inside, the sum is that of a whole program, unless alpha was capped."""
    row = scored.token_weights[Granularity.FINE]
    touched = np.flatnonzero(row)
    if scored.fine_span is None:
        assert touched.size == 0
        assert scored.fine == 0
        return
    first, last = scored.fine_span
    assert scored.fine == -0.3
    assert 0 <= first <= last < scored.num_tokens
    assert touched[-1] - touched[0] == last - first
    text = "".join(program.text[max(0, start) : max(0, end)] for start, end in program.char_spans[touched])
    assert text.strip() or scored.category is Category.GLOBAL, "the span of a line holds part of the program"
    whole = scored.num_tokens * 0.3 * chosen.negative_scale * chosen.fine_weight
    alpha = scored.num_tokens / (last - first + 1)
    expected = whole * min(1.0, chosen.alpha_cap / alpha)
    assert -row.sum() == pytest.approx(expected, rel=1e-5)


@given(groups, reward_settings, greedy_verdicts, st.randoms(use_true_random=False))
def test_order_of_samples_does_not_matter(
    group: tuple[Sample, ...], chosen: RewardSettings, greedy: Verdict | None, random: Random
) -> None:
    order = list(range(len(group)))
    random.shuffle(order)
    straight = score(group, chosen, greedy=greedy).samples
    shuffled = score([group[i] for i in order], chosen, greedy=greedy).samples
    for position, i in enumerate(order):
        a, b = straight[i], shuffled[position]
        if a is None or b is None:
            assert a is b
        else:
            np.testing.assert_allclose(a.token_weights, b.token_weights, atol=1e-6)


def claiming(sample: Sample, error: ProgramError | None) -> Sample:
    """The program with another claim about its error. A syntax error is found by the grader, so it is no claim."""
    program, verdict = sample
    return sample if verdict.outcome is Outcome.SYNTAX_ERROR else (program, dataclasses.replace(verdict, error=error))


@given(groups, reward_settings, greedy_verdicts, errors)
def test_no_claim_about_an_error_raises_a_reward(
    group: tuple[Sample, ...], chosen: RewardSettings, greedy: Verdict | None, claim: ProgramError | None
) -> None:
    """Whatever class and line the programs claim, no reward rises over claiming nothing, and no other row moves."""
    with_claim = score([claiming(sample, claim) for sample in group], chosen, greedy=greedy).samples
    without = score([claiming(sample, None) for sample in group], chosen, greedy=greedy).samples
    for a, b in zip(with_claim, without, strict=True):
        if a is None or b is None:
            assert a is b
            continue
        assert (a.coarse, a.adaptive, a.static) == (b.coarse, b.adaptive, b.static)
        assert a.fine <= b.fine
        np.testing.assert_array_equal(a.token_weights[WHOLE], b.token_weights[WHOLE])
        if b.category is not Category.GLOBAL:  # from the whole program to a line, a penalty moves and does not shrink
            assert (a.token_weights <= b.token_weights).all()


# Ways to hide the line: no record, an impossible line, a line of blanks or of a comment, with any class of error.
hidden = st.none() | st.builds(
    ProgramError,
    type=st.sampled_from(["TypeError", "SIGKILL", "SystemExit", "MemoryError", "RecursionError", "TabError", "\udc80"]),
    line=st.none() | st.sampled_from([-1, 0, 2, 4, 7, 99, 2**70]),
)
shown = st.builds(
    ProgramError,
    type=st.sampled_from(["TypeError", "MemoryError", "RecursionError", "Mine"]),
    line=st.sampled_from([1, 3, 5]),
)
HIDING_PLACES = "a = [1]\r\r\nb = a[9]\r    # a comment, which has tokens \x0c\nc = 1 # code\x0c\u2028\n'''text\n#'''"


@given(
    st.sampled_from(PRIORITY[2:]),
    st.lists(st.sampled_from(PRIORITY[2:]), max_size=3),
    hidden,
    shown,
    settings_of("rltf"),
    st.sampled_from(["byte_level_bpe", "sentencepiece_bpe"]),
)
def test_hiding_the_line_of_an_error_never_pays_in_rltf(
    outcome: Outcome,
    others: list[Outcome],
    hiding: ProgramError | None,
    showing: ProgramError,
    chosen: RewardSettings,
    family: str,
) -> None:
    """In sum, the penalty of a program that names no line is at least that of one that names any line of code."""

    def penalty(error: ProgramError | None) -> tuple[float, float]:
        verdict = make_verdict(outcome, (outcome, *others), error=error)
        tokens = tokenized(TOKENIZERS[family], HIDING_PLACES, before="```\n", after="\n```")
        scored = score_one(tokens, verdict, chosen)
        return float(scored.token_weights[Granularity.FINE].sum(dtype=np.float64)), scored.fine

    (hidden_sum, hidden_fine), (shown_sum, shown_fine) = penalty(hiding), penalty(showing)
    assert hidden_fine <= shown_fine
    assert hidden_sum <= shown_sum + 1e-6
    if outcome not in (Outcome.PASSED, Outcome.FAILED):
        assert hidden_fine == -0.3


@given(samples(), settings_of("rltf"))
def test_every_runtime_error_is_penalized_in_rltf(sample: Sample, chosen: RewardSettings) -> None:
    (scored,) = score([sample], chosen).samples
    ran_into = (Outcome.RUNTIME_ERROR, Outcome.TIMEOUT, Outcome.MEMORY_LIMIT, Outcome.OUTPUT_LIMIT)
    if scored is not None and scored.num_tokens and scored.verdict.outcome in ran_into:
        assert scored.category in (Category.GLOBAL, Category.LINE)
        assert scored.fine == -0.3


@given(groups, reward_settings, greedy_verdicts)
def test_ungraded_samples_change_nothing(
    group: tuple[Sample, ...], chosen: RewardSettings, greedy: Verdict | None
) -> None:
    kept = [sample for sample in group if sample[1].outcome is not Outcome.INFRASTRUCTURE_ERROR]
    alone = score(kept, chosen, greedy=greedy).samples
    among = [scored for scored in score(group, chosen, greedy=greedy).samples if scored is not None]
    for a, b in zip(alone, among, strict=True):
        assert a is not None
        np.testing.assert_array_equal(a.token_weights, b.token_weights)


def four_outcomes() -> list[Sample]:
    """Coarse rewards 1.0, -0.3, -0.6, -1.0; adaptive ones of `rltf` 1.0, 0.35, -0.3, 0."""
    tests = [
        (Outcome.PASSED, Outcome.PASSED),
        (Outcome.PASSED, Outcome.FAILED),
        (Outcome.RUNTIME_ERROR, Outcome.RUNTIME_ERROR),
        (Outcome.SYNTAX_ERROR, Outcome.SYNTAX_ERROR),
    ]
    return [
        (character_tokens("x = 1\n"), make_verdict(pair[1], pair, completion_id=f"c{i}"))
        for i, pair in enumerate(tests)
    ]


def whole_rows(found: tuple[ScoredSample | None, ...]) -> tuple[list[float], list[float]]:
    kept = [s for s in found if s is not None]
    return (
        [float(s.token_weights[Granularity.COARSE, 0]) for s in kept],
        [float(s.token_weights[Granularity.ADAPTIVE, 0]) for s in kept],
    )


def test_baselines_by_hand() -> None:
    """The means are -0.225 (coarse) and 0.2625 (adaptive); left out, the first coarse one is (-0.3 - 0.6 - 1.0) / 3."""
    group = four_outcomes()
    coarse, adaptive = whole_rows(score(group, plain("rltf", baseline="mean")).samples)
    assert coarse == pytest.approx([1.225, -0.075, -0.375, -0.775])
    assert adaptive == pytest.approx([0.7375, 0.0875, -0.5625, -0.2625])
    coarse, adaptive = whole_rows(score(group, plain("rltf", baseline="leave_one_out")).samples)
    assert coarse == pytest.approx([1 + 1.9 / 3, -0.3 + 0.6 / 3, -0.6 + 0.3 / 3, -1 - 0.1 / 3])
    assert adaptive == pytest.approx([1 - 0.05 / 3, 0.35 - 0.7 / 3, -0.3 - 1.35 / 3, 0 - 1.05 / 3])


def test_a_lone_sample_has_nothing_to_leave_out() -> None:
    coarse, _ = whole_rows(score(four_outcomes()[2:3], plain("rltf", baseline="leave_one_out")).samples)
    assert coarse == pytest.approx([-0.6])
    assert score([], plain("rltf", baseline="leave_one_out")).samples == ()


def test_greedy_baselines_remember_the_latest_and_the_best() -> None:
    group = four_outcomes()
    failed, crashed = group[1][1], group[2][1]
    lost = make_verdict(Outcome.INFRASTRUCTURE_ERROR, (Outcome.INFRASTRUCTURE_ERROR,))
    for baseline, second in (("greedy_latest", -0.6), ("greedy_best", -0.3)):
        chosen = plain("rltf", baseline=baseline)
        first = score(group, chosen, greedy=failed)
        assert first.greedy == ProgramReward(coarse=-0.3, adaptive=-0.3 + 1.3 * 0.5)
        assert whole_rows(first.samples)[0] == pytest.approx([1.3, 0.0, -0.3, -0.7])
        assert whole_rows(first.samples)[1] == pytest.approx([0.65, 0.0, -0.65, -0.35])
        then = score(group, chosen, greedy=crashed, previous=first.greedy)
        assert whole_rows(then.samples)[0] == pytest.approx([r - second for r in (1.0, -0.3, -0.6, -1.0)])
        kept = score(group, chosen, greedy=lost, previous=then.greedy)
        assert kept.greedy == then.greedy
        assert whole_rows(kept.samples) == whole_rows(then.samples)
    without = score(group, plain("rltf", baseline="greedy_best"))
    assert without.greedy is None
    assert whole_rows(without.samples)[0] == pytest.approx([1.0, -0.3, -0.6, -1.0])


def test_damping_and_cutoff_use_the_total_of_a_program() -> None:
    """If rows were damped one by one, -0.075 and +0.0875 would turn into a reward for a wrong answer."""
    group = four_outcomes()
    chosen = plain("rltf", baseline="mean", negative_scale=0.5)
    coarse, adaptive = whole_rows(score(group, chosen).samples)
    assert coarse == pytest.approx([1.225, -0.075, -0.1875, -0.3875])
    assert adaptive == pytest.approx([0.7375, 0.0875, -0.28125, -0.13125])
    chosen = plain("rltf", baseline="mean", failing_never_positive=True)
    coarse, adaptive = whole_rows(score(group, chosen).samples)
    assert coarse == pytest.approx([1.225, 0.0, -0.375, -0.775])
    assert adaptive == pytest.approx([0.7375, 0.0, -0.5625, -0.2625])


@pytest.mark.parametrize("num_timeouts", range(1, 8))
def test_an_advantage_of_zero_has_no_sign(num_timeouts: int) -> None:
    """One wrong answer among k timeouts: +0.3 k/(k+1) coarse and -0.3 k/(k+1) adaptive cancel, despite rounding."""
    failed = make_verdict(Outcome.FAILED, (Outcome.FAILED,))
    timeouts = [
        make_verdict(Outcome.TIMEOUT, (Outcome.TIMEOUT,), completion_id=f"c{k + 1}") for k in range(num_timeouts)
    ]
    group = [(character_tokens("x = 1\n"), verdict) for verdict in [failed, *timeouts]]
    chosen = plain("rltf-paper", baseline="mean", negative_scale=0.1, failing_never_positive=True)
    coarse, adaptive = whole_rows(score(group, chosen).samples)
    share = 0.3 / (num_timeouts + 1)
    assert coarse == pytest.approx([share * num_timeouts] + [-share] * num_timeouts, abs=1e-6)
    assert adaptive == pytest.approx([-share * num_timeouts] + [share] * num_timeouts, abs=1e-6)


def test_a_group_of_two_problems_is_refused() -> None:
    first, (program, verdict) = four_outcomes()[:2]
    other = dataclasses.replace(verdict, task_id="t1")
    with pytest.raises(ValueError, match="t0, t1"):
        score([first, (program, other)], plain("rltf"))
    with pytest.raises(ValueError, match="t0, t1"):
        score([first], plain("rltf"), greedy=other)


def test_a_verdict_without_a_program_is_refused() -> None:
    programs, verdicts = zip(*four_outcomes(), strict=True)
    with pytest.raises(ValueError, match="zip"):
        score_group(programs[:-1], verdicts, plain("rltf"))


@pytest.mark.parametrize("spans", [[[0, 1], [3, 2]], [[2, 3], [0, 1]], [[0, 1, 2]], [0, 1]])
def test_unordered_spans_are_refused(spans: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="char_spans"):
        ProgramTokens("x = 1\n", np.array(spans, dtype=np.int32), truncated=False)

"""Turns the verdicts of a rollout into the weights of its tokens.

Liu et al. 2023 (RLTF), section 3.2. docs/method.md says how the gaps in it are closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rltf.rewards.custom import CustomReward, custom_rewards
from rltf.rewards.lines import (
    code_lines,
    finding_lines,
    token_range,
    tokens_of_lines,
    unclosed_triple_quote_line,
    unmatched_dedent_line,
)
from rltf.rewards.siblings import localized
from rltf.rewards.structure import structure_match
from rltf.rewards.types import Category, Granularity, GroupScores, ProgramReward, ProgramTokens, ScoredSample
from rltf.sandbox.verdict import Outcome, Verdict
from rltf.settings import AdaptiveScope, Baseline, Localize, OutcomeReward, Placement, RewardSettings, ScaleRewards

FINE_PENALTY = -0.3
STATIC_PENALTY = -0.1
SCALE_EPSILON = 1e-6

_OUTCOMES = {OutcomeReward.BINARY: (1.0, 0.0), OutcomeReward.SIGN: (1.0, -1.0)}  # passed, not passed
_COARSE = {
    Outcome.PASSED: 1.0,
    Outcome.FAILED: -0.3,
    Outcome.RUNTIME_ERROR: -0.6,
    Outcome.TIMEOUT: -0.6,
    Outcome.MEMORY_LIMIT: -0.6,
    Outcome.OUTPUT_LIMIT: -0.6,
    Outcome.SYNTAX_ERROR: -1.0,
}
# The terms that reward a whole program, relative to a baseline.
_WHOLE = [Granularity.COARSE, Granularity.ADAPTIVE, Granularity.STRUCTURE, Granularity.CUSTOM]
_NOT_AN_ERROR = (Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED)


def score_group(
    programs: Sequence[ProgramTokens],
    verdicts: Sequence[Verdict],
    settings: RewardSettings,
    *,
    greedy: Verdict | None = None,
    previous: ProgramReward | None = None,
    max_tokens: int | None = None,
    references: Sequence[str] = (),
    earlier: Sequence[Sequence[tuple[ProgramTokens, Verdict]]] = (),
) -> GroupScores:
    """Score the programs sampled for one problem; `verdicts[i]` is the verdict on `programs[i]`.

    `greedy` is the verdict on the problem's greedy decode, `previous` the `GroupScores.greedy` of the problem's last
    rollout. `max_tokens` is the limit of a completion, which the overlong penalty depends on. `references` are the
    problem's reference programs, for the structure reward. Samples that could not be graded leave the group before any
    baseline is computed. If a baseline has nothing to compare with (no greedy decode yet, no other sample), it is 0.

    `earlier[i]` are the programs of the turns before `programs[i]` in its dialogue, with the verdicts that they got on
    the examples. With `settings.overlong_filter`, a sample of which any turn is truncated counts in baselines only.

    Raises:
        ValueError: the verdicts belong to different problems, or there are more or fewer of them than programs.
        UserError: the function of the user, `settings.function`, fails.
    """
    tasks = {verdict.task_id for verdict in (*verdicts, greedy) if verdict is not None}
    if len(tasks) > 1:
        raise ValueError(f"all samples of a group must be of one problem; these are of {', '.join(sorted(tasks))}")
    graded = [
        (place, program, verdict)
        for place, (program, verdict) in enumerate(zip(programs, verdicts, strict=True))
        if not verdict.is_grader_error
    ]
    kept = _greedy_reward(greedy, previous, settings)
    scored = [verdict for _, _, verdict in graded]
    coarse, adaptive = _program_rewards(scored, settings)
    structure = _structure([program.text for _, program, _ in graded], references, settings)
    custom = _custom([program for _, program, _ in graded], scored, settings)
    plain = np.stack([coarse, adaptive, structure, [reward.value for reward in custom]])
    rewards = plain * np.array([[getattr(settings, f"{row.name.lower()}_weight")] for row in _WHOLE])
    rewards[0] -= _overlong_penalties([program for _, program, _ in graded], max_tokens, settings)
    own = [_turn_rewards(earlier[place] if earlier else (), settings) for place, _, _ in graded]
    returns = rewards.copy()
    returns[0] += [sum(values) for values in own]
    scale = _scale(returns, settings)
    advantages = (rewards - _baseline(returns, kept, settings)) * scale
    shaped = _shape(advantages, scored, settings)
    samples: list[ScoredSample | None] = [None] * len(verdicts)
    for i, (place, program, verdict) in enumerate(graded):
        samples[place] = _score(program, verdict, plain[:, i], shaped[:, i], custom[i], settings)
    if settings.localize is Localize.SIBLINGS:
        samples = localized(programs, samples, settings)
    for i, (place, _, verdict) in enumerate(graded):
        if own[i] and (sample := samples[place]) is not None:
            values = [value * scale for value in own[i]]
            parts = _score_turns(earlier[place], values, advantages[:, i], verdict, settings)
            samples[place] = replace(sample, earlier=parts)
    if settings.overlong_filter:
        samples = _without_cut_off(samples, programs, earlier)
    return GroupScores(samples=tuple(samples), greedy=kept)


def _without_cut_off(
    samples: Sequence[ScoredSample | None],
    programs: Sequence[ProgramTokens],
    earlier: Sequence[Sequence[tuple[ProgramTokens, Verdict]]],
) -> list[ScoredSample | None]:
    """The samples, filtered if any of their turns is truncated. Zero weights alone would still be rewards of 0."""
    turns = [[program] for program in programs]
    for own, before in zip(turns, earlier, strict=False):  # there may be no earlier turns at all
        own.extend(program for program, _ in before)
    is_cut_off = [any(program.truncated for program in own) for own in turns]
    return [_filtered(one) if one and cut else one for one, cut in zip(samples, is_cut_off, strict=True)]


def _filtered(sample: ScoredSample) -> ScoredSample:
    """The sample without weights, its turns before the last included."""
    turns = tuple(map(_filtered, sample.earlier))
    return replace(sample, token_weights=np.zeros_like(sample.token_weights), earlier=turns, filtered=True)


def _turn_rewards(turns: Sequence[tuple[ProgramTokens, Verdict]], settings: RewardSettings) -> list[float]:
    """The reward of each turn before the last, for its own program."""
    coarse, _ = _program_rewards([verdict for _, verdict in turns], settings)
    return [settings.turn_weight * settings.coarse_weight * float(value) for value in coarse]


def _score_turns(
    turns: Sequence[tuple[ProgramTokens, Verdict]],
    values: Sequence[float],
    last: NDArray[np.float64],
    final: Verdict,
    settings: RewardSettings,
) -> tuple[ScoredSample, ...]:
    """Spread what a dialogue earned over the tokens of its turns before the last.

    A turn is worth what followed it: `values` of this turn and the later ones, and the advantages `last` [4] of the
    last turn, with the verdict `final`. Estimators that look ahead themselves (`placement` last) only get its own
    value. Penalties are those of its own program.
    """
    scored = []
    for number, (program, verdict) in enumerate(turns):
        looks_ahead = settings.placement is Placement.LAST
        advantage = np.zeros_like(last) if looks_ahead else last.copy()
        advantage[0] += values[number] if looks_ahead else sum(values[number:])
        shaped = _shape(advantage[:, None], [final], settings)[:, 0]
        plain = np.zeros(len(_WHOLE))
        plain[:2] = np.concatenate(_program_rewards([verdict], settings))
        scored.append(_score(program, verdict, plain, shaped, CustomReward(), settings))
    return tuple(scored)


def _program_rewards(
    verdicts: Sequence[Verdict], settings: RewardSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """R_coarse and R_adaptive = -0.3 + 1.3 * N_pass / (N_pass + N_fail) of each program, [N] each, without weights.

    A test that crashed, timed out or was skipped counts as not passed. R_adaptive is 0 outside of its scope: `ran`
    excludes only syntax errors, `answered` every error, and `replace_coarse` includes only wrong answers.
    """
    if settings.outcome is OutcomeReward.COARSE:
        values = [_COARSE[verdict.outcome] for verdict in verdicts]
    else:
        passed, other = _OUTCOMES[settings.outcome]
        values = [passed if verdict.passed else other for verdict in verdicts]
    coarse = np.array(values, dtype=np.float64)
    ratios = np.array([verdict.pass_ratio for verdict in verdicts], dtype=np.float64)
    is_failed = [verdict.outcome is Outcome.FAILED for verdict in verdicts]
    match settings.adaptive_scope:
        case AdaptiveScope.RAN:
            is_inside = [verdict.outcome is not Outcome.SYNTAX_ERROR for verdict in verdicts]
        case AdaptiveScope.ANSWERED:
            is_inside = [verdict.outcome in (Outcome.FAILED, Outcome.PASSED) for verdict in verdicts]
        case AdaptiveScope.REPLACE_COARSE:
            is_inside = is_failed
            if settings.adaptive_weight > 0:  # the released code puts the adaptive value in place of the coarse -0.3
                coarse = np.where(is_failed, 0.0, coarse)
    return coarse, np.where(is_inside, -0.3 + 1.3 * ratios, 0.0)


def _structure(programs: Sequence[str], references: Sequence[str], settings: RewardSettings) -> NDArray[np.float64]:
    """R_structure of each program [N]: AST match + data-flow match with the nearest reference program, from 0 to 2."""
    if not settings.structure_weight:
        return np.zeros(len(programs))
    return np.array([structure_match(program, references).total for program in programs], dtype=np.float64)


def _custom(
    programs: Sequence[ProgramTokens], verdicts: Sequence[Verdict], settings: RewardSettings
) -> list[CustomReward]:
    """What the function of the user says about each program, if there is one."""
    if settings.function is None or not settings.uses_function:
        return [CustomReward()] * len(programs)
    return custom_rewards(settings.function, programs, verdicts)


def _greedy_reward(
    greedy: Verdict | None, previous: ProgramReward | None, settings: RewardSettings
) -> ProgramReward | None:
    if greedy is None or greedy.is_grader_error:
        return previous
    coarse, adaptive = _program_rewards([greedy], settings)
    latest = ProgramReward(float(coarse[0]) * settings.coarse_weight, float(adaptive[0]) * settings.adaptive_weight)
    if settings.baseline is Baseline.GREEDY_BEST and previous is not None and previous.total > latest.total:
        return previous
    return latest


def _baseline(
    rewards: NDArray[np.float64], greedy: ProgramReward | None, settings: RewardSettings
) -> NDArray[np.float64]:
    """What to subtract from `rewards` [4, N], with the rows of `_WHOLE`; it broadcasts to that shape."""
    num_samples = rewards.shape[1]
    baseline = np.zeros_like(rewards)
    if settings.needs_greedy and greedy is not None:
        baseline = np.array([[greedy.coarse], [greedy.adaptive], [0.0], [0.0]])
    elif settings.baseline is Baseline.MEAN and num_samples > 0:
        baseline = rewards.mean(axis=1, keepdims=True)
    elif settings.baseline is Baseline.LEAVE_ONE_OUT and num_samples > 1:
        baseline = (rewards.sum(axis=1, keepdims=True) - rewards) / (num_samples - 1)
    return baseline


def _overlong_penalties(
    programs: Sequence[ProgramTokens], max_tokens: int | None, settings: RewardSettings
) -> NDArray[np.float64]:
    """The penalty [N] for completions that reach into the last `overlong_buffer` share of `max_tokens`, if any.

    The soft overlong punishment of DAPO (Yu et al. 2025, equation 13).
    """
    if not settings.overlong_buffer or max_tokens is None:
        return np.zeros(len(programs))
    lengths = np.array([len(program.char_spans) for program in programs])
    buffer = settings.overlong_buffer
    inside = (lengths - (1 - buffer) * max_tokens) / (buffer * max_tokens)
    return settings.overlong_penalty * np.clip(inside, 0.0, 1.0)


def _scale(rewards: NDArray[np.float64], settings: RewardSettings) -> float:
    """The factor on the advantages of a rollout; 0 if its programs all earn the same `rewards` [4, N]."""
    if settings.scale_rewards is ScaleRewards.NONE:
        return 1.0
    deviation = float(rewards.sum(axis=0).std(ddof=1)) if rewards.shape[1] > 1 else 0.0
    return 1 / (deviation + SCALE_EPSILON) if deviation > SCALE_EPSILON else 0.0


def _shape(
    advantages: NDArray[np.float64], verdicts: Sequence[Verdict], settings: RewardSettings
) -> NDArray[np.float64]:
    """Cut off and damp the advantages [4, N] by the sign of each program's total, so its terms never swap signs."""
    total = advantages.sum(axis=0).round(9)  # a total that only rounding keeps from 0 has no sign
    scale = np.where(total < 0, settings.negative_scale, 1.0)
    if settings.failing_never_positive:
        is_failing = np.array([not verdict.passed for verdict in verdicts], dtype=bool)
        scale = np.where(is_failing & (total > 0), 0.0, scale)
    shaped: NDArray[np.float64] = advantages * scale
    return shaped


def _score(
    program: ProgramTokens,
    verdict: Verdict,
    plain: NDArray[np.float64],
    advantage: NDArray[np.float64],
    custom: CustomReward,
    settings: RewardSettings,
) -> ScoredSample:
    """Spread the advantages [4] and the penalties of one program over its tokens.

    Both `plain`, the rewards themselves, and `advantage` are in the order of `_WHOLE`.
    """
    weights = np.zeros((len(Granularity), len(program.char_spans)), dtype=np.float32)
    carriers = slice(-1, None) if settings.placement is Placement.LAST else slice(None)
    weights[_WHOLE, carriers] = advantage[:, None]
    if custom.token_weights is not None:
        given = np.asarray(custom.token_weights) * settings.custom_weight
        weights[Granularity.CUSTOM] += np.where(given < 0, settings.negative_scale * given, given)
    whole = token_range(program.char_spans, 0, len(program.text) - 1)
    start, num_tokens = (0, 0) if whole is None else (whole[0], whole[1] - whole[0] + 1)
    error = verdict.error
    line = tokens_of_lines(program, [error.line])[0] if error is not None and error.line is not None else None
    category = _error_category(program, verdict, settings, has_line=line is not None)
    span = whole if category is Category.GLOBAL else line if category is Category.LINE else None
    if span is not None:
        alpha = min(num_tokens / (span[1] - span[0] + 1), settings.alpha_cap)
        penalty = settings.fine_weight * settings.negative_scale * FINE_PENALTY
        weights[Granularity.FINE, span[0] : span[1] + 1] = alpha * penalty
    findings = sorted(finding_lines(program.text)) if settings.static_weight > 0 else []
    for tokens in tokens_of_lines(program, findings):
        if tokens is not None:
            penalty = settings.static_weight * settings.negative_scale * STATIC_PENALTY
            weights[Granularity.STATIC, tokens[0] : tokens[1] + 1] = penalty
    coarse, adaptive, structure, value = plain.tolist()
    return ScoredSample(
        verdict=verdict,
        category=category,
        coarse=coarse,
        fine=FINE_PENALTY if span is not None else 0.0,
        adaptive=adaptive,
        static=STATIC_PENALTY if findings else 0.0,
        structure=structure,
        custom=value,
        fine_span=None if span is None else (span[0] - start, span[1] - start),
        num_tokens=num_tokens,
        token_weights=weights,
    )


def _error_category(
    program: ProgramTokens, verdict: Verdict, settings: RewardSettings, *, has_line: bool
) -> Category | None:
    """Where the fine penalty of the program's first error (in test order) falls; None if no test ended in an error.

    `has_line` says whether the error's line has tokens. The decision rests on what the grader saw, on the class of the
    error and on the source, never on a message, since messages differ between Python versions. A program reports its
    own runtime errors, so if errors without a line are penalized, a line without code counts as no line. Neither hiding
    the line nor naming a comment then makes the penalty smaller.
    """
    unlocated = Category(settings.unlocated_category)
    if verdict.outcome is Outcome.SYNTAX_ERROR:
        return _syntax_category(program, verdict, has_line, unlocated)
    first = next((test for test in verdict.tests if test not in _NOT_AN_ERROR), verdict.outcome)
    kind, number = (None, None) if verdict.error is None else (verdict.error.type, verdict.error.line)
    if unlocated is Category.GLOBAL:
        has_line = has_line and number in code_lines(program.text)
    match first:
        case Outcome.TIMEOUT:
            return Category(settings.timeout_category)
        case Outcome.OUTPUT_LIMIT:
            return Category.GLOBAL
        case Outcome.MEMORY_LIMIT:
            return Category.LINE if has_line and kind == "MemoryError" else Category.GLOBAL
        case Outcome.RUNTIME_ERROR if kind == "RecursionError":
            return Category.GLOBAL
        case Outcome.RUNTIME_ERROR:
            return Category.LINE if has_line else unlocated
    return None


def _syntax_category(program: ProgramTokens, verdict: Verdict, has_line: bool, unlocated: Category) -> Category:
    """No line is to blame if the length limit cut the program off, or if the mistake is not where the error is."""
    if program.truncated:
        return Category.GLOBAL
    error = verdict.error
    if error is None:
        return unlocated
    is_elsewhere = (
        error.type == "TabError"
        or (error.type == "IndentationError" and unmatched_dedent_line(program.text) == error.line)
        or (error.type == "SyntaxError" and unclosed_triple_quote_line(program.text) == error.line)
    )
    return Category.LINE if has_line and not is_elsewhere else unlocated

"""From the verdicts of a rollout to the weights of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rewards.feedback import FINE_PENALTY, adaptive_rewards, coarse_rewards, error_category
from rewards.lines import line_characters, token_range
from rewards.static_analysis import STATIC_PENALTY, finding_lines
from rewards.types import Category, Granularity, GroupScores, ProgramReward, Sample, Scored
from sandbox.verdict import Outcome, Verdict
from settings import RewardSettings


def score_group(
    samples: Sequence[Sample],
    settings: RewardSettings,
    *,
    greedy: Verdict | None = None,
    previous: ProgramReward | None = None,
) -> GroupScores:
    """Score the programs sampled for one problem.

    `greedy` is the verdict of the problem's greedy decode, `previous` what `GroupScores.greedy` said of the problem the
    last time. Samples that the grader failed on leave the group before any baseline is computed. Where a baseline has
    nothing to compare with (no greedy decode yet, no other sample) it is 0. Raises ValueError where samples and greedy
    decode are not all of one problem.
    """
    tasks = {sample.task_id for sample in samples} | ({greedy.task_id} if greedy is not None else set())
    if len(tasks) > 1:
        raise ValueError(f"a group must be of one problem, this one is of {', '.join(sorted(tasks))}")
    scored = [sample for sample in samples if sample.verdict.outcome is not Outcome.INFRASTRUCTURE_ERROR]
    kept = _greedy_reward(greedy, previous, settings)
    verdicts = [sample.verdict for sample in scored]
    coarse, adaptive = _program_rewards(verdicts, settings)
    advantages = np.stack([coarse * settings.coarse_weight, adaptive * settings.adaptive_weight])
    advantages = _shape(advantages - _baseline(advantages, kept, settings), verdicts, settings)
    scores = iter(
        [
            _score(sample, float(coarse[i]), float(adaptive[i]), advantages[:, i], settings)
            for i, sample in enumerate(scored)
        ]
    )
    return GroupScores(
        samples=tuple(
            None if sample.verdict.outcome is Outcome.INFRASTRUCTURE_ERROR else next(scores) for sample in samples
        ),
        greedy=kept,
    )


def _program_rewards(
    verdicts: Sequence[Verdict], settings: RewardSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """R_coarse and R_adaptive of each program, [N] each, without weights."""
    coarse = coarse_rewards(verdicts)
    adaptive = adaptive_rewards(verdicts, settings.adaptive_scope)
    if settings.adaptive_scope == "replace_coarse" and settings.adaptive_weight > 0:
        # The released code puts the adaptive value in the place of the coarse -0.3, instead of adding a term.
        coarse = np.where([verdict.outcome is Outcome.FAILED for verdict in verdicts], 0.0, coarse)
    return coarse, adaptive


def _greedy_reward(
    greedy: Verdict | None, previous: ProgramReward | None, settings: RewardSettings
) -> ProgramReward | None:
    if greedy is None or greedy.outcome is Outcome.INFRASTRUCTURE_ERROR:
        return previous
    coarse, adaptive = _program_rewards([greedy], settings)
    latest = ProgramReward(float(coarse[0]) * settings.coarse_weight, float(adaptive[0]) * settings.adaptive_weight)
    if settings.baseline == "greedy_best" and previous is not None and previous.total > latest.total:
        return previous
    return latest


def _baseline(
    rewards: NDArray[np.float64], greedy: ProgramReward | None, settings: RewardSettings
) -> NDArray[np.float64]:
    """What to subtract from `rewards` [2, N] (rows: coarse, adaptive), broadcastable to it."""
    num_samples = rewards.shape[1]
    if settings.needs_greedy and greedy is not None:
        return np.array([[greedy.coarse], [greedy.adaptive]])
    if settings.baseline == "mean" and num_samples > 0:
        mean: NDArray[np.float64] = rewards.mean(axis=1, keepdims=True)
        return mean
    if settings.baseline == "leave_one_out" and num_samples > 1:
        others: NDArray[np.float64] = (rewards.sum(axis=1, keepdims=True) - rewards) / (num_samples - 1)
        return others
    return np.zeros_like(rewards)


def _shape(
    advantages: NDArray[np.float64], verdicts: Sequence[Verdict], settings: RewardSettings
) -> NDArray[np.float64]:
    """Cut and damp the advantages [2, N] by the sign of a program's total, so that its two terms never swap signs."""
    total = advantages.sum(axis=0).round(9)  # what is 0 but for rounding has no sign to go by
    scale = np.where(total < 0, settings.negative_scale, 1.0)
    if settings.failing_never_positive:
        failing = np.array([not verdict.passed for verdict in verdicts], dtype=bool)
        scale = np.where(failing & (total > 0), 0.0, scale)
    shaped: NDArray[np.float64] = advantages * scale
    return shaped


def _score(
    sample: Sample, coarse: float, adaptive: float, advantage: NDArray[np.float64], settings: RewardSettings
) -> Scored:
    """Spread one program's advantages (coarse, adaptive) and penalties over its tokens."""
    weights = np.zeros((len(Granularity), len(sample.char_spans)), dtype=np.float32)
    weights[Granularity.COARSE] = advantage[0]
    weights[Granularity.ADAPTIVE] = advantage[1]
    whole = token_range(sample.char_spans, sample.program_start, sample.program_end - 1)
    start, num_tokens = (0, 0) if whole is None else (whole[0], whole[1] - whole[0] + 1)
    error = sample.verdict.error
    line = _tokens_of_lines(sample, [error.line])[0] if error is not None and error.line is not None else None
    category = error_category(
        sample,
        located=line is not None,
        timeout=Category(settings.timeout_category),
        unlocated=Category(settings.unlocated_category),
    )
    span = whole if category is Category.GLOBAL else line if category is Category.LINE else None
    if span is not None:
        alpha = min(num_tokens / (span[1] - span[0] + 1), settings.alpha_cap)
        penalty = settings.fine_weight * settings.negative_scale * FINE_PENALTY
        weights[Granularity.FINE, span[0] : span[1] + 1] = alpha * penalty
    findings = sorted(finding_lines(sample.program)) if settings.static_weight > 0 else []
    for tokens in _tokens_of_lines(sample, findings):
        if tokens is not None:
            penalty = settings.static_weight * settings.negative_scale * STATIC_PENALTY
            weights[Granularity.STATIC, tokens[0] : tokens[1] + 1] = penalty
    return Scored(
        task_id=sample.task_id,
        completion_id=sample.completion_id,
        outcome=sample.verdict.outcome,
        category=category,
        coarse=coarse,
        fine=FINE_PENALTY if span is not None else 0.0,
        adaptive=adaptive,
        static=STATIC_PENALTY if findings else 0.0,
        fine_span=None if span is None else (span[0] - start, span[1] - start),
        num_tokens=num_tokens,
        token_weights=weights,
    )


def _tokens_of_lines(sample: Sample, lines: Sequence[int]) -> list[tuple[int, int] | None]:
    """The tokens (both ends included, indices into the completion) of each of the program's `lines`, counted from 1.

    None where the program has no such line or the line is blank.
    """
    if not lines:
        return []
    characters = line_characters(sample.program) + sample.program_start
    return [
        token_range(sample.char_spans, int(characters[line - 1, 0]), int(characters[line - 1, 1]))
        if 1 <= line <= len(characters)
        else None
        for line in lines
    ]

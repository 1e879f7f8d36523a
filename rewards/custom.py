"""Rewards from a function of the user, `rewards.function`.

    def shorter(graded: GradedProgram) -> float | CustomReward: ...

The function is pure: it is called in the sandbox workers, once for each graded program, in any order. It runs in the
worker itself, not in a jail, so it must not run the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rltf.errors import UserError
from rltf.plugins import imported_function, raised
from rltf.rewards.lines import tokens_of_lines
from rltf.rewards.types import ProgramTokens
from rltf.sandbox.verdict import Isolation, Outcome, ProgramError, Verdict

SETTING = "rewards.function"


@dataclass(frozen=True, slots=True)
class GradedProgram:
    """What a reward function sees of a program: its text and tokens, and the verdict on it.

    `verdict.task_id` names the problem. Programs that the grader failed on never get here.
    """

    program: ProgramTokens
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class CustomReward:
    """What a reward function says about a program.

    `value` is a reward for the whole program, like the coarse one: baseline, scale, cutoff and damping apply to it.
    `token_weights` [T], one per row of `program.char_spans`, are added to the weights of the tokens as they are, except
    that `rewards.negative_scale` multiplies negative ones, as it does with the fine penalty. None means no weights.
    """

    value: float = 0.0
    token_weights: Sequence[float] | NDArray[Any] | None = None


RewardFunction = Callable[[GradedProgram], float | CustomReward]


def weights_on_lines(program: ProgramTokens, weights: Mapping[int, float]) -> NDArray[np.float64]:
    """The `token_weights` [T] that put `weights`, by line from 1, on every token of these lines.

    A token on two lines gets the sum. Lines without tokens are left out.
    """
    found = np.zeros(len(program.char_spans))
    for tokens, weight in zip(tokens_of_lines(program, list(weights)), weights.values(), strict=True):
        if tokens is not None:
            found[tokens[0] : tokens[1] + 1] += weight
    return found


def custom_rewards(name: str, programs: Sequence[ProgramTokens], verdicts: Sequence[Verdict]) -> list[CustomReward]:
    """What the function `package.module:name` says about each program.

    Raises UserError, which names the function and the program, if the function cannot be imported, raises an exception,
    or returns anything but finite numbers, one for each token.
    """
    function: RewardFunction = imported_function(name, SETTING)
    return [
        _reward(function, GradedProgram(program, verdict), name)
        for program, verdict in zip(programs, verdicts, strict=True)
    ]


def check_function(name: str) -> None:
    """Call the function on made-up programs: one that passes, one with an error on a line, and an empty one.

    Raises UserError as `custom_rewards`.
    """
    empty = ProgramTokens("", np.array([[0, 0]], np.int32), truncated=False)
    text = "def add(a, b):\n    return a + c\n"
    ends = np.arange(4, len(text) + 4, 4).clip(max=len(text))
    spans = np.stack([np.arange(0, len(text), 4), ends], axis=1).astype(np.int32)
    program = ProgramTokens(text, spans, truncated=False)
    error = ProgramError("NameError", "name 'c' is not defined", 2)
    made_up = [
        (program, _verdict(Outcome.PASSED, None)),
        (program, _verdict(Outcome.RUNTIME_ERROR, error)),
        (empty, _verdict(Outcome.FAILED, None)),
    ]
    custom_rewards(name, [program for program, _ in made_up], [verdict for _, verdict in made_up])


def _verdict(outcome: Outcome, error: ProgramError | None) -> Verdict:
    return Verdict("made-up", "made-up/0", outcome, (outcome, outcome), error, Isolation.NAMESPACES, 0.1, 0.1, 1 << 20)


def _reward(function: RewardFunction, graded: GradedProgram, name: str) -> CustomReward:
    place = f"{SETTING} {name}, task {graded.verdict.task_id}, completion {graded.verdict.completion_id}"
    try:
        found = function(graded)
    except Exception as error:  # whatever the user's function raises
        raise UserError(f"{place}: it raised {raised(error)}") from error
    reward = found if isinstance(found, CustomReward) else CustomReward(found)
    if not isinstance(reward.value, Real):
        raise UserError(f"{place}: expected a number or a CustomReward with one, got {type(reward.value).__name__}")
    num_tokens = len(graded.program.char_spans)
    try:
        weights = np.asarray(np.zeros(num_tokens) if reward.token_weights is None else reward.token_weights, float)
    except (TypeError, ValueError) as error:
        raise UserError(f"{place}: token_weights are not numbers: {error}") from error
    if weights.shape != (num_tokens,):
        raise UserError(f"{place}: expected {num_tokens} token_weights, one per token, got shape {weights.shape}")
    if not (np.isfinite(reward.value) and np.isfinite(weights).all()):
        raise UserError(f"{place}: it returned a number that is not finite")
    return CustomReward(float(reward.value), weights)

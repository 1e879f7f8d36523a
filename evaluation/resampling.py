"""What the tokens of repairs would have bought in plain sampling.

A dialogue shows the model what went wrong. The same examples can also serve without a word to the model: sample again,
and keep the first program that passes them. So the first answers of an evaluation, which are plain samples, say what
attempts without feedback are worth. Expectations are exact, over all orders in which the samples could have come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attempt:
    """A plain sample: whether it passes the examples and all tests, and its tokens."""

    passes_examples: bool
    passes: bool
    num_tokens: int


def resampled(attempts: Sequence[Attempt], most: int) -> tuple[float, float]:
    """Pass rate and tokens if a problem is sampled until a program passes the examples, at most `most` times.

    The programs are drawn from `attempts` without replacement, and the last one counts if none passes the examples.
    Raises ValueError if there are fewer than `most` attempts.
    """
    if not 1 <= most <= len(attempts):
        raise ValueError(f"{most} attempts cannot be drawn from {len(attempts)}")
    shown = [one for one in attempts if one.passes_examples]
    hidden = [one for one in attempts if not one.passes_examples]
    shown_tokens, hidden_tokens = _mean([one.num_tokens for one in shown]), _mean([one.num_tokens for one in hidden])
    reached, tokens = 1.0, 0.0  # the probability that so many attempts are needed
    for number in range(most):
        left = len(attempts) - number
        share = len(shown) / left
        tokens += reached * (share * shown_tokens + (1 - share) * hidden_tokens)
        reached *= 1 - share
    passed = (1 - reached) * _mean([one.passes for one in shown]) + reached * _mean([one.passes for one in hidden])
    return passed, tokens


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

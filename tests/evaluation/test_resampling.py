"""Attempts without feedback, against all orders in which the samples could have come."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.evaluation.resampling import Attempt, resampled

ATTEMPTS = st.lists(st.builds(Attempt, st.booleans(), st.booleans(), st.integers(1, 50)), min_size=1, max_size=5)


@given(ATTEMPTS, st.integers(1, 5))
def test_it_is_the_mean_over_all_orders(attempts: list[Attempt], most: int) -> None:
    most = min(most, len(attempts))
    orders = list(permutations(attempts))
    passed = tokens = Fraction(0)
    for order in orders:
        for number, attempt in enumerate(order[:most], start=1):
            tokens += attempt.num_tokens
            if attempt.passes_examples or number == most:
                passed += attempt.passes
                break
    assert resampled(attempts, most) == pytest.approx((float(passed / len(orders)), float(tokens / len(orders))))


def test_more_attempts_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="3 attempts cannot be drawn from 2"):
        resampled([Attempt(True, True, 1)] * 2, 3)

"""How tests share their work between `make test-fast`, `make test` and `make test-long`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings


def examples(share: float, **more: Any) -> settings:
    """Settings of a property that tries `share` times as many values as the profile says (tests/conftest.py).

    A number of its own would hold in every tier.
    """
    return settings(max_examples=round(share * settings().max_examples), **more)


def first_fast(values: Iterable[Any]) -> list[Any]:
    """Parameters of which `make test-fast` tries the first; the others take the same path through more models."""
    first, *others = values
    return [first, *(pytest.param(value, marks=pytest.mark.slow) for value in others)]

"""Arrays of several samples joined end to end: a message pays for each array that is in it, however short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """Arrays that differ in their last axis only, joined there: array i is `values[..., ends[i - 1] : ends[i]]`.

    One that all of them share (the prompt of a rollout) is in it once, and `ends` is None.
    """

    values: NDArray[Any]
    ends: list[int] | None

    @classmethod
    def of(cls, arrays: Sequence[NDArray[Any]]) -> Column:
        """Join `arrays`, at least one, of one type."""
        if all(array is arrays[0] for array in arrays):
            return cls(arrays[0], None)
        return cls(np.concatenate(arrays, axis=-1), list(accumulate(array.shape[-1] for array in arrays)))

    def split(self, num: int) -> list[NDArray[Any]]:
        """The `num` arrays: views, no copies."""
        if self.ends is None:
            return [self.values] * num
        return [self.values[..., first:end] for first, end in pairwise((0, *self.ends))]

    def __reduce__(self) -> tuple[Any, ...]:
        # What a frozen class with slots has of its own goes through its fields in Python, both ways.
        return Column, (self.values, self.ends)

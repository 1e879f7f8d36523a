"""Many small arrays as a few large ones: a pickled message pays for each array in it, however short the array is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Columns = list["Column | list[Any]"]


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """Arrays of one type, flattened and joined end to end.

    `shapes` is None if all `num` of them are the same array, such as the prompt of a rollout, which is stored once.
    """

    values: NDArray[Any]
    num: int
    shapes: list[tuple[int, ...]] | None

    @classmethod
    def of(cls, arrays: Sequence[NDArray[Any]]) -> Column:
        """Join `arrays`, of which there is at least one."""
        if all(array is arrays[0] for array in arrays):
            return cls(arrays[0], len(arrays), None)
        values = np.concatenate([array.reshape(-1) for array in arrays])
        return cls(values, len(arrays), [array.shape for array in arrays])

    def split(self) -> list[NDArray[Any]]:
        """The arrays, as views."""
        if self.shapes is None:
            return [self.values] * self.num
        arrays, end = [], 0
        for shape in self.shapes:
            start, end = end, end + prod(shape)
            arrays.append(self.values[start:end].reshape(shape))
        return arrays

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, the fields of a frozen class with slots pass through Python code, one by one, in both directions.
        return Column, (self.values, self.num, self.shapes)


def to_columns(items: Sequence[Any]) -> Columns:
    """One entry per field of `items`, which are dataclass instances of one class: a `Column` of arrays, or a list."""
    values = [[getattr(item, field.name) for item in items] for field in fields(items[0])] if items else []
    return [Column.of(value) if isinstance(value[0], np.ndarray) else value for value in values]


def from_columns(cls: type[T], columns: Columns) -> list[T]:
    """The instances of `cls` that `to_columns` took apart."""
    values = [column.split() if isinstance(column, Column) else column for column in columns]
    return [cls(*row) for row in zip(*values, strict=True)]


def save_columns(path: Path, columns: Columns) -> None:
    """Write an `.npz` file: one array for each `Column`, and everything else as JSON. No pickle."""
    arrays: dict[str, Any] = {str(i): column.values for i, column in enumerate(columns) if isinstance(column, Column)}
    rest = [(column.num, column.shapes) if isinstance(column, Column) else column for column in columns]
    np.savez(path, rest=np.frombuffer(json.dumps(rest).encode(), np.uint8), **arrays)


def load_columns(path: Path) -> Columns:
    """Read what `save_columns` wrote, bit for bit."""
    with np.load(path, allow_pickle=False) as file:
        rest = json.loads(file["rest"].tobytes())
        return [Column(file[str(i)], *part) if str(i) in file else part for i, part in enumerate(rest)]

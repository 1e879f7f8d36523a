"""Reading the columns of a row."""

from __future__ import annotations

from typing import Any

from rltf.problems.types import UnusableRowError


def text_of(row: dict[str, Any], column: str) -> str:
    """The text in a column. Raises UnusableRowError if it is missing, blank or not text."""
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise UnusableRowError(f"{column}: missing or empty")
    return value


def texts_of(row: dict[str, Any], column: str) -> list[str]:
    """The list of texts in a column; empty if it is missing. Raises UnusableRowError if it holds something else."""
    value = row.get(column) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UnusableRowError(f"{column}: expected a list of strings")
    return value


def first_text(row: Any, *columns: str) -> str | None:
    """The first text or number in these columns, as text; None if there is none."""
    for column in columns if isinstance(row, dict) else ():
        value = row.get(column)
        if (isinstance(value, str) and value) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value)
    return None

"""How unusable data are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class UnusableRowError(ValueError):
    """One row cannot be used; the message is the reason. `file` and `line` say where, if not at the row's start."""

    def __init__(self, reason: str, *, file: str | None = None, line: int | None = None) -> None:
        super().__init__(reason)
        self.file = file
        self.line = line


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that was skipped. `line` is 1-based, None where the file has no lines (hub rows count from 1 as well)."""

    file: str
    line: int | None
    task_id: str | None
    reason: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.reason}" if self.task_id is None else f"{place}: problem {self.task_id}: {self.reason}"


def describe_rejected(rejected: Sequence[RejectedRow], limit: int = 20) -> str:
    """One line a row, at most `limit` of them, and the count of the rest."""
    lines = [str(row) for row in rejected[:limit]]
    if len(rejected) > limit:
        lines.append(f"... and {len(rejected) - limit} more")
    return "\n".join(lines)

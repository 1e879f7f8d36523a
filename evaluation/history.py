"""Programs that were made from others, such as the last one of a dialogue: all of them are graded and counted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from rltf.sandbox.grading import ProgramRow
from rltf.sandbox.verdict import Outcome


class HistoryRow(ProgramRow):
    """A program with those that came before it."""

    @abstractmethod
    def graded(self, outcome: Outcome, grade: Callable[[str], Outcome]) -> dict[str, Any]:
        """What `samples.jsonl` holds of the others. `outcome` is that of the program, and `grade` finds theirs."""

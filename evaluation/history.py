"""Programs that were made from others, such as the last one of a dialogue: all of them are graded and counted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from rltf.sandbox.grading import ProgramRow
from rltf.sandbox.verdict import Outcome


class HistoryRow(ProgramRow):
    """A program with those that came before it."""

    @abstractmethod
    def graded(self, outcome: Outcome, grade: Callable[[str], Outcome]) -> dict[str, Any]:
        """What `samples.jsonl` holds of the others. `outcome` is that of the program, and `grade` finds theirs."""


class HistoryCounts(Protocol):
    """What an evaluation finds about programs and the ones before them; `results.json` has it under `key`."""

    @property
    def key(self) -> str: ...

    @property
    def row(self) -> type[HistoryRow]:
        """The rows that are counted."""

    def add(self, task_id: str, row: Mapping[str, Any]) -> None:
        """Count one stored program."""

    def results(self, ks: Sequence[int]) -> Any:
        """The results, with pass@k for the `ks`."""

"""Programs made elsewhere, in a JSON lines file."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from errors import UserError
from evaluation.fingerprints import some
from problems import Problem, RejectedRow
from problems.index import ProblemIndex
from sandbox.grading import ProgramRow, read_programs

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Survey:
    """How many programs the file has of each problem that can be used, and how many of those that cannot."""

    num_programs: Counter[str]
    num_of_rejected: int

    @property
    def most(self) -> int:
        """The largest number of programs that a problem has."""
        return max(self.num_programs.values())

    def describe(self, problems: Sequence[Problem]) -> Iterator[str]:
        """What a reader of the results must know, a sentence each."""
        without = [problem.task_id for problem in problems if not self.num_programs[problem.task_id]]
        if without:
            yield (
                f"it has programs for {len(problems) - len(without)} of {len(problems)} problems; pass@k is over these,"
                f" without {some(without)}"
            )
        fewest = min(self.num_programs.values())
        if fewest != self.most:
            yield f"it has unequal numbers of programs, from {fewest} to {self.most} a problem"
        if self.num_of_rejected:
            yield f"{self.num_of_rejected} of its programs are for problems that cannot be used; they are left out"


@dataclass(frozen=True, slots=True)
class SamplesFile:
    """The programs of a file. Those for the problems of `rejected` are left out; any other unknown id is an error."""

    path: Path
    rejected: tuple[RejectedRow, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        if not self.path.is_file():
            raise UserError(f"--samples {self.path}: no such file")
        with self.path.open("rb") as file:
            return {"samples": str(self.path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    def survey(self, problems: tuple[Problem, ...]) -> Survey:
        """Read all rows once. Raises UserError for one that cannot be used, or where none is left."""
        num_programs: Counter[str] = Counter()
        num_of_rejected = 0
        usable = {problem.task_id for problem in problems}
        for _, problem in read_programs(self.path, self._index(problems)):
            if problem.task_id in usable:
                num_programs[problem.task_id] += 1
            else:
                num_of_rejected += 1
        if not num_programs:
            raise UserError(
                f"{self.path}: all {num_of_rejected} programs are for problems that cannot be used; "
                "mend their rows, or give programs for other problems"
            )
        return Survey(num_programs, num_of_rejected)

    def resume_point(self, num_stored: int) -> int:
        return num_stored

    def programs(self, problems: tuple[Problem, ...], num_done: int) -> Iterator[tuple[ProgramRow, Problem]]:
        usable = {problem.task_id for problem in problems}
        rows = read_programs(self.path, self._index(problems))
        return islice((row for row in rows if row[1].task_id in usable), num_done, None)

    def _index(self, problems: tuple[Problem, ...]) -> ProblemIndex:
        """Usable problems, and behind them empty ones in the place of the rejected, which are never graded."""
        usable = {problem.task_id for problem in problems}
        ids = {row.task_id for row in self.rejected if row.task_id is not None} - usable
        return _SamplesIndex((*(Problem(task_id, "rejected", "", ()) for task_id in sorted(ids)), *problems))


class _SamplesIndex(ProblemIndex):
    """Says what to do about an unknown id."""

    def find(self, task_id: str | int) -> Problem:
        try:
            return super().find(task_id)
        except UserError as error:
            raise UserError(
                f"{error}; name the problems it belongs to in --problems, or take the row out of --samples"
            ) from error

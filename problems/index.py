"""Finding problems by the ways people write their ids."""

from __future__ import annotations

from collections.abc import Iterable

from rltf.errors import UserError, nearest
from rltf.problems.types import Problem


class ProblemIndex:
    """Problems by task id.

    Numbers are found with and without the leading zeros of APPS folders, and as EvalPlus writes MBPP's (`Mbpp/2`).
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._by_id = {problem.task_id: problem for problem in problems}
        self._by_number = {
            int(task_id): problem for task_id, problem in self._by_id.items() if task_id.isascii() and task_id.isdigit()
        }

    def find(self, task_id: str | int) -> Problem:
        """The problem with this id, text or number. Raises UserError if there is none, and names the nearest id."""
        text = str(task_id)
        problem = self._by_id.get(text)
        number = text.removeprefix("Mbpp/")
        if problem is None and number.isascii() and number.isdigit() and len(number) < 20:
            problem = self._by_number.get(int(number))
        if problem is None:
            raise UserError(
                f"task_id {task_id!r}: none of the {len(self._by_id)} problems has it{nearest(text, self._by_id)}"
            )
        return problem

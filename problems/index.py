"""Finding a problem by the ways people write its id."""

from __future__ import annotations

from collections.abc import Iterable

from errors import UserError
from problems.spec import nearest
from problems.types import Problem


class ProblemIndex:
    """Problems by task id. Numbers are found with and without the leading zeros of APPS folders."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._by_id = {problem.task_id: problem for problem in problems}
        self._by_number = {
            int(task_id): problem for task_id, problem in self._by_id.items() if task_id.isascii() and task_id.isdigit()
        }

    def find(self, task_id: str | int) -> Problem:
        """The problem of a task id, written as text or as a number.

        Raises:
            UserError: there is none; the nearest id is named.
        """
        text = str(task_id)
        problem = self._by_id.get(text)
        if problem is None and text.isascii() and text.isdigit() and len(text) < 20:
            problem = self._by_number.get(int(text))
        if problem is None:
            raise UserError(
                f"task_id {task_id!r}: none of the {len(self._by_id)} problems has it{nearest(text, self._by_id)}"
            )
        return problem

"""Finding problems: by the ways people write their ids, and those of a held-out set that training has seen."""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from errors import UserError
from problems.types import Problem

_SHINGLE_WORDS = 8
_WORD = re.compile(r"\w+")


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
        """The problem with this task id, given as text or as a number.

        Raises:
            UserError: there is none. The message names the nearest id.
        """
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


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean NAME?` with the most similar of `names`, or nothing."""
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


@dataclass(frozen=True, slots=True)
class Leak:
    """A held-out problem and the training problem it resembles.

    `overlap` is the share, in (0, 1], of the held-out statement's eight-word runs that the training statement contains.
    """

    held_out: Problem
    train: Problem
    overlap: float

    def __str__(self) -> str:
        return (
            f"{self.held_out.benchmark} {self.held_out.task_id} is like {self.train.benchmark} {self.train.task_id} "
            f"of the training set ({self.overlap:.0%} of its statement)"
        )


def find_leaks(train: Iterable[Problem], held_out: Sequence[Problem], threshold: float = 0.8) -> tuple[Leak, ...]:
    """The held-out problems that share at least `threshold` of their statement with a training problem.

    Only the words of the statements count, not their case, punctuation or line breaks. A statement shorter than eight
    words leaks only if the training set has the same one. Each held-out problem is named once, with the training
    problem that resembles it most.
    """
    owners: defaultdict[int, list[int]] = defaultdict(list)
    train = list(train)
    for index, problem in enumerate(train):
        for shingle in _shingles(problem):
            owners[shingle].append(index)
    leaks = []
    for problem in held_out:
        shingles = _shingles(problem)
        shared = Counter(index for shingle in shingles for index in owners.get(shingle, ()))
        if shared:
            index, count = min(shared.items(), key=lambda item: (-item[1], item[0]))
            if count / len(shingles) >= threshold:
                leaks.append(Leak(problem, train[index], count / len(shingles)))
    return tuple(leaks)


def _shingles(problem: Problem) -> set[int]:
    words = _WORD.findall(problem.statement.lower())
    last = max(len(words) - _SHINGLE_WORDS, 0)
    return {hash(tuple(words[start : start + _SHINGLE_WORDS])) for start in range(last + 1)}

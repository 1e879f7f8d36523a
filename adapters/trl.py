"""A reward function for TRL's `GRPOTrainer` and the trainers that take the same functions (written for TRL 1.16).

    from rltf.adapters.trl import unit_test_reward

    trainer = GRPOTrainer(model, reward_funcs=unit_test_reward(), train_dataset=dataset, ...)

The data set has a column `problem` with the row of a problem, as a dictionary or as JSON, or it has the benchmark's own
columns. TRL keeps the column `prompt` to itself, so rows that need theirs (HumanEval) go into `problem`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rltf.adapters.scoring import Completion, Row, Scorer, text_of
from rltf.errors import UserError

_COLUMN = "problem"
# What TRL passes besides the columns of the data set.
_NOT_COLUMNS = frozenset({"completion_ids", "trainer_state", "log_extra", "log_metric", "environments"})


class UnitTestReward:
    """The reward function. A class, so that it can be pickled; TRL logs it under its `__name__`."""

    def __init__(self, scorer: Scorer) -> None:
        self.__name__ = "unit_test_reward"
        self._scorer = scorer

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> list[float | None]:
        """The reward of each completion. None, TRL's word for no reward, if the grader failed.

        Raises UserError for a row that cannot be used.
        """
        rows = _rows(columns, len(completions))
        verdicts = self._scorer.verdicts(rows, [text_of(completion) for completion in completions])
        return [self._scorer.score_of(verdict) for verdict in verdicts]


def unit_test_reward(**options: Any) -> UnitTestReward:
    """A reward function with the options of `Scorer`.

    A completion without a verdict has no advantage in TRL, and is not part of the mean of its group.
    """
    return UnitTestReward(Scorer(**options))


def _rows(columns: Mapping[str, Any], num_rows: int) -> Sequence[Row]:
    given = columns.get(_COLUMN)
    if given is not None and all(_is_row(one) for one in given):
        return list(given)
    own = {name: values for name, values in columns.items() if name not in _NOT_COLUMNS}
    if not own:
        raise UserError(f"the data set has no column but the prompt; add a column {_COLUMN!r} with the problem's row")
    return [{name: values[number] for name, values in own.items()} for number in range(num_rows)]


def _is_row(value: Any) -> bool:
    """Whether a `problem` is a row. Some benchmarks have a statement in their column of that name."""
    return isinstance(value, Mapping) or (isinstance(value, str) and value.lstrip().startswith("{"))

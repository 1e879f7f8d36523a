"""Reward functions for verifiers: for a `Rubric` (up to 0.3), and for the tasks that replace it (0.4).

rubric = vf.Rubric(funcs=[rubric_reward()])           # the row in `info["problem"]`, or as JSON in `answer`

class ProblemData(vf.TaskData):
    problem: str                                      # the row as JSON

class ProblemTask(vf.Task[ProblemData]):
    unit_tests = vf.reward(task_reward())
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from typing import Any

from rltf.adapters.scoring import Completion, Row, Scorer, text_of
from rltf.errors import UserError

_LOG = logging.getLogger(__name__)


def rubric_reward(**options: Any) -> Callable[..., Coroutine[Any, Any, float]]:
    """A reward function for `Rubric(funcs=[...])` with the options of `Scorer`.

    A rubric turns every exception of its functions into a reward of 0. So if the grader fails, the function puts an
    `InfraError` into `state["error"]`, which marks the rollout as failed: verifiers repeats it with `max_retries`, and
    trainers leave it out. A row that cannot be used is an `Error` there.
    """
    scorer = Scorer(**options)

    async def unit_tests(
        completion: Completion, answer: Row, info: Mapping[str, Any], state: MutableMapping[str, Any]
    ) -> float:
        row = info.get("problem") or answer
        try:
            score, _ = await asyncio.to_thread(scorer.judge, row, text_of(completion))
        except Exception as error:  # noqa: BLE001 - a rubric would make it a reward of 0
            from verifiers.errors import Error, InfraError

            _LOG.error("no reward: %s", error)
            state["error"] = (Error if isinstance(error, UserError) else InfraError)(str(error))
            return 0.0
        return score

    return unit_tests


def task_reward(**options: Any) -> Callable[..., Coroutine[Any, Any, float]]:
    """A method for a `Task` whose data has the row in `problem`, with the options of `Scorer`.

    If the grader fails, or the row cannot be used, it raises, and verifiers records a `TaskError` and no reward.
    """
    scorer = Scorer(**options)

    async def unit_tests(self: Any, trace: Any) -> float:
        score, _ = await asyncio.to_thread(scorer.judge, self.data.problem, trace.last_reply)
        return score

    return unit_tests

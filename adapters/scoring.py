"""What every adapter does: from the row of a problem and a completion to a score."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.util import Finalize
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, field_validator

from rltf.errors import UserError
from rltf.grader import Grader, Problem, SandboxSettings, Verdict, problem_from_row

_LOG = logging.getLogger(__name__)

Row = Mapping[str, Any] | str
"""The row of a problem (`grader.problem_from_row`), or its JSON."""
Completion = str | Sequence[Mapping[str, Any]]
"""A text, or the messages of a chat."""


class GraderError(RuntimeError):
    """The grader or a test failed, so there is no score. It says nothing about the program."""


class Scorer(BaseModel):
    """The options of an adapter. Holds no process, so it can be sent to other processes.

    `score` is 1 if all tests pass and 0 otherwise (`pass`), or the share of tests that pass (`pass_ratio`). `benchmark`
    is the KIND of the rows; None recognizes each row by its columns. `in_thought` says that prompts end inside a
    thought (`<think>`). `workers` is the number of programs to run at a time, by default the cores of the process,
    shared with the other processes of a `torchrun` on the node. `settings` are the limits of a program. If the grader
    fails, `grader_error_score` is the score; None leaves it to the adapter, which gives no score or raises.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    score: Literal["pass", "pass_ratio"] = "pass"
    benchmark: str | None = None
    in_thought: bool = False
    workers: PositiveInt | None = None
    settings: SandboxSettings = SandboxSettings()
    grader_error_score: float | None = None

    @field_validator("settings", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        """Mappings and lists of any kind, since trainers pass on what their settings library makes of YAML."""
        if isinstance(value, Mapping):
            return {str(key): cls._plain(item) for key, item in value.items()}
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        return list(value) if is_list else value

    def verdicts(self, rows: Sequence[Row], completions: Sequence[str]) -> list[Verdict]:
        """The verdict on each row's completion. Raises UserError, with the row's number first, for an unusable row."""
        known: dict[str, Problem] = {}
        problems = []
        for number, row in enumerate(rows):
            try:
                problem = known.get(row) if isinstance(row, str) else None
                problem = problem or problem_from_row(parsed(row), self.benchmark)
            except UserError as error:
                raise UserError(f"row {number}: {error}") from error
            if isinstance(row, str):
                known[row] = problem
            problems.append(problem)
        grader = shared_grader(self.workers, self.settings)
        return grader.grade_completions(problems, completions, in_thought=self.in_thought)

    def score_of(self, verdict: Verdict) -> float | None:
        """The score of a verdict. None if the grader failed and there is no `grader_error_score`."""
        if verdict.is_grader_error:
            _LOG.warning("problem %s: %s", verdict.task_id, _cause(verdict))
            return self.grader_error_score
        return float(verdict.passed) if self.score == "pass" else verdict.pass_ratio

    def judge(self, row: Row, completion: str) -> tuple[float, Verdict]:
        """The score of one completion, and its verdict.

        Raises UserError if the row cannot be used, and GraderError if the grader failed and there is no
        `grader_error_score`.
        """
        (verdict,) = self.verdicts([row], [completion])
        return self.required(verdict), verdict

    def required(self, verdict: Verdict) -> float:
        """The score of a verdict, for trainers that know no missing score. Raises `GraderError` if there is none."""
        score = self.score_of(verdict)
        if score is None:
            raise GraderError(f"problem {verdict.task_id}: {_cause(verdict)}; `grader_error_score` gives it a score")
        return score


def _cause(verdict: Verdict) -> str:
    return f"the grader failed: {verdict.error.message if verdict.error else 'no cause known'}"


def parsed(row: Row) -> Mapping[str, Any]:
    """The row with its columns. Raises UserError if it is a text that is not a JSON object."""
    if not isinstance(row, str):
        return row
    try:
        value = json.loads(row)
    except ValueError as error:
        raise UserError(f"expected the row of a problem as JSON, got {row[:60]!r} ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"expected the row of a problem as a JSON object, got {row[:60]!r}")
    return value


def text_of(completion: Completion) -> str:
    """The text of a completion: itself, or what the assistant says last in a list of messages."""
    if isinstance(completion, str):
        return completion
    said = [message["content"] for message in completion if message["role"] == "assistant"]
    content: Any = (said[-1] if said else None) or ""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


_graders: dict[tuple[int | None, SandboxSettings], Grader] = {}
_lock = threading.Lock()


def shared_grader(workers: int | None, settings: SandboxSettings) -> Grader:
    """This process's grader with these options, started by the first call and closed when the process ends.

    Raises UserError as `Grader` does.
    """
    with _lock:
        grader = _graders.get((workers, settings))
        if grader is None:
            grader = _graders[workers, settings] = Grader(workers or _share_of_cores(), settings=settings)
            # Neither `atexit` nor the grader's own end will do: the processes of `multiprocessing` leave both out.
            Finalize(None, grader.close, exitpriority=0)
        return grader


def _share_of_cores() -> int:
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _forget() -> None:
    """A fork has neither the sandboxes nor the threads of its parent, and may have been made under the lock."""
    global _lock
    _lock = threading.Lock()
    _graders.clear()


os.register_at_fork(after_in_child=_forget)

"""Tasks of verifiers 0.4 get the grader's scores. test_trainers.py runs this file in an environment with them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import verifiers.v1 as vf
from verifiers.v1.utils.loaders import load_taskset

from rltf.adapters.verifiers import task_reward
from rltf.grader import problem_from_row
from tests.adapters.cases import ANY, BROKEN_ROW, PASS_RATIO, ROW

ROOT = Path(__file__).parents[2]
OPTIONS = {"score": "pass_ratio", "workers": 1}


class ProblemData(vf.TaskData):
    problem: str


class ProblemTask(vf.Task[ProblemData]):
    unit_tests = vf.reward(task_reward(**OPTIONS))


def scored(task: Any, reply: str) -> Any:
    """The trace of a rollout in which the model says `reply`, after the task has scored it."""
    seed = vf.TraceTask(type=type(task).__name__, data=task.data)
    trace = vf.Trace(task=seed, agent=vf.AgentInfo(config=vf.AgentConfig()))
    trace.root_reply = reply
    asyncio.run(task.score(trace))
    return trace


def test_tasks() -> None:
    task = ProblemTask(ProblemData(problem=ROW))
    assert [scored(task, reply).reward for reply in PASS_RATIO] == [*PASS_RATIO.values()]


def test_a_failure_of_the_grader_is_no_reward() -> None:
    task = ProblemTask(ProblemData(problem=BROKEN_ROW))
    with pytest.raises(vf.TaskError, match="the setup of test 0 fails"):
        scored(task, ANY)


def test_the_example_is_found_and_scores_its_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    """`vf-eval` and trainers find a taskset by the name of its module."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "trainers"))
    environment = vf.EnvConfig(taskset={"id": "verifiers-taskset"})
    tasks = list(load_taskset(environment.taskset).load())
    assert [task.data.prompt.splitlines()[0] for task in tasks] == ["Answer with one block of Python code."] * 4
    for task in tasks:
        (program, *_) = problem_from_row(json.loads(task.data.problem)).references
        assert scored(task, f"```python\n{program}\n```").reward == 1
        assert scored(task, "I cannot write programs.").reward == 0

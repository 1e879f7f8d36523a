"""Rubrics and tasks of verifiers get the scores that the grader gives, and a failed grader is no score."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
from types import ModuleType
from typing import Any

import pytest

from rltf.adapters.verifiers import rubric_reward, task_reward
from tests.adapters.cases import ANY, BROKEN_ROW, HALF, PASS_RATIO, RIGHT, ROW, SQUARE, said

OPTIONS = {"score": "pass_ratio", "workers": 1}


class Rubric:
    """Calls reward functions as `Rubric.score_rollout` of verifiers 0.1.14 to 0.3.1 does.

    Both pass what a function names among prompt, completion, answer, info and state, and make 0 of an exception. The
    library itself does not install beside `openai` 3.
    """

    def __init__(self, funcs: list[Any]) -> None:
        (self._function,) = funcs

    async def score_rollout(self, state: dict[str, Any]) -> None:
        known = {**state, "answer": state.get("answer", ""), "info": state.get("info", {}), "state": state}
        wanted = inspect.signature(self._function).parameters
        try:
            state["reward"] = await self._function(**{name: known[name] for name in wanted})
        except Exception:  # noqa: BLE001 - as the library
            state["reward"] = 0.0


@pytest.fixture
def rubric(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class `Rubric` of verifiers if a version that has it is installed, otherwise the one above."""
    try:
        from verifiers.errors import Error
        from verifiers.rubrics.rubric import Rubric as Real
    except ImportError:
        errors: Any = ModuleType("verifiers.errors")
        errors.Error = type("Error", (Exception,), {})
        errors.InfraError = type("InfraError", (errors.Error,), {})
        monkeypatch.setitem(sys.modules, "verifiers", ModuleType("verifiers"))
        monkeypatch.setitem(sys.modules, "verifiers.errors", errors)
        return Rubric
    assert issubclass(Error, Exception)
    return Real


def scored(rubric: Any, *rollouts: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of rollouts after a rubric with our function has scored them at the same time."""
    states = [{"prompt": "Square.", "error": None, "trajectory": [], **rollout} for rollout in rollouts]

    async def score() -> None:
        one = rubric(funcs=[rubric_reward(**OPTIONS)])
        await asyncio.gather(*(one.score_rollout(state) for state in states))

    asyncio.run(score())
    return states


def test_a_rubric(rubric: Any) -> None:
    by_answer = [{"completion": said(text), "answer": ROW} for text in PASS_RATIO]
    by_info = {"completion": HALF, "answer": "", "info": {"problem": SQUARE}}
    states = scored(rubric, *by_answer, by_info)
    assert [state["reward"] for state in states] == [*PASS_RATIO.values(), 0.5]
    assert [state["error"] for state in states] == [None] * 4


def test_a_rubric_marks_rollouts_that_have_no_score(rubric: Any) -> None:
    from verifiers.errors import InfraError

    failed, unusable, good = scored(
        rubric,
        {"completion": ANY, "answer": BROKEN_ROW},
        {"completion": RIGHT, "answer": "25"},
        {"completion": RIGHT, "answer": ROW},
    )
    assert isinstance(failed["error"], InfraError)
    assert "the setup of test 0 fails" in str(failed["error"])
    assert not isinstance(unusable["error"], InfraError)
    assert "expected the row of a problem" in str(unusable["error"])
    assert (good["reward"], good["error"]) == (1.0, None)


def test_tasks_call_the_reward_as_a_method() -> None:
    """A stand-in for `Task` of verifiers 0.4, where a reward is a method `(self, trace)` and the row in its data."""

    class Data:
        problem = ROW

    class Task:
        data = Data()
        unit_tests = task_reward(**OPTIONS)

    class Trace:
        last_reply = HALF

    assert asyncio.run(Task().unit_tests(trace=Trace())) == 0.5


def test_real_tasks() -> None:
    if importlib.util.find_spec("verifiers") is None:
        pytest.skip("verifiers is not installed: it does not go with openai 3")
    vf = pytest.importorskip("verifiers.v1", reason="verifiers is older than 0.4", exc_type=ImportError)

    class ProblemData(vf.TaskData):  # type: ignore[misc, name-defined]
        problem: str

    class ProblemTask(vf.Task[ProblemData]):  # type: ignore[misc, name-defined]
        unit_tests = vf.reward(task_reward(**OPTIONS))

    def trace_of(row: str, reply: str) -> tuple[Any, Any]:
        task = ProblemTask(ProblemData(problem=row))
        seed = vf.TraceTask(type="ProblemTask", data=task.data)
        trace = vf.Trace(task=seed, agent=vf.AgentInfo(config=vf.AgentConfig()))
        trace.root_reply = reply
        return task, trace

    for completion, reward in PASS_RATIO.items():
        task, trace = trace_of(ROW, completion)
        asyncio.run(task.score(trace))
        assert trace.reward == reward
    task, trace = trace_of(BROKEN_ROW, ANY)
    with pytest.raises(vf.TaskError, match="the setup of test 0 fails"):
        asyncio.run(task.score(trace))
    assert trace.rewards == {"unit_tests": None}

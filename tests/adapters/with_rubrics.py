"""Rubrics of verifiers 0.3 get the grader's scores. test_trainers.py runs this file in an environment with them."""

from __future__ import annotations

import asyncio
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from verifiers.errors import InfraError
from verifiers.rubrics.rubric import Rubric

from rltf.adapters.verifiers import rubric_reward
from tests.adapters.cases import ANY, BROKEN_ROW, HALF, PASS_RATIO, RIGHT, ROW, SQUARE, said
from tests.openai_server import serve

ROOT = Path(__file__).parents[2]
OPTIONS = {"score": "pass_ratio", "workers": 1}


def scored(*rollouts: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of rollouts after a rubric with our function has scored them at the same time."""
    states = [{"prompt": "Square.", "error": None, "trajectory": [], **rollout} for rollout in rollouts]

    async def score() -> None:
        one = Rubric(funcs=[rubric_reward(**OPTIONS)])
        await asyncio.gather(*(one.score_rollout(state) for state in states))

    asyncio.run(score())
    return states


def test_a_rubric() -> None:
    by_answer = [{"completion": said(text), "answer": ROW} for text in PASS_RATIO]
    by_info = {"completion": HALF, "answer": "", "info": {"problem": SQUARE}}
    states = scored(*by_answer, by_info)
    assert [state["reward"] for state in states] == [*PASS_RATIO.values(), 0.5]
    assert [state["error"] for state in states] == [None] * 4


def test_a_rubric_marks_rollouts_that_have_no_score() -> None:
    failed, unusable, good = scored(
        {"completion": ANY, "answer": BROKEN_ROW},
        {"completion": RIGHT, "answer": "25"},
        {"completion": RIGHT, "answer": ROW},
    )
    assert isinstance(failed["error"], InfraError)
    assert "the setup of test 0 fails" in str(failed["error"])
    assert not isinstance(unusable["error"], InfraError)
    assert "expected the row of a problem" in str(unusable["error"])
    assert (good["reward"], good["error"]) == (1.0, None)


def test_the_example_evaluates_a_served_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model answers every problem with the program that adds two numbers."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with serve(lambda _: ["```python\nprint(sum(map(int, input().split())))\n```"]) as address:
        monkeypatch.setattr(sys, "argv", ["verifiers_rubric.py", "--model", "some-model", "--base-url", address])
        runpy.run_path("examples/trainers/verifiers_rubric.py", run_name="__main__")
    lines = [line.split(" ", 2) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["sum-of-line", "1.0", "None"],
        ["reverse-words", "0.0", "None"],
        ["circle-area", "0.0", "None"],
        ["two-parts", "0.0", "None"],
    ]

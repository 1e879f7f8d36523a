"""Waiting: every wait ends, with an answer or with words; and a queue that moves is no stall."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from controller.waiting import StallError, answer, answer_in_turn, outstanding
from tests.controller.simulation import run_virtually


async def after(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "here"


def test_an_answer_has_a_deadline_and_is_reported_meanwhile() -> None:
    async def scenario() -> None:
        waiting = asyncio.ensure_future(answer(after(100), 50, "the buffer to answer"))
        await asyncio.sleep(10)
        assert outstanding().startswith("the buffer to answer: ")
        with pytest.raises(StallError, match="waited 50 s for the buffer to answer, in vain"):
            await waiting
        assert outstanding() == "nobody is waited for"

    run_virtually(scenario())


def test_what_comes_after_others_is_waited_for_while_these_come() -> None:
    ticks = count()

    async def scenario() -> None:
        assert await answer_in_turn(after(500), 50, "rollouts", lambda: next(ticks)) == "here"
        with pytest.raises(StallError, match="waited 50 s for rollouts"):
            await answer_in_turn(after(500), 50, "rollouts", lambda: "the same")

    run_virtually(scenario())


def test_a_stall_further_down_is_passed_on() -> None:
    ticks = count()

    async def scenario() -> None:
        with pytest.raises(StallError, match="waited 5 s for the rollout store"):
            await answer_in_turn(answer(after(500), 5, "the rollout store"), 50, "rollouts", lambda: next(ticks))

    run_virtually(scenario())

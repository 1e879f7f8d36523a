"""Every wait ends with an answer or a message. Actors are restarted until they die too often."""

from __future__ import annotations

import asyncio
import errno
import os
from itertools import count

import pytest
from ray.exceptions import ActorDiedError

from rltf.supervise import (
    EXIT_FAILED,
    GaveUpError,
    StallError,
    Supervised,
    Watched,
    answer,
    answer_in_turn,
    end_frozen,
    outstanding,
    user_message,
)
from tests.controller.virtual_cluster import run_virtually


async def after(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "here"


def test_an_answer_has_a_deadline_and_is_listed_as_outstanding() -> None:
    async def scenario() -> None:
        waiting = asyncio.ensure_future(answer(after(100), 50, "the buffer to answer"))
        await asyncio.sleep(10)
        assert outstanding().startswith("the buffer to answer: ")
        with pytest.raises(StallError, match="timed out after 50 s waiting for the buffer to answer"):
            await waiting
        assert outstanding() == "nothing"

    run_virtually(scenario())


def test_a_wait_in_a_queue_lasts_while_the_queue_moves() -> None:
    ticks = count()

    async def scenario() -> None:
        assert await answer_in_turn(after(500), 50, "rollouts", lambda: next(ticks)) == "here"
        with pytest.raises(StallError, match="timed out after 50 s waiting for rollouts"):
            await answer_in_turn(after(500), 50, "rollouts", lambda: "the same")

    run_virtually(scenario())


def test_an_inner_stall_is_passed_on() -> None:
    ticks = count()

    async def scenario() -> None:
        with pytest.raises(StallError, match="timed out after 5 s waiting for the rollout store"):
            await answer_in_turn(answer(after(500), 5, "the rollout store"), 50, "rollouts", lambda: next(ticks))

    run_virtually(scenario())


def test_an_actor_that_dies_is_replaced_until_it_dies_too_often() -> None:
    ended: list[int] = []
    place = Supervised("generator 0", lambda life: life, ended.append)
    for _ in range(2):
        for _ in range(3):
            place.restart(ActorDiedError())
        place.progressed()
    assert (place.actor, place.num_restarts, ended) == (6, 6, list(range(6)))
    for _ in range(3):
        place.restart(ActorDiedError())
    with pytest.raises(GaveUpError, match="generator 0 died 4 times without getting anything done; the last time: "):
        place.restart(ActorDiedError())
    assert ended[-1] == 9, "the last actor must be ended too"


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the quota of the disk is used up"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EIO, "the disk failed"),
    ],
)
def test_a_disk_that_cannot_be_written_is_named_with_what_to_do(number: int, fault: str) -> None:
    message, status = user_message(OSError(number, os.strerror(number), "runs/a/metrics.jsonl"))
    assert message.startswith(f"{fault}: runs/a/metrics.jsonl cannot be written. ")
    assert message.endswith(", then continue with --resume")
    assert status == EXIT_FAILED


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps_kills_nobody(jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the time of day were set again and again: only an actor that does not answer is killed, and in time."""
    times, killed = count(0, jump_s), dict[str, float]()
    monkeypatch.setattr("rltf.supervise.time.time", lambda: next(times))

    async def scenario() -> None:
        clock = asyncio.get_running_loop().time
        began = clock()

        def actor(name: str, answers_after_s: float) -> Watched:
            def end() -> None:
                killed.setdefault(name, clock() - began)

            return Watched(name, lambda: after(answers_after_s), end)

        watched = [actor("healthy", 20), actor("frozen", 1e6)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(end_frozen(lambda: watched, 60), 600)

    run_virtually(scenario())
    assert killed == {"frozen": 60}

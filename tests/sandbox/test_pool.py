"""The pool with real Ray actors: every call is answered, whatever dies, and the size follows the backlog."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import ray
from ray.exceptions import ObjectLostError
from ray.util import list_named_actors

import rltf.sandbox.pool
from rltf.errors import UserError
from rltf.problems.types import Problem, StdinTest
from rltf.sandbox import selftest
from rltf.sandbox.pool import PoolError, SandboxPool
from rltf.sandbox.verdict import Outcome
from rltf.settings import SandboxSettings
from tests.sandbox.pool_worker import FreezingWorker, FussyWorker, RefusingWorker, Worker

pytestmark = pytest.mark.usefixtures("ray_session")

SQUARE = Problem("square", "tests", "", (StdinTest("5\n", "25\n"), StdinTest("6\n", "36\n")))
HEARTBEAT_S = 60.0
RIGHT, WRONG = "print(int(input()) ** 2)", "print(25)"


def settings(**changes: Any) -> SandboxSettings:
    values = {
        "min_workers": 1,
        "max_workers": 3,
        "num_cpus": 0.5,
        "min_isolation": selftest.find_level(SandboxSettings()).level,
        "backlog_per_worker": 4,
        "idle_s": 1,
    }
    return SandboxSettings(**{**values, **changes})


@asynccontextmanager
async def running_pool(
    name: str | None = None, heartbeat_timeout_s: float = HEARTBEAT_S, **changes: Any
) -> AsyncIterator[SandboxPool]:
    problems = ray.put({"square": SQUARE})
    pool = SandboxPool(Worker, settings(**changes), problems, heartbeat_timeout_s=heartbeat_timeout_s, name=name)
    try:
        await pool.start()
        yield pool
    finally:
        await pool.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def with_deadline() -> None:
        await asyncio.wait_for(scenario(), 400)

    asyncio.run(with_deadline())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.05)


def test_verdicts_of_a_batch_come_in_order() -> None:
    async def scenario() -> None:
        async with running_pool() as pool:
            work = [("square", source, str(i)) for i, source in enumerate([RIGHT, WRONG, "1/0", RIGHT])]
            verdicts = await pool.submit("grade", work, num_items=len(work))
            assert [verdict.completion_id for verdict in verdicts] == ["0", "1", "2", "3"]
            assert [verdict.outcome for verdict in verdicts] == [
                Outcome.PASSED,
                Outcome.FAILED,
                Outcome.RUNTIME_ERROR,
                Outcome.PASSED,
            ]
            assert pool.stats().num_done == 4

    run(scenario)


def test_call_to_a_dead_worker_is_repeated(tmp_path: Any) -> None:
    async def scenario() -> None:
        async with running_pool(min_workers=2) as pool:
            calls = [pool.submit("die_once", str(tmp_path / "mark"))]
            calls += [pool.submit("grade", [("square", RIGHT, str(i))]) for i in range(20)]
            first, *others = await asyncio.gather(*calls)
            assert first == "survived"
            assert all(verdict.passed for (verdict,) in others)
            stats = pool.stats()
            assert stats.num_deaths == 1
            assert stats.num_done == 21
            await until(lambda: pool.stats().num_ready >= 2)

    run(scenario)


def test_a_frozen_worker_is_replaced_and_a_busy_one_is_not(tmp_path: Any) -> None:
    async def scenario() -> None:
        async with running_pool(heartbeat_timeout_s=8, min_workers=2) as pool:
            busy = asyncio.ensure_future(pool.submit("work", 12.0))
            assert await pool.submit("freeze_once", str(tmp_path / "mark")) == "thawed"
            await busy
            assert pool.stats().num_deaths == 1

    run(scenario)


def test_a_worker_that_freezes_while_it_starts_is_replaced(tmp_path: Any) -> None:
    problems = {"square": SQUARE, "mark": Problem("mark", "tests", str(tmp_path / "mark"), SQUARE.tests)}

    async def scenario() -> None:
        pool = SandboxPool(FreezingWorker, settings(), ray.put(problems), heartbeat_timeout_s=4)
        try:
            await pool.start()
            ((verdict,),) = [await pool.submit("grade", [("square", RIGHT, "0")])]
            assert verdict.passed
        finally:
            await pool.close()

    run(scenario)


def test_call_that_kills_every_worker_is_given_up_and_those_that_wait_behind_it_are_not() -> None:
    async def scenario() -> None:
        async with running_pool("grader", max_workers=1) as pool:
            behind = [asyncio.ensure_future(pool.submit("work", 0.0)) for _ in range(3)]
            with pytest.raises(PoolError, match="3 sandbox workers died while they ran die"):
                await pool.submit("die")
            await asyncio.gather(*behind)
            # Three died of it. Their replacements have new names, because a dead actor's name stays taken for a while.
            await until(lambda: "grader-3" in list_named_actors())
            (verdict,) = await pool.submit("grade", [("square", RIGHT, "0")])
            assert verdict.passed

    run(scenario)


def test_call_whose_value_is_lost_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = rltf.sandbox.pool._value
    losses = iter([ObjectLostError("00", None, "")])

    async def fetch_after_loss(reference: Any) -> Any:
        value = await fetch(reference)
        for loss in losses:
            raise loss
        return value

    async def scenario() -> None:
        async with running_pool() as pool:
            monkeypatch.setattr("rltf.sandbox.pool._value", fetch_after_loss)
            (verdict,) = await pool.submit("grade", [("square", RIGHT, "0")])
            assert verdict.passed
            assert pool.stats().num_repeated == 1

    run(scenario)


def test_error_of_a_method_reaches_the_caller() -> None:
    async def scenario() -> None:
        async with running_pool() as pool:
            with pytest.raises(ValueError, match="not this one"):
                await pool.submit("refuse")
            assert pool.stats().num_deaths == 0

    run(scenario)


def test_size_follows_the_backlog_between_its_bounds() -> None:
    async def scenario() -> None:
        async with running_pool() as pool:
            assert pool.stats().num_workers == 1
            answered: set[Any] = set()

            async def keep_busy() -> None:
                while len(answered) < 3:  # however long workers take to start on a busy machine
                    answered.add(await pool.submit("work", 1.0, num_items=2))

            await asyncio.gather(*(keep_busy() for _ in range(12)))
            assert len(answered) == 3, "more workers than the upper bound"
            await until(lambda: pool.stats().num_workers == 1)
            (verdict,) = await pool.submit("grade", [("square", RIGHT, "0")])
            assert verdict.passed

    run(scenario)


def test_callers_wait_while_many_calls_are_under_way() -> None:
    async def scenario() -> None:
        async with running_pool(max_workers=1) as pool:
            calls = [asyncio.ensure_future(pool.submit("work", 0.05)) for _ in range(30)]
            await until(lambda: pool.stats().backlog == len(calls))
            assert len(pool._waiting) + sum(len(worker.calls) for worker in pool._workers) <= 4
            await asyncio.gather(*calls)

    run(scenario)


def test_pool_that_cannot_start_says_why() -> None:
    async def scenario() -> None:
        with pytest.raises(PoolError, match=r"asks for 1000 CPUs.*lower sandbox\.min_workers"):
            async with running_pool(num_cpus=1000, start_timeout_s=1):
                pass

    run(scenario)


def test_too_little_isolation_is_refused() -> None:
    async def scenario() -> None:
        pool = SandboxPool(RefusingWorker, settings(), ray.put({}), heartbeat_timeout_s=HEARTBEAT_S)
        with pytest.raises(UserError, match="this machine gives"):
            await pool.start()
        with pytest.raises(UserError, match="this machine gives"):
            await pool.submit("grade", [])
        await pool.close()

    run(scenario)


def test_isolation_that_is_lost_later_ends_the_work_only_with_the_last_worker(tmp_path: Any) -> None:
    mark = tmp_path / "mark"

    async def scenario() -> None:
        problems = {"square": SQUARE, "mark": Problem("mark", "tests", str(mark), SQUARE.tests)}
        pool = SandboxPool(FussyWorker, settings(), ray.put(problems), heartbeat_timeout_s=HEARTBEAT_S)
        await pool.start()
        mark.touch()
        try:
            calls = asyncio.gather(*(pool.submit("work", 0.5, num_items=4) for _ in range(12)))
            assert len(set(await calls)) == 1  # the others refused to start
            with pytest.raises(UserError, match="this machine gives"):
                await pool.submit("die")
        finally:
            await pool.close()

    run(scenario)

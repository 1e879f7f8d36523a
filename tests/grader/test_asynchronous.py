"""`AsyncGrader`: the verdicts of `Grader`, a bound on what is under way, and calls that are cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rltf.errors import UserError
from rltf.grader import Grader
from rltf.grader.asynchronous import AsyncGrader
from rltf.problems.types import Problem, StdinTest
from rltf.sandbox.grading import Graders
from rltf.sandbox.jobs import End, RunLimits, StdinJob

ECHO = Problem("echo", "any", "Repeat.", (StdinTest("1\n", "1\n"),))
RIGHT = "print(input())"
PROGRAMS = [RIGHT, "print(2)", "1 / 0", "print("]


class Gate:
    """Stands before every sandbox: programs wait there until the test opens it."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.begun: list[str] = []

    async def until_begun(self, number: int) -> None:
        async with asyncio.timeout(60):
            while len(self.begun) < number:
                await asyncio.sleep(0.001)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    grade = Graders.grade

    def grade_behind_gate(self: Graders, problem: Problem, program: str, *rest: Any) -> Any:
        gate.begun.append(program)
        assert gate.opened.wait(60)
        return grade(self, problem, program, *rest)

    monkeypatch.setattr(Graders, "grade", grade_behind_gate)
    yield gate
    gate.opened.set()


def test_verdicts_are_those_of_the_grader() -> None:
    async def graded() -> list[Any]:
        async with AsyncGrader(2) as grader:
            return await asyncio.gather(*(grader.grade(ECHO, program, "0") for program in PROGRAMS * 5))

    with Grader(1) as grader:
        expected = grader.grade(ECHO, PROGRAMS)
    outcomes = [(verdict.outcome, verdict.error) for verdict in asyncio.run(graded())]
    assert outcomes == [(verdict.outcome, verdict.error) for verdict in expected] * 5


def test_a_program_runs_without_a_verdict_within_its_limits() -> None:
    async def ends() -> list[End]:
        async with AsyncGrader(1) as grader:
            job = StdinJob(b"5\n")
            good = await grader.run("print(input())", job)
            assert good.stdout == b"5\n"
            limits = RunLimits(0.2, 60, 64 << 20)
            bad = [await grader.run(program, job, limits) for program in ("while True: pass", "x = bytearray(10**9)")]
            return [good.end, *(result.end for result in bad)]

    assert asyncio.run(ends()) == [End.OK, End.CPU_TIMEOUT, End.MEMORY]


def test_no_more_calls_than_allowed_are_under_way_and_the_first_come_first(gate: Gate) -> None:
    async def run() -> None:
        async with AsyncGrader(1, max_pending=2) as grader:
            calls = [asyncio.create_task(grader.grade(ECHO, f"print({n})")) for n in range(6)]
            await gate.until_begun(1)
            assert grader.num_pending == 2
            gate.opened.set()
            await asyncio.gather(*calls)
            assert grader.num_pending == 0

    asyncio.run(run())
    assert gate.begun == [f"print({n})" for n in range(6)]


def test_a_call_that_is_cancelled_before_it_starts_never_runs(gate: Gate) -> None:
    async def run() -> None:
        async with AsyncGrader(1, max_pending=3) as grader:
            calls = [asyncio.create_task(grader.grade(ECHO, f"print({n})")) for n in range(6)]
            await gate.until_begun(1)
            for number in (2, 3, 5):  # one that waits for the sandbox, and two that wait for their turn
                calls[number].cancel()
            gate.opened.set()
            done = await asyncio.gather(*calls, return_exceptions=True)
            assert [isinstance(result, asyncio.CancelledError) for result in done] == [n in (2, 3, 5) for n in range(6)]
            assert grader.num_pending == 0
            assert (await grader.grade(ECHO, RIGHT)).passed

    asyncio.run(run())
    assert gate.begun == ["print(0)", "print(1)", "print(4)", RIGHT]


def test_a_call_that_is_cancelled_while_it_runs_keeps_its_place_until_it_ends(gate: Gate) -> None:
    async def run() -> None:
        async with AsyncGrader(1, max_pending=1) as grader:
            call = asyncio.create_task(grader.grade(ECHO, "print(0)"))
            await gate.until_begun(1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert grader.num_pending == 1
            following = asyncio.create_task(grader.grade(ECHO, RIGHT))
            gate.opened.set()
            assert (await following).passed

    asyncio.run(run())


def test_a_grader_that_is_left_cancels_what_has_not_started(gate: Gate) -> None:
    async def run() -> list[Any]:
        async with AsyncGrader(1, max_pending=2) as grader:
            calls = [asyncio.create_task(grader.grade(ECHO, f"print({n})")) for n in range(4)]
            await gate.until_begun(1)
            asyncio.get_running_loop().call_later(0.01, gate.opened.set)
        return await asyncio.gather(*calls, return_exceptions=True)

    first, *others = asyncio.run(run())
    assert first.task_id == "echo"
    assert [type(other) for other in others] == [asyncio.CancelledError] * 3
    assert gate.begun == ["print(0)"]


def test_a_problem_that_cannot_be_used_takes_no_place() -> None:
    async def run() -> None:
        async with AsyncGrader(1, max_pending=1) as grader:
            for _ in range(3):
                with pytest.raises(UserError, match="columns of no benchmark"):
                    await grader.grade({}, RIGHT)
            assert (await grader.grade(ECHO, RIGHT)).passed

    asyncio.run(run())

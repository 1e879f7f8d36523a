"""The grader for programs that run in an asyncio loop.

    async with AsyncGrader(workers=8) as grader:
        verdicts = await asyncio.gather(*(grader.grade(problem, program) for program in programs))

Each sandbox has a thread of its own; the loop itself never waits for a program.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from rltf.grader.grader import AnyProblem, Grader
from rltf.problems.types import Problem
from rltf.sandbox.compare import Comparison
from rltf.sandbox.jobs import Job, RunLimits, RunResult
from rltf.sandbox.verdict import Isolation, Verdict
from rltf.settings import SandboxSettings

R = TypeVar("R")


class AsyncGrader:
    """Grades programs in `workers` sandboxes at a time. An async context manager; use it in one loop.

    At most `max_pending` calls are under way, waiting for a sandbox or in one; a further call waits for its turn. A
    call that is cancelled before it has started never runs. A sandbox cannot be interrupted, so a call that is
    cancelled later is finished, its result is dropped, and it counts as under way until then.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        max_pending: int = 1024,
        min_isolation: Isolation | None = None,
        settings: SandboxSettings | None = None,
        comparison: Comparison = Comparison.STRICT,
    ) -> None:
        """Prepare a grader; the arguments are those of `Grader`. Entering it starts the sandboxes, and raises what
        `Grader` raises.
        """
        self.num_workers = len(os.sched_getaffinity(0)) if workers is None else workers
        self.num_pending = 0
        self.settings = settings or SandboxSettings()
        self._max_pending = max_pending
        self._start = lambda: Grader(
            self.num_workers, min_isolation=min_isolation, settings=self.settings, comparison=comparison
        )
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> AsyncGrader:
        self._grader = await asyncio.to_thread(self._start)
        self.isolation = self._grader.isolation
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel the calls that have not started, and wait for those that run."""
        while self._waiting:
            self._waiting.popleft().cancel()
        await asyncio.to_thread(self._grader.close)

    def usable(self, given: AnyProblem) -> Problem:
        """As `Grader.usable`, for any thread: to check large problems without holding up the loop."""
        return self._grader.usable(given)

    async def grade(self, problem: AnyProblem, program: str, completion_id: str = "0") -> Verdict:
        """The verdict on a program. Raises `UserError` if the problem cannot be used."""
        return await self._call(lambda: self._grader.submit(problem, program, completion_id))

    async def run(self, program: str, job: Job, limits: RunLimits | None = None) -> RunResult:
        """What comes out of a program, without a verdict. `limits` replace those in the settings."""
        return await self._call(lambda: self._grader.submit_run(program, job, limits))

    async def _call(self, start: Callable[[], Future[R]]) -> R:
        await self._enter()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        try:
            task = start()
        except BaseException:  # even an interrupt must not keep this call's place
            self._leave()
            raise
        task.add_done_callback(lambda done: loop.call_soon_threadsafe(self._end, done, future))
        try:
            return await future
        finally:
            task.cancel()  # only has an effect if this call was cancelled before it started

    def _end(self, task: Future[R], future: asyncio.Future[R]) -> None:
        self._leave()
        if future.done():
            return
        if task.cancelled():
            future.cancel()
        elif (error := task.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())

    async def _enter(self) -> None:
        """Wait for a place among the calls that are under way, first come, first served."""
        if self.num_pending < self._max_pending:
            self.num_pending += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # cancelled just after it got its place
                self._leave()
            raise

    def _leave(self) -> None:
        """Give the place to the next call that waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.num_pending -= 1

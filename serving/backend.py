"""What a server needs from a grader. `AsyncGrader` is one."""

from __future__ import annotations

from typing import Protocol

from rltf.problems.types import Problem
from rltf.sandbox.jobs import Job, RunLimits, RunResult
from rltf.sandbox.verdict import Isolation, Verdict
from rltf.settings import SandboxSettings


class Backend(Protocol):
    """Grades and runs programs in `num_workers` sandboxes. Cancelling a call drops it."""

    num_workers: int
    isolation: Isolation
    settings: SandboxSettings

    def usable(self, given: Problem) -> Problem:
        """The problem itself, checked. Called from any thread. Raises `UserError` if it cannot be graded."""

    async def grade(self, problem: Problem, program: str, completion_id: str = "0") -> Verdict:
        """The verdict on a program."""

    async def run(self, program: str, job: Job, limits: RunLimits | None = None) -> RunResult:
        """What comes out of a program, without a verdict."""

"""The sandboxes of a Ray cluster, for a server or an evaluation: the pool of a training job, which follows the work."""

from __future__ import annotations

import weakref
from typing import Any

import ray
from pydantic import ValidationError

from rltf.controller.cluster import kind_request, uses_kinds
from rltf.errors import UserError
from rltf.problems.types import Problem
from rltf.sandbox.admission import reason_to_refuse
from rltf.sandbox.compare import Comparison
from rltf.sandbox.jobs import End, Job, RunLimits, RunResult
from rltf.sandbox.pool import CallLostError, SandboxPool
from rltf.sandbox.verdict import GRADER_ERROR, Isolation, Outcome, ProgramError, Verdict
from rltf.sandbox.worker import SandboxWorker
from rltf.settings import ClusterSettings, SandboxSettings


def join_settings(address: str) -> ClusterSettings:
    """How to join the cluster at `--cluster.address`. Raises UserError if it is no address."""
    try:
        return ClusterSettings(address=address)
    except ValidationError as error:
        raise UserError(f"--cluster.address {address}: expected auto, local or HOST:PORT") from error


class ServingWorker(SandboxWorker):
    """A sandbox that gets its problems with the programs."""

    def level(self) -> Isolation:
        """The isolation under which this worker runs programs."""
        return self.isolation

    def grade_one(self, problem: Problem, program: str, completion_id: str, comparison: Comparison) -> Verdict:
        """The verdict on a program."""
        return self.sandbox.grade(problem, program, completion_id, comparison)

    def run_one(self, program: str, job: Job, limits: RunLimits | None) -> RunResult:
        """What comes out of a program, without a verdict."""
        return self.sandbox.run(program, [job], limits=limits)[0]


class ClusterGrader:
    """A `Backend` on the Ray cluster that this process has joined. An async context manager; use it in one loop.

    There are from `min_workers` to `max_workers` sandboxes, as the settings say. A program that kills its workers is a
    grader error.
    """

    isolation: Isolation

    def __init__(self, settings: SandboxSettings, heartbeat_timeout_s: float) -> None:
        """A worker that does not answer for `heartbeat_timeout_s` is replaced, and its programs run again."""
        self.num_workers = settings.max_workers
        self.settings = settings
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._refuse = reason_to_refuse(settings)
        self._usable: weakref.WeakValueDictionary[int, Problem] = weakref.WeakValueDictionary()
        self._refs: dict[int, ray.ObjectRef[Problem]] = {}

    async def __aenter__(self) -> ClusterGrader:
        resources = kind_request("sandbox", uses=uses_kinds(ray.cluster_resources()))  # type: ignore[no-untyped-call]
        self._pool = SandboxPool(
            ServingWorker,
            self.settings,
            ray.put({}),
            heartbeat_timeout_s=self._heartbeat_timeout_s,
            resources=resources,
        )
        await self._pool.start()
        self.isolation = await self._pool.submit("level")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    def usable(self, given: Problem) -> Problem:
        """The problem itself, checked once. Raises `UserError` if it cannot be graded."""
        if self._usable.get(id(given)) is not given:
            if reason := self._refuse(given):
                raise UserError(f"problem {given.task_id} cannot be graded: {reason}")
            self._usable[id(given)] = given
        return given

    async def grade(
        self, problem: Problem, program: str, completion_id: str = "0", comparison: Comparison = Comparison.STRICT
    ) -> Verdict:
        """The verdict on a program."""
        arguments = (self._ref(problem), program, completion_id, comparison)
        try:
            verdict: Verdict = await self._pool.submit("grade_one", *arguments)
        except CallLostError as error:
            return Verdict(
                task_id=problem.task_id,
                completion_id=completion_id,
                outcome=Outcome.INFRASTRUCTURE_ERROR,
                tests=(Outcome.INFRASTRUCTURE_ERROR,) * len(problem.tests),
                error=ProgramError(GRADER_ERROR, str(error)),
                isolation=self.isolation,
                seconds=0.0,
                cpu_seconds=0.0,
                peak_memory_bytes=0,
            )
        return verdict

    async def run(self, program: str, job: Job, limits: RunLimits | None = None) -> RunResult:
        """What comes out of a program, without a verdict."""
        try:
            result: RunResult = await self._pool.submit("run_one", program, job, limits)
        except CallLostError:
            return RunResult(End.INFRASTRUCTURE)
        return result

    def _ref(self, problem: Problem) -> Any:
        """The problem in the object store, where it stays as long as the server knows it."""
        key = id(problem)
        if key not in self._refs:
            self._refs[key] = ray.put(problem)
            weakref.finalize(problem, self._refs.pop, key, None)
        return self._refs[key]

"""A sandbox worker: the process that owns a sandbox, and grades programs in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ray

from rltf.problems.types import Problem
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation, Verdict
from rltf.settings import SandboxSettings

# The concurrency group of calls that are answered while a program is being graded.
HEALTH = "health"


class SandboxWorker:
    """A sandbox with the problems it grades.

    `SandboxPool` makes it an actor; subclasses add methods that the pool calls.
    """

    sandbox: Sandbox

    def __init__(self, problems: Mapping[str, Problem], settings: SandboxSettings) -> None:
        self.problems = problems
        self._settings = settings

    def __repr__(self) -> str:
        """The label in front of this actor's log lines, and of its methods in the dashboard."""
        return ray.get_runtime_context().get_actor_name() or type(self).__name__

    def start(self) -> None:
        """Start the sandbox. This is the first call to every worker.

        Raises `UserError` if the machine gives less isolation than the settings require. (From the constructor, the
        error would reach the pool only as text.)
        """
        self.sandbox = Sandbox(self._settings, Isolation(self._settings.min_isolation))

    @ray.method(concurrency_group=HEALTH)
    def ping(self) -> None:
        """Answer, also while a program is being graded."""

    @property
    def isolation(self) -> Isolation:
        """The isolation level under which this worker runs programs."""
        return self.sandbox.isolation

    def grade(self, work: Sequence[tuple[str, str, str]]) -> list[Verdict]:
        """The verdicts on rows of (task id, program, completion id), in order."""
        return [self.sandbox.grade(self.problems[task_id], program, name) for task_id, program, name in work]

    def close(self) -> None:
        """End the sandbox and all its jails."""
        self.sandbox.close()

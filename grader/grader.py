"""The grader itself: a sandbox for each of several threads, behind calls that any thread may make."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

from rltf.errors import UserError
from rltf.grader.rows import problem_from_row
from rltf.problems.extraction import extract_program
from rltf.problems.types import Problem
from rltf.sandbox.admission import reason_to_refuse
from rltf.sandbox.compare import Comparison
from rltf.sandbox.grading import Graders
from rltf.sandbox.jobs import Job, RunLimits, RunResult
from rltf.sandbox.verdict import Isolation, Verdict
from rltf.settings import SandboxSettings

R = TypeVar("R")

AnyProblem = Problem | Mapping[str, Any]
"""A problem, or a row of a benchmark (`problem_from_row`)."""
_CLOSED = "the grader is closed; make a new Grader"


class Grader:
    """Grades programs in `workers` sandboxes at a time. Thread-safe; `close` it, or use it as a context manager.

    `isolation` is the level that this machine gives to programs.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        min_isolation: Isolation | None = None,
        settings: SandboxSettings | None = None,
        comparison: Comparison = Comparison.STRICT,
    ) -> None:
        """Start the sandboxes.

        `workers` is by default the number of cores. `settings` are the limits of a test and the packages for programs.
        `min_isolation` replaces the level in `settings`. `comparison` says how answers are compared. Raises UserError
        if the machine gives less than `min_isolation`, or a package in `settings` is missing.
        """
        num_workers = len(os.sched_getaffinity(0)) if workers is None else workers
        if num_workers < 1:
            raise UserError(f"workers: expected a number from 1, got {num_workers}")
        settings = settings or SandboxSettings()
        self._refuse = reason_to_refuse(settings)
        self._comparison = comparison
        self._process = os.getpid()
        # A problem is checked once. Its id is known only as long as it lives.
        self._checked: weakref.WeakValueDictionary[int, Problem] = weakref.WeakValueDictionary()
        with ExitStack() as stack:
            self._graders = stack.enter_context(Graders(num_workers, settings, min_isolation or settings.min_isolation))
            self._threads = stack.enter_context(ThreadPoolExecutor(num_workers, thread_name_prefix="grader"))
            # Runs at the end of the interpreter too, or when the grader is forgotten.
            self._close = weakref.finalize(self, _close, stack.pop_all(), self._threads, self._process)
        self.isolation = self._graders.isolation

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the sandboxes. Programs that run are graded to the end, those that wait are not graded. Safe twice."""
        self._close()

    def grade(self, problems: AnyProblem | Sequence[AnyProblem], programs: Sequence[str]) -> list[Verdict]:
        """The verdicts on `programs`, in order. `problems` has one problem for each program, or is the one for all.

        Every problem is checked before any program runs. Each verdict's `completion_id` is the program's number. Raises
        UserError for a problem that cannot be used, another number of problems than programs, or a closed grader.
        """
        found = self._one_for_each(problems, programs)
        return self._verdicts(zip(found, programs, strict=True))

    def grade_completions(
        self, problems: AnyProblem | Sequence[AnyProblem], completions: Sequence[str], *, in_thought: bool = False
    ) -> list[Verdict]:
        """Like `grade`, for completions as a model writes them: prose, thoughts, code blocks.

        The program is found as in this project's own training (`problems.extraction.extract_program`). Lines of errors
        count within the program. `in_thought` says that the prompt has opened a thought (`<think>`): a completion that
        never closes it has an empty program then.
        """
        found = self._one_for_each(problems, completions)
        return self._verdicts(
            (problem, text[slice(*extract_program(problem, text, in_thought=in_thought))])
            for problem, text in zip(found, completions, strict=True)
        )

    def submit(self, problem: AnyProblem, program: str, completion_id: str = "0") -> Future[Verdict]:
        """Grade one program in the background. Its future can be cancelled until the program runs.

        Raises UserError for a problem that cannot be used, or a closed grader.
        """
        return self._submit(self.usable(problem), program, completion_id)

    def submit_run(self, program: str, job: Job, limits: RunLimits | None = None) -> Future[RunResult]:
        """Run a program in the background, without a verdict. `limits` replace those in the settings.

        Raises UserError for a closed grader.
        """
        return self._begin(lambda: self._graders.run(program, [job], limits=limits)[0])

    def _submit(self, problem: Problem, program: str, completion_id: str) -> Future[Verdict]:
        return self._begin(lambda: self._graders.grade(problem, program, completion_id, self._comparison))

    def _begin(self, work: Callable[[], R]) -> Future[R]:
        if os.getpid() != self._process:
            raise UserError(
                f"this grader belongs to process {self._process}, of which process {os.getpid()} is a fork; "
                "make a Grader in each process"
            )
        if not self._close.alive:
            raise UserError(_CLOSED)
        return self._threads.submit(work)

    def _verdicts(self, items: Iterable[tuple[Problem, str]]) -> list[Verdict]:
        futures: list[Future[Verdict]] = []
        try:
            for number, (problem, program) in enumerate(items):
                futures.append(self._submit(problem, program, str(number)))
            return [future.result() for future in futures]
        except CancelledError:
            raise UserError(_CLOSED) from None
        finally:
            for future in futures:
                future.cancel()

    def _one_for_each(self, problems: AnyProblem | Sequence[AnyProblem], texts: Sequence[str]) -> list[Problem]:
        if isinstance(texts, str):
            raise UserError("expected a sequence of texts, got one text; put it into a list")
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"text {number}: expected str, got {type(text).__name__}")
        if isinstance(problems, Problem | Mapping):
            return [self.usable(problems)] * len(texts)
        if len(problems) != len(texts):
            raise UserError(f"{len(problems)} problems for {len(texts)} texts; give one for each, or one for all")
        given = list(problems)  # a data set makes its rows anew each time, and ids hold only for what is kept
        known: dict[int, Problem] = {}
        for number, problem in enumerate(given):
            if id(problem) not in known:
                try:
                    known[id(problem)] = self.usable(problem)
                except UserError as error:
                    raise UserError(f"problems[{number}]: {error}") from error
        return [known[id(problem)] for problem in given]

    def usable(self, given: AnyProblem) -> Problem:
        """The problem, checked. Each is checked once, so `submit` is quick for those that this has returned.

        Raises UserError for a problem that cannot be used.
        """
        problem = given if isinstance(given, Problem) else problem_from_row(given)
        if self._checked.get(id(problem)) is not problem:
            if reason := self._refuse(problem):
                raise UserError(f"problem {problem.task_id} cannot be graded: {reason}")
            self._checked[id(problem)] = problem
        return problem


def _close(sandboxes: ExitStack, threads: ThreadPoolExecutor, process: int) -> None:
    """End everything. A fork of the process has copies of these objects, but neither the threads nor the sandboxes."""
    if os.getpid() == process:
        threads.shutdown(cancel_futures=True)
        sandboxes.close()

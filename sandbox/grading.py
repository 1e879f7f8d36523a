"""Grading in bulk: files of programs, and the reference programs of a benchmark."""

from __future__ import annotations

import hashlib
import logging
import queue
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rltf.errors import UserError
from rltf.files import read_json, write_json
from rltf.problems.index import ProblemIndex
from rltf.problems.sources import read_file
from rltf.problems.types import Problem
from rltf.sandbox.compare import Comparison
from rltf.sandbox.jobs import Job, RunLimits, RunResult
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation, Outcome, Verdict
from rltf.settings import SandboxSettings

logger = logging.getLogger(__name__)

# Results come in order, so a slow program delays those behind it. This many keep the other workers busy meanwhile.
_IN_FLIGHT_PER_WORKER = 256
T = TypeVar("T")
R = TypeVar("R")


class ProgramRow(BaseModel):
    """One program to grade. Other keys of the row are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task_id: str | int
    completion_id: str | int = Field(description="Identifies a program among those of the same problem.")
    code: str
    completion: str | None = Field(None, description="The text that the program was taken from.")


def read_programs(path: Path, index: ProblemIndex) -> Iterator[tuple[ProgramRow, Problem]]:
    """The programs of a JSON lines file with their problems, read lazily.

    Raises UserError if a row is not a program, or names no problem. The message starts with file and line.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of programs")
    found = False
    numbers: Counter[str] = Counter()
    for row in read_file(path):
        found = True
        place = f"{row.file}:{row.line}"
        if row.problem is not None:
            raise UserError(f"{place}: {row.problem}")
        try:
            program = ProgramRow.model_validate(_from_evalplus(row.data, numbers))
            yield program, index.find(program.task_id)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"][:1])) or "row"
            raise UserError(
                f'{place}: {field}: {first["msg"]}; expected {{"task_id": ..., "completion_id": ..., "code": ...}}'
            ) from error
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
    if not found:
        raise UserError(f"{path}: contains no programs")


def _from_evalplus(data: Any, numbers: Counter[str]) -> Any:
    """A row of EvalPlus as one of ours; other rows stay as they are.

    EvalPlus has whole programs in `solution`, or in `completion` what continues the prompt, and no `completion_id`.
    `numbers` counts such programs of each problem.
    """
    if not isinstance(data, dict) or "code" in data:
        return data
    key = next((key for key in ("solution", "completion") if key in data), None)
    if key is None:
        return data
    task_id = str(data.get("task_id"))
    numbers[task_id] += 1
    return {"completion_id": numbers[task_id] - 1, **data, "code": data[key]}


def verdict_row(program: ProgramRow, verdict: Verdict) -> dict[str, Any]:
    """The output row of a graded program, with the ids exactly as in the input row."""
    return {"task_id": program.task_id, "completion_id": program.completion_id, **verdict.to_json()}


class ProgramGraders(ABC):
    """Grades programs, `num_workers` at a time."""

    num_workers: int

    @abstractmethod
    def grade(
        self, problem: Problem, program: str, completion_id: str, comparison: Comparison = Comparison.STRICT
    ) -> Verdict:
        """Grade one program. Thread-safe."""

    def verdicts(
        self, programs: Iterable[tuple[ProgramRow, Problem] | None]
    ) -> Iterator[tuple[tuple[ProgramRow, Problem], Verdict]]:
        """Yield each program with its verdict, in order (see `map`)."""
        return self.map(lambda item: self.grade(item[1], item[0].code, str(item[0].completion_id)), programs)

    def map(self, function: Callable[[T], R], items: Iterable[T | None]) -> Iterator[tuple[T, R]]:
        """Yield each item with `function(item)` in order, computing `num_workers` at a time and reading a few ahead.

        None says that the next item is not ready yet. Results that are ready are yielded then, not with the next item.
        If `items` raises a UserError, it is raised after the results of the items before.
        """
        limit = _IN_FLIGHT_PER_WORKER * self.num_workers
        pending: deque[tuple[T, Future[R]]] = deque()
        failures: list[UserError] = []
        executor = ThreadPoolExecutor(self.num_workers, thread_name_prefix="grader")
        try:
            for item in _until_failure(items, failures):
                if item is not None:
                    pending.append((item, executor.submit(function, item)))
                while pending and (pending[0][1].done() or len(pending) > limit):
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
            if failures:
                raise failures[0]
        finally:
            executor.shutdown(cancel_futures=True)


class Graders(ProgramGraders):
    """Several sandboxes here, one for each worker thread. A context manager that starts the sandboxes on entry.

    `isolation` is the level that the sandboxes found.
    """

    def __init__(self, num_workers: int, settings: SandboxSettings, min_isolation: Isolation) -> None:
        self.num_workers = num_workers
        self._settings = settings
        self._min_isolation = min_isolation
        self.packages = settings.packages
        self._idle: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        self._stack = ExitStack()

    def __enter__(self) -> Graders:
        with ExitStack() as stack:
            for _ in range(self.num_workers):
                sandbox = stack.enter_context(Sandbox(self._settings, self._min_isolation))
                self.isolation = sandbox.isolation
                self._idle.put(sandbox)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def grade(
        self, problem: Problem, program: str, completion_id: str, comparison: Comparison = Comparison.STRICT
    ) -> Verdict:
        """Grade one program in the first sandbox that is free."""
        sandbox = self._idle.get()
        try:
            return sandbox.grade(problem, program, completion_id, comparison)
        finally:
            self._idle.put(sandbox)

    def run(
        self, source: str, jobs: Sequence[Job], seed: int | None = None, limits: RunLimits | None = None
    ) -> list[RunResult]:
        """The results of jobs of one program, without a verdict, from the first sandbox that is free."""
        sandbox = self._idle.get()
        try:
            return sandbox.run(source, jobs, seed, limits)
        finally:
            self._idle.put(sandbox)


def _until_failure(items: Iterable[T], failures: list[UserError]) -> Iterator[T]:
    """The items up to a UserError, which is appended to `failures`."""
    try:
        yield from items
    except UserError as error:
        failures.append(error)


@dataclass(frozen=True, slots=True)
class RejectedReference:
    """A reference program that does not pass. `number` counts the problem's references from 0."""

    task_id: str
    number: int
    reason: str

    def __str__(self) -> str:
        return f"problem {self.task_id}, reference {self.number}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Validated:
    """`problems` keep only references that pass. A problem whose references all fail is left out."""

    problems: tuple[Problem, ...]
    rejected: tuple[RejectedReference, ...]
    left_out: tuple[Problem, ...]


def validate_references(problems: Iterable[Problem], graders: Graders, cache: Path) -> Validated:
    """Run every reference program on its problem's tests.

    A problem without references is kept as it is. `cache` is a JSON file: what it says about a problem holds as long as
    the tests and references stay the same, and new findings are added to it. A reference that the grader cannot judge
    (its setup fails) is rejected too, since no program would do better, but that finding is not cached.
    """
    problems = list(problems)
    known = _remembered(cache)
    keys = [_fingerprint(problem, graders.packages) for problem in problems]
    unknown = [
        (key, number, problem)
        for key, problem in zip(keys, problems, strict=True)
        for number in range(len(problem.references))
        if str(number) not in known.get(key, {})
    ]

    def grade(item: tuple[str, int, Problem]) -> Verdict:
        _, number, problem = item
        return graders.grade(problem, problem.references[number], f"reference {number}")

    grader_errors: dict[str, dict[str, str | None]] = {}
    for (key, number, _), verdict in graders.map(grade, unknown):
        found = grader_errors if verdict.is_grader_error else known
        found.setdefault(key, {})[str(number)] = None if verdict.passed else _reason(verdict)
    write_json(cache, known)
    return _split(problems, [known.get(key, {}) | grader_errors.get(key, {}) for key in keys])


def _remembered(cache: Path) -> dict[str, dict[str, str | None]]:
    try:
        return read_json(cache) if cache.exists() else {}
    except UserError as error:
        logger.warning("all reference programs are run again: %s", error)
        return {}


def _split(problems: list[Problem], found: list[dict[str, str | None]]) -> Validated:
    kept: list[Problem] = []
    rejected: list[RejectedReference] = []
    left_out: list[Problem] = []
    for problem, reasons in zip(problems, found, strict=True):
        failing = {int(number): reason for number, reason in reasons.items() if reason is not None}
        rejected.extend(RejectedReference(problem.task_id, number, reason) for number, reason in failing.items())
        passing = tuple(program for number, program in enumerate(problem.references) if number not in failing)
        if problem.references and not passing:
            left_out.append(problem)
        else:
            kept.append(replace(problem, references=passing))
    return Validated(tuple(kept), tuple(rejected), tuple(left_out))


def _reason(verdict: Verdict) -> str:
    failing = next(number for number, outcome in enumerate(verdict.tests) if outcome is not Outcome.PASSED)
    error = f" ({verdict.error.type}: {verdict.error.message})" if verdict.error else ""
    return f"{verdict.outcome.value} at test {failing}{error}"


def _fingerprint(problem: Problem, packages: tuple[str, ...]) -> str:
    """A hash of everything that a verdict on the problem's references depends on, besides the sandbox's limits."""
    parts: list[Any] = [problem.benchmark, problem.task_id, problem.preamble, problem.code_prefix]
    parts += [problem.tests, problem.checker, problem.limits, problem.references, packages]
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()

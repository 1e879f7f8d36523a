"""Grading a file of programs: rows in, rows out, in the same order."""

from __future__ import annotations

import json
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from errors import UserError
from problems.index import ProblemIndex
from problems.sources import read_file
from problems.types import Problem
from sandbox.compare import Comparison
from sandbox.jobs import Job, RunResult
from sandbox.limits import Limits
from sandbox.sandbox import Sandbox
from sandbox.verdict import Isolation, Verdict

# Results come in order, so a slow program holds up those behind it: this many keep the other workers busy meanwhile.
_IN_FLIGHT_PER_WORKER = 256
T = TypeVar("T")
R = TypeVar("R")


class ProgramRow(BaseModel):
    """One program to grade; other keys of a row are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task_id: str | int
    completion_id: str | int = Field(description="Whatever tells the programs of a problem apart.")
    code: str


def read_programs(path: Path, index: ProblemIndex) -> Iterator[tuple[ProgramRow, Problem]]:
    """The programs of a JSON lines file with their problems, read as they are asked for.

    Raises:
        UserError: a row is no program row, or names no problem; the message starts with file and line.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of programs")
    found = False
    for row in read_file(path):
        found = True
        place = f"{row.file}:{row.line}"
        if row.problem is not None:
            raise UserError(f"{place}: {row.problem}")
        try:
            program = ProgramRow.model_validate(row.data)
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
        raise UserError(f"{path}: holds no programs")


def check_programs(path: Path, index: ProblemIndex) -> None:
    """Read all rows of a file of programs. Raises as `read_programs`."""
    for _ in read_programs(path, index):
        pass


def verdict_row(program: ProgramRow, verdict: Verdict) -> dict[str, Any]:
    """The output row of a graded program; ids as the input row wrote them."""
    return {"task_id": program.task_id, "completion_id": program.completion_id, **verdict.to_json()}


class Graders:
    """Several sandboxes, one for each worker thread. A context manager; sandboxes start on entering it."""

    def __init__(self, num_workers: int, limits: Limits, require: Isolation) -> None:
        self._num_workers = num_workers
        self._limits = limits
        self._require = require
        self._idle: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        self._stack = ExitStack()

    def __enter__(self) -> Graders:
        with ExitStack() as stack:
            for _ in range(self._num_workers):
                self._idle.put(stack.enter_context(Sandbox(self._limits, self._require)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def grade(
        self, problem: Problem, program: str, completion_id: str, comparison: Comparison = Comparison.STRICT
    ) -> Verdict:
        """Grade one program in whichever sandbox is free; waits for one."""
        sandbox = self._idle.get()
        try:
            return sandbox.grade(problem, program, completion_id, comparison)
        finally:
            self._idle.put(sandbox)

    def run(self, source: str, jobs: Sequence[Job], seed: int | None = None) -> list[RunResult]:
        """What jobs of one program come to, in whichever sandbox is free (see `Sandbox.run`); no verdict."""
        sandbox = self._idle.get()
        try:
            return sandbox.run(source, jobs, seed)
        finally:
            self._idle.put(sandbox)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """Each item with `function(item)`, in order, `num_workers` at a time; a bounded number is read ahead."""
        limit = _IN_FLIGHT_PER_WORKER * self._num_workers
        pending: deque[tuple[T, Future[R]]] = deque()
        executor = ThreadPoolExecutor(self._num_workers, thread_name_prefix="grader")
        try:
            for item in items:
                pending.append((item, executor.submit(function, item)))
                while pending and (pending[0][1].done() or len(pending) > limit):
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            executor.shutdown(cancel_futures=True)


def grade_file(programs: Path, output: Path, index: ProblemIndex, graders: Graders) -> Iterator[Verdict]:
    """Grade the programs of a file into a file of verdict rows, and yield the verdicts as they are written.

    `output` appears when all of it is written.

    Raises:
        UserError: as `read_programs`.
    """

    def grade(item: tuple[ProgramRow, Problem]) -> Verdict:
        program, problem = item
        return graders.grade(problem, program.code, str(program.completion_id))

    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for (program, _problem), verdict in graders.map(grade, read_programs(programs, index)):
            file.write(json.dumps(verdict_row(program, verdict)) + "\n")
            yield verdict
    partial.replace(output)

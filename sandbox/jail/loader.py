"""A program with several tests: compiled once, in a process of its own, which forks one for each of its jobs.

It ends with the program, and never executes a line of it.
"""

from __future__ import annotations

import os
import resource
import time
from functools import partial
from types import CodeType
from typing import NamedTuple

from sandbox.jail import program, supervision
from sandbox.jail.reporter import Reporter
from sandbox.jail.request import CHECK, STDIN, Request
from sandbox.jail.runner import Runner, Task
from sandbox.jail.scratch import Scratch

# How a loader ends: with all that was to be done, or with the program's total output used up.
DONE, TOO_MUCH_OUTPUT = 0, 3


class Budget(NamedTuple):
    """What all jobs of a program may use together."""

    cpu_s: float
    wall_s: float
    output_bytes: int


def load(
    asked: Request,
    runner: Runner,
    reporter: Reporter,
    scratch: Scratch,
    limits: program.ProcessLimits,
    budget: Budget,
    cpu_s: float,
    wall_s: float,
) -> int:
    """Compile the program, run every job, report each; the status to exit with.

    Jobs end early after a timeout, or when the budget is used up.
    """
    resource.setrlimit(resource.RLIMIT_AS, limits.address)
    code = _compile(asked.source(), reporter)
    if code is None:
        return DONE
    started, cpu_left, bytes_left = time.monotonic(), budget.cpu_s, budget.output_bytes
    for index in range(asked.num_jobs):
        if cpu_left <= 0 or time.monotonic() - started >= budget.wall_s:
            break
        if bytes_left <= 0:
            return TOO_MUCH_OUTPUT
        if reporter.is_full:
            reporter.flush_and_wait()
        stdin = os.memfd_create("stream")
        if asked.kind(index) == STDIN:
            asked.copy_stdin(index, stdin)
        task = Task(asked, index, code)
        is_check = asked.kind(index) == CHECK
        outcome = runner.run(stdin, partial(_same, task), is_check=is_check, cpu_s=min(cpu_s, cpu_left), wall_s=wall_s)
        cpu_left -= outcome.cpu_s
        bytes_left -= outcome.num_bytes
        if outcome.cause != supervision.SELF_ENDED or not scratch.clear():
            break
    return DONE


def _same(task: Task) -> Task:
    return task


def _compile(source: str, reporter: Reporter) -> CodeType | None:
    """The program's code; None where it does not compile, which is reported."""
    try:
        code = program.compile_program(source)
        program.remember_source(source)
        return code
    except BaseException as error:  # noqa: BLE001 - whatever the compiler raises is about the program's text
        *nothing, milestones = [os.memfd_create("stream") for _ in range(3)]
        program.write_all(milestones, b"S" + program.syntax_record(error))
        ending = supervision.Ending(supervision.SELF_ENDED, program.EXIT_SYNTAX << 8, 0.0, 0.0, 0)
        reporter.add(ending, supervision.Sizes(0, 0, 0), b"S", b"", (*nothing, milestones))
        return None

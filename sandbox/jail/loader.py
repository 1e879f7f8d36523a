"""A program with several tests: compiled once, in a process of its own, which forks one for each of its jobs.

It ends with the program, and never executes a line of it.
"""

from __future__ import annotations

import os
import resource
import time
from types import CodeType
from typing import NamedTuple

from sandbox.jail import program, supervision
from sandbox.jail.reporter import NOT_A_CHECK, Reporter
from sandbox.jail.request import STDIN, Task, read_source
from sandbox.jail.runner import Runner
from sandbox.jail.scratch import Scratch

# How a loader ends: with all that was to be done, or with the program's total output used up.
DONE, TOO_MUCH_OUTPUT = 0, 3


class Budget(NamedTuple):
    """What all jobs of a program may use together, and what each may."""

    program_cpu_s: float
    program_wall_s: float
    program_output_bytes: int
    cpu_s: float
    wall_s: float


def load(
    tasks: list[Task],
    budget: Budget,
    limits: program.ProcessLimits,
    runner: Runner,
    reporter: Reporter,
    scratch: Scratch,
) -> int:
    """Compile the program, run every job, report each; the status to exit with.

    Jobs end early after a timeout, or when the budget is used up.
    """
    resource.setrlimit(resource.RLIMIT_AS, limits.address)
    code = _compile(tasks[0], reporter)
    if code is None:
        return DONE
    started, cpu_left = time.monotonic(), budget.program_cpu_s
    last_bytes = reporter.total_bytes + budget.program_output_bytes
    for task in tasks:
        if cpu_left <= 0 or time.monotonic() - started >= budget.program_wall_s:
            break
        if reporter.total_bytes >= last_bytes:
            return TOO_MUCH_OUTPUT
        if reporter.is_full:
            reporter.flush_and_wait()
        stdin = os.memfd_create("stream")
        if task.kind == STDIN:
            task.copy_stdin(stdin)
        ending = runner.run(task, stdin, code, min(budget.cpu_s, cpu_left), budget.wall_s)
        cpu_left -= ending.cpu_s
        if ending.cause != supervision.SELF_ENDED or not scratch.clear():
            break
    return DONE


def _compile(task: Task, reporter: Reporter) -> CodeType | None:
    """The program's code; None where it does not compile, which is reported."""
    source = read_source(task.descriptor, task.source_bytes)
    try:
        code = program.compile_program(source)
    except BaseException as error:  # noqa: BLE001 - whatever the compiler raises is about the program's text
        output, errors, value, milestones = (os.memfd_create("stream") for _ in range(4))
        program.write_all(milestones, b"S" + program.syntax_record(error))
        ending = supervision.Ending(supervision.SELF_ENDED, program.EXIT_SYNTAX << 8, 0.0, 0.0, 0)
        reporter.add(ending, output, errors, value, milestones, NOT_A_CHECK)
        return None
    program.remember_source(source)
    return code

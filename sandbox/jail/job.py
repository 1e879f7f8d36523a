"""The process that runs one job of one program, from the fork to the exit.

`become` does not return. It leaves behind an exit status and the files on descriptors 1 to 3. The descriptor
`MILESTONES`, which is closed before the program starts, says how far it got: nothing (setup failed), `C` (compiling),
`S` and a record (a syntax error), or `R` (the program was started). The process of a check job also talks to its
`checker` on two more descriptors.
"""

from __future__ import annotations

import _random
import ctypes
import os
import random
from collections.abc import Callable
from types import CodeType
from typing import Any

from rltf.sandbox import codec
from rltf.sandbox.jail import calls, confinement, packages, program
from rltf.sandbox.jail.protocol import CALL, CALLS, CHECK, SEED, STDIN, Part, Task, contents, read_source, read_tasks

# Saved before any program runs: a program may replace what the modules hold.
_pwrite, _exit, _close = os.pwrite, os._exit, os.close
_seed = _random.Random.seed
_WARM_UPS = 30


def become(
    task: Task,
    files: tuple[int, ...],
    max_descriptors: int,
    code: CodeType | None,
    program_filter: confinement.ProgramFilter,
    limits: program.ProcessLimits,
    cpu_s: float,
) -> int:
    """Read the job, confine this process for good, compile the program if `code` is None, run it, and exit."""
    descriptor, number, kind, source_bytes, at, payload_bytes, _ = task
    seed = int.from_bytes(os.pread(descriptor, SEED.size, 0), "little")
    source = read_source(descriptor, source_bytes) if code is None else ""
    payload = os.pread(descriptor, payload_bytes, at) if kind != STDIN else b""
    program.keep_only(files, max_descriptors)
    # What `random.seed` does with an integer, minus its Python code.
    _seed(random._inst, seed + number)
    packages.seed(seed + number)
    limits.apply(cpu_s)
    program_filter.install()
    if code is None:
        _pwrite(program.MILESTONES, b"C", 0)
        try:
            code = program.compile_program(source)
            program.remember_source(source)
        except BaseException as error:  # noqa: BLE001 - whatever the compiler raises is about the program's text
            _pwrite(program.MILESTONES, b"S" + program.syntax_record(error), 0)
            _exit(program.EXIT_SYNTAX)
    run = program.run_main if kind == STDIN else _run_of(kind, payload)
    del payload
    _pwrite(program.MILESTONES, b"R", 0)
    _close(program.MILESTONES)
    run(code)
    return 1  # only if the program tampered with what should have ended this process


def _run_of(kind: int, payload: bytes) -> Callable[[CodeType], None]:
    """What to do with the code. Everything on our side that can fail does so before the program starts."""
    if kind == CHECK:
        entry_point = payload.decode()
        return lambda code: calls.serve(code, entry_point)
    first, second = codec.decode(payload, len(payload))
    if kind == CALL:
        return lambda code: program.run_value(code, lambda namespace: _call(namespace, first, second))
    if kind == CALLS:
        return lambda code: program.run_value(code, lambda namespace: _calls(namespace, first, second))
    setup = compile(first, "<setup>", "exec", dont_inherit=True) if first else None
    expression = compile(second, "<expression>", "eval", dont_inherit=True)
    return lambda code: program.run_value(code, lambda namespace: _evaluate(namespace, setup, expression))


def _call(namespace: dict[str, Any], function: str, arguments: tuple[Any, ...]) -> Any:
    return program.find_function(namespace, function)(*arguments)


def _calls(namespace: dict[str, Any], function: str, lists: list[tuple[Any, ...]]) -> list[Any]:
    return [_call(namespace, function, arguments) for arguments in lists]


def _evaluate(namespace: dict[str, Any], setup: CodeType | None, expression: CodeType) -> Any:
    if setup is not None:
        exec(setup, namespace)
    return eval(expression, namespace)


def warm_up() -> None:
    """Run once what every program's process starts with, so that no fork has to pay for it.

    CPython writes to a function's code until it has run a few times, and every page written after a fork is copied.
    """
    sample = "def f(x):\n    return [y for y in x if y]\nf('a')\ntry:\n    1/0\nexcept Exception as e: pass"
    exec(program.compile_program(sample), {})
    with open(os.memfd_create("request"), "r+b", buffering=0) as file:
        file.write(b"".join(contents(b"pass", [Part(STDIN, b"")], 0)))
        for _ in range(_WARM_UPS):
            read_tasks(file.fileno(), 4, 1)
            program.compile_program(read_source(file.fileno(), 4))
            codec.decode(codec.encode([("a", 1)]))
            packages.seed(0)
    ctypes.get_errno()

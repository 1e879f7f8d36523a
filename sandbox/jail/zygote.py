"""The jail's first process: warm, small and single-threaded. It forks the processes in which programs run.

No byte of a program, its input or its output is ever in this process, because every later fork inherits its memory,
freed memory included. If a program has one job, the process that runs the job also reads the program. If it has
several, a loader (a fork that ends with the program) reads and compiles it once, and forks and watches a process per
job. Neither the zygote nor a loader executes a line of a program. See `protocol` for the requests and replies.
"""

from __future__ import annotations

import _socket
import fcntl
import gc
import os
import resource
import struct
import time
from types import CodeType

from rltf.sandbox.jail import confinement, job, packages, program, scratch, supervision
from rltf.sandbox.jail.protocol import (
    END,
    FAILED,
    HELLO,
    NOT_A_CHECK,
    READY,
    REQUEST,
    SEED,
    STDIN,
    Config,
    Task,
    read_source,
    read_tasks,
)
from rltf.sandbox.jail.runner import MAX_DESCRIPTORS, Reporter, Runner

# What contest programs import: loading it once saves each of them milliseconds. Not `threading`: its fork hook would
# cost every fork more than the import saves the few programs that use it.
_PRELOADED = (
    "array", "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "math", "operator", "random", "re", "string", "typing",
)  # fmt: skip
_FIRST_HIGH_DESCRIPTOR = 16
_STACK_BYTES = 64 << 20
_MAX_MESSAGE = 500
# How a loader ends: everything is done, or the program has used up its total output.
DONE, TOO_MUCH_OUTPUT = 0, 3


class Zygote:
    """Serves requests until its socket is closed."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._control = _socket.socket(fileno=_move_high(config.control))
        counter = None if config.oom_counter is None else _move_high(config.oom_counter)
        for descriptor in range(5):
            os.dup2(os.memfd_create("stream"), descriptor)
        program.prepare_streams()
        for name in _PRELOADED:
            __import__(name)
        program.adapt_library()
        if config.scratch:
            scratch.mount(config.scratch, config.scratch_bytes, config.scratch_files)
        self._limit_resources()
        confinement.forbid_new_privileges()
        self.landlock_abi = 0
        if config.use_landlock:
            self.landlock_abi = confinement.restrict_paths(list(config.readable), list(config.writable))
        self._package_bytes = self._load_packages()
        confinement.install_service_filter()
        os.chdir(config.scratch or "/")
        self._scratch = scratch.Scratch(config.scratch, self._control.fileno())
        self._reporter = Reporter(self._control, counter, self._package_bytes)
        self._runner = Runner(self._reporter, has_scratch=bool(config.scratch))
        self._scratch.clear()
        job.warm_up()
        gc.collect()
        gc.freeze()

    def _load_packages(self) -> int:
        try:
            return packages.load(dict(self._config.modules), self._config.preloaded)
        except packages.PackageError as error:
            self._control.send(FAILED + str(error).encode("utf-8", "replace")[:_MAX_MESSAGE])
            raise

    def _limit_resources(self) -> None:
        limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: MAX_DESCRIPTORS, resource.RLIMIT_MEMLOCK: 0}
        if self._config.num_processes is not None:
            limits[resource.RLIMIT_NPROC] = self._config.num_processes
        for kind, value in limits.items():
            resource.setrlimit(kind, (value, value))
        # Recursion through C code (a cached function) takes C stack; the part that is used counts as memory.
        _, hard = resource.getrlimit(resource.RLIMIT_STACK)
        stack = _STACK_BYTES if hard == resource.RLIM_INFINITY else min(hard, _STACK_BYTES)
        resource.setrlimit(resource.RLIMIT_STACK, (stack, hard))

    def serve(self) -> None:
        """Answer requests one after another."""
        self._control.send(HELLO.pack(READY, self.landlock_abi, self._package_bytes))
        while True:
            packet, ancillary, _, _ = self._control.recvmsg(64, _socket.CMSG_SPACE(8))
            if not packet:
                return
            if len(packet) == REQUEST.size:  # otherwise: the answer to a report of a loader that has ended
                self._answer(packet, *struct.unpack("ii", ancillary[0][2]))

    def _answer(self, packet: bytes, descriptor: int, stdin: int) -> None:
        num_jobs, source_bytes, kind, payload_bytes, module_bytes, cpu_s, wall_s, address_bytes = REQUEST.unpack(packet)
        self._runner.limits = program.ProcessLimits(address_bytes, self._config.output_bytes)
        cause, status, out_of_memory = supervision.SELF_ENDED, 0, False
        if num_jobs == 1:
            at = SEED.size + source_bytes
            task = Task(descriptor, 0, kind, source_bytes, at, payload_bytes, module_bytes)
            self._runner.run(task, stdin, None, cpu_s, wall_s)
            self._reporter.flush()
        else:
            os.close(stdin)
            cause, status = self._run_loader(descriptor, source_bytes, num_jobs, cpu_s, wall_s)
            out_of_memory = self._reporter.killed_for_memory()
        os.close(descriptor)
        is_clean = self._scratch.clear()
        self._control.send(b"E" + END.pack(cause, status, out_of_memory, is_clean))

    def _run_loader(
        self, descriptor: int, source_bytes: int, num_jobs: int, cpu_s: float, wall_s: float
    ) -> tuple[int, int]:
        pid = supervision.start(self._load, descriptor, source_bytes, num_jobs, cpu_s, wall_s)
        # The loader's own CPU time is the compilation, and about half a millisecond per job for watching.
        hard_wall_s = supervision.HARD_WALL_FACTOR * (self._config.program_wall_s + wall_s)
        control = self._control.fileno()
        ending = supervision.supervise(pid, cpu_s + 0.005 * num_jobs, hard_wall_s, control, has_children=True)
        return ending.cause, ending.status

    def _load(self, descriptor: int, source_bytes: int, num_jobs: int, cpu_s: float, wall_s: float) -> int:
        """The loader: compile the program, run and report every job, and return the status to exit with."""
        # The compiler's warnings go to a file that ends with the loader.
        os.dup2(os.memfd_create("stream"), 2)
        tasks = read_tasks(descriptor, source_bytes, num_jobs)
        resource.setrlimit(resource.RLIMIT_AS, self._runner.limits.address)
        code = self._compile(tasks[0])
        status = DONE if code is None else self._run_all(tasks, code, cpu_s, wall_s)
        self._reporter.flush()
        return status

    def _compile(self, task: Task) -> CodeType | None:
        """The program's code. None if it does not compile, in which case that is reported."""
        source = read_source(task.descriptor, task.source_bytes)
        try:
            code = program.compile_program(source)
        except BaseException as error:  # noqa: BLE001 - whatever the compiler raises is about the program's text
            output, errors, value, milestones = (os.memfd_create("stream") for _ in range(4))
            program.write_all(milestones, b"S" + program.syntax_record(error))
            ending = supervision.Ending(supervision.SELF_ENDED, program.EXIT_SYNTAX << 8, 0.0, 0.0, 0)
            self._reporter.add(ending, output, errors, value, milestones, NOT_A_CHECK)
            return None
        program.remember_source(source)
        return code

    def _run_all(self, tasks: list[Task], code: CodeType, cpu_s: float, wall_s: float) -> int:
        """Run the jobs until one times out, or what the program may use in all is used up."""
        config, reporter = self._config, self._reporter
        started, cpu_left = time.monotonic(), config.program_cpu_s
        last_bytes = reporter.total_bytes + config.program_output_bytes
        for task in tasks:
            if cpu_left <= 0 or time.monotonic() - started >= config.program_wall_s:
                break
            if reporter.total_bytes >= last_bytes:
                return TOO_MUCH_OUTPUT
            if reporter.is_full:
                reporter.flush_and_wait()
            stdin = os.memfd_create("stream")
            if task.kind == STDIN:
                task.copy_stdin(stdin)
            ending = self._runner.run(task, stdin, code, min(cpu_s, cpu_left), wall_s)
            cpu_left -= ending.cpu_s
            if ending.cause != supervision.SELF_ENDED or not self._scratch.clear():
                break
        return DONE


def _move_high(descriptor: int) -> int:
    """Move the file to a descriptor that no program's process uses, closed on exec."""
    moved = int(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_HIGH_DESCRIPTOR))
    os.close(descriptor)
    return moved


def main(config: Config) -> None:
    """Serve until the trusted side hangs up. A failure is written to the standard error that the jail started with."""
    log = _move_high(os.dup(2))
    try:
        Zygote(config).serve()
    except Exception as error:
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        place = f"{traceback.tb_frame.f_code.co_name}:{traceback.tb_lineno}" if traceback is not None else "?"
        os.write(log, f"{type(error).__name__}: {error} ({place})".encode())
        raise

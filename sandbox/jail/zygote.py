"""The jail's first process: warm, small, single-threaded; it forks the processes in which programs run.

No byte of a program, of its input or of what it wrote is ever in this process, since every later fork inherits what its
memory holds, freed memory included. A program with one job is read by the process that runs it. One with several gets a
loader, which reads and compiles it once, and forks and watches a process for each job. Neither the zygote nor a loader
executes a line of a program.

Requests and replies are packets on one socket. A request: `REQUEST` with two descriptors, of the program's file (see
`request`) and of its standard input, which counts where there is one job. Replies: `R` packets that hold a
`supervision.REPORT` for each job in order, with the descriptors of what its program wrote (output and value where there
are any, and what the compiler objected to), then an `E` packet. The reader answers each `R` packet of a loader with one
byte when it has read what is in it.
"""

from __future__ import annotations

import _socket
import fcntl
import gc
import os
import resource
import struct
from typing import NamedTuple

from sandbox.jail import confinement, job, loader, mounts, program, streams, supervision
from sandbox.jail.reporter import Reporter
from sandbox.jail.request import SEED, Task, read_tasks
from sandbox.jail.runner import MAX_DESCRIPTORS, Runner
from sandbox.jail.scratch import Scratch

# What programs of contests import: loading it once saves each of them milliseconds. No `threading`, whose fork hook
# would cost every fork more than the import saves the few that use it.
_PRELOADED = (
    "array", "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "math", "operator", "random", "re", "string", "typing",
)  # fmt: skip
_FIRST_HIGH_DESCRIPTOR = 16
_STACK_BYTES = 64 << 20
# The number of jobs, and the length of the source; of a single job its kind and the lengths of payload and test module;
# CPU and wall seconds of a job.
REQUEST = struct.Struct("<IQBQQdd")
# cause and wait status of the loader (0, 0 where there was none), whether it was killed for memory, and whether the
# scratch folder is clean.
END = struct.Struct("<BIBB")


class Config(NamedTuple):
    """What the trusted side tells the zygote at its start. Times in seconds; `scratch` "" and None stand for none."""

    control: int
    oom_counter: int | None
    readable: tuple[str, ...]
    writable: tuple[str, ...]
    scratch: str
    scratch_bytes: int
    scratch_files: int
    use_landlock: bool
    program_cpu_s: float
    program_wall_s: float
    program_output_bytes: int
    address_bytes: int
    output_bytes: int
    num_processes: int | None


class Zygote:
    """Serves requests until its socket is closed."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._control = _socket.socket(fileno=_move_high(config.control))
        counter = None if config.oom_counter is None else _move_high(config.oom_counter)
        for descriptor in range(5):
            os.dup2(os.memfd_create("stream"), descriptor)
        streams.prepare()
        for name in _PRELOADED:
            __import__(name)
        program.adapt_library()
        program.raise_no_limits_on_integers()
        if config.scratch:
            mounts.prepare(config.scratch, config.scratch_bytes, config.scratch_files)
        self._limit_resources()
        confinement.forbid_new_privileges()
        self.landlock_abi = 0
        if config.use_landlock:
            self.landlock_abi = confinement.restrict_paths(list(config.readable), list(config.writable))
        confinement.install_service_filter()
        os.chdir(config.scratch or "/")
        self._scratch = Scratch(config.scratch, self._control.fileno())
        self._limits = program.ProcessLimits(config.address_bytes, config.output_bytes)
        self._reporter = Reporter(self._control, counter)
        self._runner = Runner(self._reporter, self._limits, has_scratch=bool(config.scratch))
        self._scratch.clear()
        job.warm_up()
        gc.collect()
        gc.freeze()

    def _limit_resources(self) -> None:
        limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: MAX_DESCRIPTORS, resource.RLIMIT_MEMLOCK: 0}
        if self._config.num_processes is not None:
            limits[resource.RLIMIT_NPROC] = self._config.num_processes
        for kind, value in limits.items():
            resource.setrlimit(kind, (value, value))
        # Recursion through C code (a cached function) takes C stack; what is used of it counts as memory.
        _, hard = resource.getrlimit(resource.RLIMIT_STACK)
        stack = _STACK_BYTES if hard == resource.RLIM_INFINITY else min(hard, _STACK_BYTES)
        resource.setrlimit(resource.RLIMIT_STACK, (stack, hard))

    def serve(self) -> None:
        """Answer requests, one after another."""
        self._control.send(b"Z" + struct.pack("<B", self.landlock_abi))
        while True:
            packet, ancillary, _, _ = self._control.recvmsg(64, _socket.CMSG_SPACE(8))
            if not packet:
                return
            if len(packet) == REQUEST.size:  # else an answer to the report of a loader that has ended
                self._answer(packet, *struct.unpack("ii", ancillary[0][2]))

    def _answer(self, packet: bytes, descriptor: int, stdin: int) -> None:
        num_jobs, source_bytes, kind, payload_bytes, module_bytes, cpu_s, wall_s = REQUEST.unpack(packet)
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
        config, parent = self._config, os.getpid()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                confinement.die_with_parent(parent)
                # What the compiler warns of goes to a file that ends with the loader.
                os.dup2(os.memfd_create("stream"), 2)
                limits = config.program_cpu_s, config.program_wall_s, config.program_output_bytes
                budget = loader.Budget(*limits, cpu_s, wall_s)
                tasks = read_tasks(descriptor, source_bytes, num_jobs)
                status = loader.load(tasks, budget, self._limits, self._runner, self._reporter, self._scratch)
                self._reporter.flush()
            finally:
                os._exit(status)
        # Its own CPU time is the compilation, and about half a millisecond a job for watching.
        hard_wall_s = supervision.HARD_WALL_FACTOR * (config.program_wall_s + wall_s)
        control = self._control.fileno()
        ending = supervision.supervise(pid, cpu_s + 0.005 * num_jobs, hard_wall_s, control, has_children=True)
        return ending.cause, ending.status


def _move_high(descriptor: int) -> int:
    """The same file on a descriptor that no program's process uses, closed on exec."""
    moved = int(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_HIGH_DESCRIPTOR))
    os.close(descriptor)
    return moved


def main(config: Config) -> None:
    """Serve until the trusted side hangs up; what goes wrong is written to the standard error of the start."""
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

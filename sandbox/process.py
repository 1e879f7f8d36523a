"""One jail as the trusted side sees it: start it, hand it a program with its jobs, read the facts, end it.

Everything that comes out of the jail is bytes of a known layout, read here; a reply that does not fit, a deadline that
passes, or a jail that dies is a `JailFault`, never a statement about a program.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sandbox import boot, cgroups, codec, reports
from sandbox.interpreter import ZONES, find_runtime
from sandbox.jail import reporter, request, supervision, zygote
from sandbox.jobs import CallJob, CheckJob, End, ExpressionJob, Job, RunResult, StdinJob
from sandbox.limits import MIB, Limits
from sandbox.verdict import Isolation

# The zygote, a loader, and a program's output and input, on top of what the program itself may use.
_OVERHEAD_BYTES = 48 * MIB
# Address space is not memory: threads reserve stacks and allocators arenas that they never touch.
_ADDRESS_HEADROOM_BYTES = 1024 * MIB
_START_DEADLINE_S = 20.0
_GRACE_S = 5.0
_END_DEADLINE_S = 1.0
# Each file costs kernel memory beyond its contents, about a kilobyte.
_SCRATCH_FILES = 4096
_PACKET_BYTES = 1 + reporter.MAX_REPORTS * supervision.REPORT.size
_MAX_FILES = 3 * reporter.MAX_REPORTS
_MAX_LOG_BYTES = 4096
# Users that no distribution hands out (systemd's table of UIDs lists the range as unused).
_FIRST_UID, _LAST_UID = 60578, 61183


class JailFault(RuntimeError):  # noqa: N818 - the word of the design: a fault is the grader's, an error the program's
    """The jail broke, or did not start. Says nothing about a program."""


@dataclass(frozen=True, slots=True)
class JailPlan:
    """How jails of one isolation level are started."""

    level: Isolation
    limits: Limits

    @property
    def in_namespaces(self) -> bool:
        """Whether bubblewrap builds the jail."""
        return self.level in (Isolation.NAMESPACES, Isolation.NAMESPACES_CGROUP)


class Jail:
    """A running jail. Not thread-safe; `close` it, or use it as a context manager."""

    def __init__(self, plan: JailPlan) -> None:
        """Start the jail and wait until it serves. Raises `JailFault` with the reason where it cannot."""
        self._plan = plan
        self._cleanup = contextlib.ExitStack()
        self._init: int | None = None
        self.is_clean = True
        try:
            self._start()
        except (OSError, cgroups.CgroupError) as error:
            self.close()
            raise JailFault(f"the jail does not start: {error}") from error
        except BaseException:  # an interrupt too must leave no process behind; it goes on to the caller
            self.close()
            raise

    def __enter__(self) -> Jail:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self.cgroup: cgroups.Cgroup | None = None
        oom_counter = None
        if self._plan.level is Isolation.NAMESPACES_CGROUP:
            limits = self._plan.limits
            self.cgroup = cgroups.create_cgroup(limits.memory_bytes + _OVERHEAD_BYTES, limits.num_processes)
            self._cleanup.callback(self.cgroup.remove)
            oom_counter = os.open(self.cgroup.oom_file, os.O_RDONLY | os.O_CLOEXEC)
        uid = _lock_uid(self._cleanup) if os.geteuid() == 0 and self._plan.level is not Isolation.RLIMITS else None
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._cleanup.callback(self._control.close)
        self._log = os.memfd_create("sandbox-log")
        self._cleanup.callback(os.close, self._log)
        info_read, info_write = os.pipe()
        info = self._cleanup.enter_context(os.fdopen(info_read, "rb"))
        modules = _file_with(marshal.dumps((boot.bundle(), self._config(theirs.fileno(), oom_counter))))
        specification = _file_with(marshal.dumps(self._launch_specification(uid, modules, info_write)))
        inherited = [theirs.fileno(), modules, specification, info_write]
        inherited += [oom_counter] if oom_counter is not None else []
        try:
            self._process = subprocess.Popen(
                [find_runtime().executable, "-I", "-S", "-c", boot.launcher_source(), str(specification)],
                stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env={}, cwd="/",
                pass_fds=inherited, start_new_session=True,
            )  # fmt: skip
            self._cleanup.callback(self._end_process)
        finally:
            theirs.close()
            for descriptor in inherited[1:]:
                os.close(descriptor)
        hello, _ = self._receive(time.monotonic() + _START_DEADLINE_S)
        if self._plan.in_namespaces:
            self._init = os.pidfd_open(json.load(info)["child-pid"])
        info.close()
        if hello[:1] != b"Z":
            raise JailFault(f"the jail does not start: unexpected greeting {hello[:20]!r}")
        self.landlock_abi = hello[1]
        self._kills_known = 0

    def _config(self, control: int, oom_counter: int | None) -> tuple[Any, ...]:
        limits, level, runtime = self._plan.limits, self._plan.level, find_runtime()
        confined = level is not Isolation.RLIMITS
        # Outside of a mount namespace scratch would be the machine's disk: no bound on its size, so there is none.
        scratch = "/tmp" if self._plan.in_namespaces else ""
        # Without a user of its own, the limit would count every process of the real user.
        num_processes = limits.num_processes if os.geteuid() == 0 and confined else None
        return tuple(
            zygote.Config(
                control=control,
                oom_counter=oom_counter,
                readable=runtime.readable,
                writable=("/dev/null", *([scratch] if scratch else [])),
                scratch=scratch,
                scratch_bytes=limits.scratch_bytes,
                scratch_files=_SCRATCH_FILES,
                use_landlock=confined,
                program_cpu_s=limits.program_cpu_s,
                program_wall_s=limits.program_wall_s,
                program_output_bytes=limits.program_output_bytes,
                address_bytes=limits.memory_bytes + _ADDRESS_HEADROOM_BYTES,
                output_bytes=limits.output_bytes,
                num_processes=num_processes,
            )
        )

    def _launch_specification(self, uid: int | None, modules: int, info: int) -> dict[str, Any]:
        runtime = find_runtime()
        # `-s -P -B` rather than `-I`, which would ignore the fixed hash seed of the environment.
        argv = [runtime.executable, "-s", "-P", "-S", "-B", "-X", "utf8", "-c", boot.BOOT, str(modules)]
        if self._plan.in_namespaces:
            argv = [*boot.bubblewrap(runtime, info), *argv]
        return {
            "cgroup_procs": self.cgroup.procs_files if self.cgroup else [],
            "uid": uid,
            "cover": boot.covers(runtime, uid) if uid is not None else [],
            "argv": argv,
            "env": boot.ENVIRONMENT | {"PYTHONTZPATH": ZONES if self._plan.in_namespaces else runtime.zones},
        }

    def _receive(self, deadline: float) -> tuple[bytes, list[int]]:
        """The next packet with its descriptors. Raises `JailFault` where the jail is gone or silent."""
        self._control.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._control, _PACKET_BYTES, _MAX_FILES)
        except TimeoutError as error:
            raise JailFault("the jail did not answer before its deadline") from error
        except ConnectionResetError:
            packet, descriptors = b"", []
        if not packet:
            raise JailFault(f"the jail ended: {self._log_text() or 'no message'}")
        return packet, descriptors

    def _num_kills(self) -> int:
        return self.cgroup.num_kills() if self.cgroup else 0

    def _log_text(self) -> str:
        return os.pread(self._log, _MAX_LOG_BYTES, 0).decode("utf-8", "replace").strip()

    def run(
        self, source: str, jobs: Sequence[Job], seed: int = 0, cpu_s: float | None = None, wall_s: float | None = None
    ) -> Iterator[RunResult]:
        """What each job of the program `source` comes to, in order, as soon as it is known: at most a few results are
        in memory at a time. `cpu_s` and `wall_s` replace those of the limits.

        Until the last result was taken `is_clean` is False, and it stays so where the jail is of no more use. Raises
        `JailFault` where the jail broke, `codec.CodecError` where the arguments of a call job cannot be sent.
        """
        limits = self._plan.limits
        cpu_s, wall_s = cpu_s or limits.cpu_s, wall_s or limits.wall_s
        self.is_clean = False
        self._send_request(source, [_part(job) for job in jobs], seed, cpu_s, wall_s)
        budget_s = limits.program_wall_s + wall_s + 0.01 * len(jobs)
        deadline = time.monotonic() + supervision.HARD_WALL_FACTOR * budget_s + _GRACE_S
        reader = reports.Reader(jobs, source, limits)
        try:
            while True:
                packet, descriptors = self._receive(deadline)
                if packet[:1] != b"R":
                    break
                yield from reader.read(packet[1:], descriptors)
                if len(jobs) > 1:
                    self._control.send(b"A")
            cause, status, out_of_memory, is_clean = zygote.END.unpack(packet[1:])
        except (struct.error, reports.MalformedReportError) as error:
            raise JailFault(f"the jail sent a malformed reply: {error}") from error
        except (JailFault, OSError) as error:
            # Nothing but programs can use up the memory of a jail, even where it is the jail's own process that dies.
            if self._num_kills() == self._kills_known:
                raise JailFault(str(error)) from error
            yield from reader.rest(End.MEMORY)
            return
        if out_of_memory or reader.saw_kill:
            self._kills_known = self._num_kills()
        self.is_clean = bool(is_clean)
        yield from reader.unreported(cause, status, out_of_memory=bool(out_of_memory))

    def _send_request(self, source: str, parts: list[request.Part], seed: int, cpu_s: float, wall_s: float) -> None:
        text, first = source.encode("utf-8", "surrogatepass"), parts[0]
        lengths = len(text), first.kind, len(first.payload), len(first.module)
        files = [_file_with(*request.contents(text, parts, seed))]
        try:
            is_alone = len(parts) == 1 and first.kind == request.STDIN
            files.append(_file_with(first.payload if is_alone else b""))
            socket.send_fds(self._control, [zygote.REQUEST.pack(len(parts), *lengths, cpu_s, wall_s)], files)
        except OSError as error:
            raise JailFault(f"the jail ended: {self._log_text() or error}") from error
        finally:
            for descriptor in files:
                os.close(descriptor)

    def close(self) -> None:
        """End the jail and everything in it."""
        self._cleanup.close()

    def _end_process(self) -> None:
        self._control.close()  # a sound jail ends by itself now
        try:
            self._process.wait(_END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._init is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init, signal.SIGKILL)
            # Everything in its process namespace ends with it; only then can the control group go.
            select.select([self._init], [], [], _END_DEADLINE_S)
            os.close(self._init)


def _part(job: Job) -> request.Part:
    """What a request says of a job, as `jail.request` has it."""
    match job:
        case StdinJob(stdin):
            return request.Part(request.STDIN, stdin)
        case CallJob(function, arguments):
            return request.Part(request.CALL, codec.encode((function, arguments), sys.maxsize))
        case ExpressionJob(expression, setup):
            return request.Part(request.EXPRESSION, codec.encode((setup, expression), sys.maxsize))
        case CheckJob(source, entry_point):
            module = source.encode("utf-8", "surrogatepass")
            return request.Part(request.CHECK, entry_point.encode("utf-8", "surrogatepass"), module)


def _file_with(*parts: bytes) -> int:
    """Descriptor of an anonymous file with these contents, to be read from its start."""
    descriptor = os.memfd_create("sandbox-request")
    data = memoryview(b"".join(parts))
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _lock_uid(cleanup: contextlib.ExitStack) -> int:
    """A user id that no other jail on this machine uses while `cleanup` is open."""
    for uid in range(_FIRST_UID, _LAST_UID + 1):
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind(f"\0rltf-sandbox-uid-{uid}")
        except OSError:
            lock.close()
            continue
        cleanup.callback(lock.close)
        return uid
    raise JailFault(f"all user ids from {_FIRST_UID} to {_LAST_UID} are taken by other jails")

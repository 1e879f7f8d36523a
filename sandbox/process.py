"""A jail as the trusted side sees it: start it, send it a program with its jobs, read the facts, end it.

Everything that comes out of the jail is bytes of a known layout. A malformed reply, a missed deadline or a dead jail is
a `JailError`, which says nothing about a program.
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
from typing import Any

from rltf.errors import UserError
from rltf.sandbox import cgroups, codec, reports, runtime
from rltf.sandbox.jail import protocol, supervision
from rltf.sandbox.jobs import CallJob, CallsJob, CheckJob, End, ExpressionJob, Job, RunLimits, RunResult, StdinJob
from rltf.sandbox.packages import find_packages, place_in_namespaces
from rltf.sandbox.verdict import Isolation
from rltf.settings import MIB, SandboxSettings

# What a program and all its tests may write, and how many threads a program may run.
PROGRAM_OUTPUT_BYTES = 256 * MIB
_NUM_PROCESSES = 192
# The zygote, a loader, and a program's output and input, on top of what the program itself may use.
_OVERHEAD_BYTES = 48 * MIB
# Address space is not memory: threads reserve stacks, and allocators arenas, that they never touch. Packages map files.
_ADDRESS_HEADROOM_BYTES = 1024 * MIB
# What packages may use while they are imported; afterwards, only what they still take is added to the limit.
_IMPORT_BYTES = 1024 * MIB
_START_DEADLINE_S = 60.0
_GRACE_S = 5.0
_END_DEADLINE_S = 1.0
# Each file costs about a kilobyte of kernel memory beyond its contents.
_SCRATCH_FILES = 4096
_PACKET_BYTES = 1 + protocol.MAX_REPORTS * protocol.REPORT.size
_MAX_FILES = 3 * protocol.MAX_REPORTS
_MAX_LOG_BYTES = 4096
# User ids that no distribution assigns (systemd's table of UIDs lists the range as unused).
_FIRST_UID, _LAST_UID = 60578, 61183


class JailError(RuntimeError):
    """The jail broke, or did not start. Says nothing about a program."""


class Jail:
    """A running jail. Not thread-safe; `close` it, or use it as a context manager."""

    def __init__(self, level: Isolation, settings: SandboxSettings) -> None:
        """Start the jail and wait until it serves.

        Raises `JailError` with the reason if it cannot, and `UserError` if a package is missing or cannot be used.
        """
        self._level = level
        self._settings = settings
        self.limits = RunLimits(settings.cpu_s, settings.wall_s, settings.memory_bytes)
        self._in_namespaces = level in (Isolation.NAMESPACES, Isolation.NAMESPACES_CGROUP)
        self._packages = find_packages(settings.packages)
        self._runtime = runtime.find_runtime().with_packages(self._packages.paths, in_namespaces=self._in_namespaces)
        self._cleanup = contextlib.ExitStack()
        self._init: int | None = None
        self.is_clean = True
        try:
            self._start()
        except OSError as error:
            self.close()
            raise JailError(f"the jail does not start: {error}") from error
        except BaseException:  # even an interrupt must leave no process behind
            self.close()
            raise

    def __enter__(self) -> Jail:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self.cgroup: cgroups.Cgroup | None = None
        oom_counter = None
        if self._level is Isolation.NAMESPACES_CGROUP:
            memory_bytes = self._settings.memory_bytes + _OVERHEAD_BYTES
            import_bytes = _IMPORT_BYTES if self._packages.preloaded else 0
            self.cgroup = cgroups.create_cgroup(memory_bytes + import_bytes, _NUM_PROCESSES)
            self._cleanup.callback(self.cgroup.remove)
            oom_counter = os.open(self.cgroup.oom_file, os.O_RDONLY | os.O_CLOEXEC)
        uid = _lock_uid(self._cleanup) if os.geteuid() == 0 and self._level is not Isolation.RLIMITS else None
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._cleanup.callback(self._control.close)
        self._log = os.memfd_create("sandbox-log")
        self._cleanup.callback(os.close, self._log)
        info_read, info_write = os.pipe()
        info = self._cleanup.enter_context(os.fdopen(info_read, "rb"))
        modules = _file_with(marshal.dumps((runtime.bundle(), self._config(theirs.fileno(), oom_counter))))
        specification = _file_with(marshal.dumps(self._launch_specification(uid, modules, info_write)))
        inherited = [theirs.fileno(), modules, specification, info_write]
        inherited += [oom_counter] if oom_counter is not None else []
        try:
            self._process = subprocess.Popen(
                [self._runtime.executable, "-I", "-S", "-c", runtime.launcher_source(), str(specification)],
                stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env={}, cwd="/",
                pass_fds=inherited, start_new_session=True,
            )  # fmt: skip
            self._cleanup.callback(self._end_process)
        finally:
            theirs.close()
            for descriptor in inherited[1:]:
                os.close(descriptor)
        hello, _ = self._receive(time.monotonic() + _START_DEADLINE_S)
        if self._in_namespaces:
            self._init = os.pidfd_open(json.load(info)["child-pid"])
        info.close()
        if hello[:1] == protocol.FAILED:
            raise UserError(f"sandbox.packages: {hello[1:].decode('utf-8', 'replace')}; remove it")
        if hello[:1] != protocol.READY or len(hello) != protocol.HELLO.size:
            raise JailError(f"the jail does not start: unexpected greeting {hello[:20]!r}")
        _, self.landlock_abi, package_bytes = protocol.HELLO.unpack(hello)
        if self.cgroup is not None:
            self.cgroup.limit_memory(self._settings.memory_bytes + _OVERHEAD_BYTES + package_bytes)
        self._kills_known = 0

    def _config(self, control: int, oom_counter: int | None) -> tuple[Any, ...]:
        settings = self._settings
        confined = self._level is not Isolation.RLIMITS
        # Outside a mount namespace there is no scratch folder: it would be the machine's disk, without a limit on size.
        scratch = "/tmp" if self._in_namespaces else ""
        # If the jail has no user of its own, the limit would count every process of the real user.
        num_processes = _NUM_PROCESSES if os.geteuid() == 0 and confined else None
        place = place_in_namespaces if self._in_namespaces else str
        return tuple(
            protocol.Config(
                control=control,
                oom_counter=oom_counter,
                readable=self._runtime.readable,
                writable=("/dev/null", *([scratch] if scratch else [])),
                scratch=scratch,
                scratch_bytes=settings.scratch_bytes,
                scratch_files=_SCRATCH_FILES,
                use_landlock=confined,
                program_cpu_s=settings.program_cpu_s,
                program_wall_s=settings.program_wall_s,
                program_output_bytes=PROGRAM_OUTPUT_BYTES,
                output_bytes=settings.output_bytes,
                num_processes=num_processes,
                modules=tuple((name, place(path)) for name, path in self._packages.modules.items()),
                preloaded=self._packages.preloaded,
            )
        )

    def _launch_specification(self, uid: int | None, modules: int, info: int) -> dict[str, Any]:
        found = self._runtime
        # Not `-I`, which would ignore the fixed hash seed in the environment.
        argv = [found.executable, "-s", "-P", "-S", "-B", "-X", "utf8", "-c", runtime.BOOT, str(modules)]
        if self._in_namespaces:
            argv = [*runtime.bubblewrap(found, info), *argv]
        return {
            "cgroup_procs": self.cgroup.procs_files if self.cgroup else [],
            "uid": uid,
            "cover": runtime.covers(found, uid) if uid is not None else [],
            "argv": argv,
            "env": runtime.ENVIRONMENT | {"PYTHONTZPATH": runtime.ZONES if self._in_namespaces else found.zones},
        }

    def _receive(self, deadline: float) -> tuple[bytes, list[int]]:
        """The next packet with its descriptors. Raises `JailError` if the jail is gone or silent."""
        self._control.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._control, _PACKET_BYTES, _MAX_FILES)
        except TimeoutError as error:
            raise JailError("the jail did not answer before its deadline") from error
        except ConnectionResetError:
            packet, descriptors = b"", []
        if not packet:
            raise JailError(f"the jail ended: {self._log_text() or 'no message'}")
        return packet, descriptors

    def _num_kills(self) -> int:
        return self.cgroup.num_kills() if self.cgroup else 0

    def _log_text(self) -> str:
        return os.pread(self._log, _MAX_LOG_BYTES, 0).decode("utf-8", "replace").strip()

    def run(
        self, source: str, jobs: Sequence[Job], seed: int = 0, limits: RunLimits | None = None
    ) -> Iterator[RunResult]:
        """Yield the result of each job of the program `source` in order, holding at most a few in memory at a time.

        `limits` replace those in the settings; they can only lower the memory. `is_clean` is False until the last
        result is taken, and stays False if the jail can no longer be used. Raises `JailError` if the jail breaks, and
        `codec.CodecError` if the arguments of a call job cannot be sent.
        """
        settings = self._settings
        limits = limits or self.limits
        self.is_clean = False
        self._send_request(source, [_part(job) for job in jobs], seed, limits)
        budget_s = settings.program_wall_s + limits.wall_s + 0.01 * len(jobs)
        deadline = time.monotonic() + supervision.HARD_WALL_FACTOR * budget_s + _GRACE_S
        reader = reports.Reader(jobs, source, settings.output_bytes, limits.memory_bytes)
        try:
            while True:
                packet, descriptors = self._receive(deadline)
                if packet[:1] != b"R":
                    break
                yield from reader.read(packet[1:], descriptors)
                if len(jobs) > 1:
                    self._control.send(b"A")
            cause, status, out_of_memory, is_clean = protocol.END.unpack(packet[1:])
        except (struct.error, reports.MalformedReportError) as error:
            raise JailError(f"the jail sent a malformed reply: {error}") from error
        except (JailError, OSError) as error:
            # Only programs can use up a jail's memory, even if it is one of the jail's own processes that dies.
            if self._num_kills() == self._kills_known:
                raise JailError(str(error)) from error
            yield from reader.rest(End.MEMORY)
            return
        if out_of_memory or reader.saw_kill:
            self._kills_known = self._num_kills()
        self.is_clean = bool(is_clean)
        yield from reader.unreported(cause, status, out_of_memory=bool(out_of_memory))

    def _send_request(self, source: str, parts: list[protocol.Part], seed: int, limits: RunLimits) -> None:
        text, first = source.encode("utf-8", "surrogatepass"), parts[0]
        lengths = len(text), first.kind, len(first.payload), len(first.module)
        files = [_file_with(*protocol.contents(text, parts, seed))]
        try:
            is_alone = len(parts) == 1 and first.kind == protocol.STDIN
            files.append(_file_with(first.payload if is_alone else b""))
            address_bytes = limits.memory_bytes + _ADDRESS_HEADROOM_BYTES
            request = protocol.REQUEST.pack(len(parts), *lengths, limits.cpu_s, limits.wall_s, address_bytes)
            socket.send_fds(self._control, [request], files)
        except OSError as error:
            raise JailError(f"the jail ended: {self._log_text() or error}") from error
        finally:
            for descriptor in files:
                os.close(descriptor)

    def close(self) -> None:
        """End the jail and everything in it."""
        self._cleanup.close()

    def _end_process(self) -> None:
        self._control.close()  # a healthy jail now ends by itself
        try:
            self._process.wait(_END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._init is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init, signal.SIGKILL)
            # Everything in its process namespace ends with it. The control group can be removed only after that.
            select.select([self._init], [], [], _END_DEADLINE_S)
            os.close(self._init)


def _part(job: Job) -> protocol.Part:
    """The job as a request describes it."""
    match job:
        case StdinJob(stdin):
            return protocol.Part(protocol.STDIN, stdin)
        case CallJob(function, arguments):
            return protocol.Part(protocol.CALL, codec.encode((function, arguments), sys.maxsize))
        case CallsJob(function, lists):
            return protocol.Part(protocol.CALLS, codec.encode((function, lists), sys.maxsize))
        case ExpressionJob(expression, setup):
            return protocol.Part(protocol.EXPRESSION, codec.encode((setup, expression), sys.maxsize))
        case CheckJob(source, entry_point):
            module = source.encode("utf-8", "surrogatepass")
            return protocol.Part(protocol.CHECK, entry_point.encode("utf-8", "surrogatepass"), module)


def _file_with(*parts: bytes) -> int:
    """The descriptor of an anonymous file with these contents, positioned at its start."""
    descriptor = os.memfd_create("sandbox-request")
    data = memoryview(b"".join(parts))
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _lock_uid(cleanup: contextlib.ExitStack) -> int:
    """A user id that no other jail on this machine uses until `cleanup` is closed."""
    for uid in range(_FIRST_UID, _LAST_UID + 1):
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind(f"\0rltf-sandbox-uid-{uid}")
        except OSError:
            lock.close()
            continue
        cleanup.callback(lock.close)
        return uid
    raise JailError(f"other jails have taken all user ids from {_FIRST_UID} to {_LAST_UID}")

"""Starting and watching a child process: its clocks and its end. Nothing here trusts the child."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import NamedTuple

from rltf.sandbox.jail import confinement

SELF_ENDED, CPU_TIMEOUT, WALL_TIMEOUT = range(3)
_TICK_S = 0.1
# A program past its wall limit that still uses at least this share of a core is waiting for a core, not sleeping.
_AWAKE_SHARE = 0.002
_AWAKE_WINDOW_S = 1.0
HARD_WALL_FACTOR = 3.0
_LAST_FACTOR = 10.0
# A process closes its descriptors a little before it counts as ended.
_EXIT_S = 0.1
_SIGKILL = 9


class Ending(NamedTuple):
    """How a child ended: who ended it, its wait status, and what it used. `partner_peak_bytes` is the checker's."""

    cause: int
    status: int
    cpu_s: float
    wall_s: float
    peak_bytes: int
    partner_peak_bytes: int = 0


def start(run: Callable[..., int], *arguments: object) -> int:
    """Fork a child and return its id. It ends with its parent, or with the exit status `run(*arguments)` returns."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            confinement.die_with_parent(parent)
            status = run(*arguments)
        finally:
            os._exit(status)
    return pid


def supervise(
    pid: int, cpu_s: float, wall_s: float, control: int, partner: int | None = None, *, has_children: bool = False
) -> Ending:
    """Wait for the child `pid`. Kill it at `cpu_s` of CPU time, or at `wall_s` if it sleeps (see `_Patience`).

    CPU time comes from the kernel's precise clock of the process, not from ticks. With a `partner`, a child that `pid`
    waits for, the larger of the two times counts. With `has_children`, the kernel's final account also includes their
    time, so it is ignored. If `control` hangs up, nobody is left to report to, and this process exits.
    """
    started = time.monotonic()
    # CPUCLOCK_SCHED for the whole process, see clock_getcpuclockid(3)
    clocks = [(~process << 3) | 2 for process in (pid, partner) if process is not None]
    descriptor = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    poller.register(control, 0)
    cause, used, patience = SELF_ENDED, 0.0, _Patience(wall_s)
    while True:
        wait_s = min(cpu_s - used, _TICK_S)
        before = time.monotonic()
        events = poller.poll(wait_s * 1000 + 1)
        if any(ready == control for ready, _ in events):
            os.kill(pid, _SIGKILL)
            os._exit(0)
        if events:
            break
        used = max(map(time.clock_gettime, clocks))
        if used >= cpu_s:
            cause = CPU_TIMEOUT
        elif patience.is_over(wait_s, time.monotonic() - before, used):
            cause = WALL_TIMEOUT
        if cause != SELF_ENDED:
            os.kill(pid, _SIGKILL)
            break
    os.close(descriptor)
    _, status, usage = os.wait4(pid, 0)
    cpu = usage.ru_utime + usage.ru_stime
    if cause == SELF_ENDED and cpu >= cpu_s and not has_children:
        cause = CPU_TIMEOUT
    return Ending(cause, status, cpu, time.monotonic() - started, usage.ru_maxrss * 1024)


class _Patience:
    """Decides when a process has slept for too long, on a machine that may be too busy to let anybody run.

    Only calm time counts: if a wait took longer than requested, only the requested time is added, because the process
    probably stood still as long as we did. After `wall_s` of calm time, a sleeping process is late. One that uses some
    of a core is waiting for more of it, and gets `HARD_WALL_FACTOR` times as long.
    """

    def __init__(self, wall_s: float) -> None:
        self._wall_s = wall_s
        self._window_s = min(_AWAKE_WINDOW_S, wall_s)
        self._calm = self._elapsed = 0.0
        self._mark = (0.0, 0.0)
        self._sleeps = False

    def is_over(self, asked_s: float, took_s: float, used_s: float) -> bool:
        """Whether the process is late after this wait. `used_s` is its CPU time so far."""
        self._elapsed += took_s
        self._calm += min(took_s, asked_s + 0.001)
        calm, used = self._calm - self._mark[0], used_s - self._mark[1]
        if calm >= self._window_s:
            self._sleeps = used < _AWAKE_SHARE * calm
            self._mark = (self._calm, used_s)
        if self._calm >= self._wall_s and self._sleeps:
            return True
        return self._calm >= HARD_WALL_FACTOR * self._wall_s or self._elapsed >= _LAST_FACTOR * self._wall_s


def end_partner(pid: int, watched: Ending, cpu_s: float, *, is_done: bool) -> Ending:
    """End the child `pid`, whose partner ended as `watched`. `is_done` means that it is only waiting for more work.

    If its partner found it gone but it has not ended, it merely closed its end of the pipe, and its status says
    nothing.
    """
    descriptor = os.pidfd_open(pid)
    has_ended = not is_done and bool(select.select([descriptor], [], [], _EXIT_S)[0])
    os.close(descriptor)
    os.kill(pid, _SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    cpu = usage.ru_utime + usage.ru_stime
    cause = CPU_TIMEOUT if watched.cause == SELF_ENDED and cpu >= cpu_s else watched.cause
    used = cpu + watched.cpu_s
    return Ending(cause, status if has_ended else 0, used, watched.wall_s, usage.ru_maxrss * 1024, watched.peak_bytes)


class OomCounter:
    """The kernel's count of processes killed for memory in our cgroup, from a descriptor opened outside the jail."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._seen = self._read()

    def _read(self) -> int:
        if self._descriptor is None:
            return 0
        for line in os.pread(self._descriptor, 4096, 0).splitlines():
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
        return 0

    def rose(self) -> bool:
        """Whether a process was killed since the last call."""
        count = self._read()
        rose, self._seen = count > self._seen, count
        return rose

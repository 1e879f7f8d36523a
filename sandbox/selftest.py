"""Which isolation this machine really gives: hostile programs run in a jail, and each of them must be stopped.

No configuration is trusted. `find_level` starts a jail at each level, best first, and returns the first level at which
every canary dies as it should, along with the reason why each better level does not hold.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from rltf.sandbox.jobs import End, RunResult, StdinJob
from rltf.sandbox.process import Jail, JailError
from rltf.sandbox.verdict import Isolation
from rltf.settings import MIB, SandboxSettings

LEVELS = tuple(Isolation)
_CPU_S, _WALL_S, _PATIENCE_S = 0.05, 0.05, 30.0
_TIMES = ("cpu_s", "wall_s", "program_cpu_s", "program_wall_s")
_DEFAULT_TIMES = {name: SandboxSettings.model_fields[name].default for name in _TIMES}
_ENVIRONMENT = (
    "import os; print(sorted(set(os.environ) - "
    "{'HOME', 'LANG', 'LC_CTYPE', 'MALLOC_ARENA_MAX', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'PATH', 'PWD', "
    "'PYTHONHASHSEED', 'PYTHONTZPATH', 'TZ'}))"
)
_OOM_HEADROOM_BYTES = 16 * MIB
CONFINED = frozenset(LEVELS) - {Isolation.RLIMITS}
_NAMESPACES = frozenset({Isolation.NAMESPACES, Isolation.NAMESPACES_CGROUP})
_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_USERNS_CLONE = Path("/proc/sys/kernel/unprivileged_userns_clone")


@dataclass(frozen=True, slots=True)
class Canary:
    """A program and the ways in which it may end. The `quick` ones run every time a jail starts."""

    name: str
    source: str
    ends: tuple[End, ...] = (End.EXCEPTION,)
    levels: frozenset[Isolation] = frozenset(LEVELS)
    stdout: bytes | None = None
    quick: bool = False


CANARIES = (
    Canary("an honest program", "print(int(input()) ** 2)", (End.OK,), stdout=b"25\n", quick=True),
    # On a machine so busy that it never gets its CPU time, it must still end.
    Canary("processor time", "while True: pass", (End.CPU_TIMEOUT, End.WALL_TIMEOUT)),
    Canary("waiting", "import time; time.sleep(60)", (End.WALL_TIMEOUT,)),
    Canary("address space", "bytearray(10**13)", (End.MEMORY,)),
    Canary("output", "while True: print('x' * 100000)", (End.OUTPUT,)),
    Canary("processes", "import os; os.fork()", quick=True),
    Canary("other programs", "import os; os.execv('/bin/sh', ['sh'])"),
    Canary("the supervisor", "import os; os.kill(os.getppid(), 9)", quick=True),
    Canary("limits", "import resource as r; r.setrlimit(r.RLIMIT_CPU, (1000, 1000))"),
    Canary("network", "import socket; socket.socket()", quick=True),
    Canary("virtual machine sockets", "import socket; socket.socket(40, 1)"),
    Canary(
        "shared memory", "import ctypes; print(ctypes.CDLL(None).shmget(1, 4096, 0o1600))", (End.OK,), stdout=b"-1\n"
    ),
    Canary("secrets of the environment", _ENVIRONMENT, (End.OK,), stdout=b"[]\n"),
    Canary("files of the machine", "print(open('/etc/passwd').read())", levels=CONFINED, quick=True),
    Canary("the interpreter's files", "import bisect; open(bisect.__file__, 'a')", levels=CONFINED),
    Canary("process table", "import os; os.listdir('/proc')", levels=CONFINED),
    Canary("root directory", "import os; os.mkdir('/left')", levels=CONFINED),
    Canary("a file left behind", "open('/tmp/left', 'w').write('x'); print(1)", (End.OK,), _NAMESPACES, b"1\n"),
    Canary("a file of the program before", "open('/tmp/left')", levels=_NAMESPACES),
    Canary("packages of the machine", "import sys; print('site' in sys.modules)", (End.OK,), stdout=b"False\n"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The level that holds (None: not even processes can be limited), and why each better one does not."""

    level: Isolation | None
    reasons: dict[Isolation, str] = field(default_factory=dict)


def find_level(settings: SandboxSettings) -> Finding:
    """The best level that holds on this machine. Runs every canary once per process, in about a second at most.

    Time limits make no difference: they never change what a jail keeps out.
    """
    return measured_level(settings.model_copy(update=_DEFAULT_TIMES))


@cache
def measured_level(settings: SandboxSettings) -> Finding:
    """What `find_level` remembers, for settings with default time limits."""
    reasons: dict[Isolation, str] = {}
    for level in LEVELS:
        try:
            with Jail(level, settings) as jail:
                check(jail, level)
        except JailError as error:
            reasons[level] = str(error)
        else:
            return Finding(level, reasons)
    return Finding(None, reasons)


def check(jail: Jail, level: Isolation, *, quick: bool = False) -> None:
    """Run the canaries of `level` in `jail`. Raises `JailError` that names the first one that was not stopped."""
    if level is Isolation.LANDLOCK and jail.landlock_abi == 0:
        raise JailError("the kernel has no Landlock (it needs Linux 5.13 or later, and may be switched off at boot)")
    for canary in CANARIES:
        if level in canary.levels and (canary.quick or not quick):
            _check_one(jail, canary)
    if level is Isolation.NAMESPACES_CGROUP and not quick:
        _check_memory(jail)


def _check_one(jail: Jail, canary: Canary) -> None:
    # Short limits only for canaries that must run into them: no other may hit one, however busy the machine is.
    sleeps = canary.ends == (End.WALL_TIMEOUT,)
    loops = End.CPU_TIMEOUT in canary.ends
    limits = replace(
        jail.limits, cpu_s=_CPU_S if loops else jail.limits.cpu_s, wall_s=_WALL_S if sleeps else _PATIENCE_S
    )
    (result,) = jail.run(canary.source, [StdinJob(b"5\n")], limits=limits)
    _expect(canary.name, result, lambda: result.end in canary.ends and canary.stdout in (None, result.stdout))


def _check_memory(jail: Jail) -> None:
    """Whether the kernel kills a process that exceeds the control group's memory, and says so."""
    assert jail.cgroup is not None
    with jail.cgroup.lowered(_OOM_HEADROOM_BYTES):
        (result,) = jail.run("b = bytearray(64 << 20)", [StdinJob(b"")])
    _expect("memory", result, lambda: result.end is End.MEMORY and result.signal is not None)


def _expect(name: str, result: RunResult, holds: Callable[[], bool]) -> None:
    if not holds():
        error = f" ({result.error.type}: {result.error.message})" if result.error else ""
        output = f", output {result.stdout[:80]!r}" if result.stdout else ""
        raise JailError(f"the self-test `{name}` ended with {result.end.value}{error}{output}")


def refusal(finding: Finding, min_isolation: Isolation) -> str:
    """The message for a machine that gives less than `min_isolation`: what it gives, why, and what to do."""
    found = finding.level.value if finding.level else "none"
    lines = [f"isolation level `{min_isolation.value}` is required, this machine gives `{found}`."]
    for level in LEVELS[: LEVELS.index(min_isolation) + 1]:
        if reason := finding.reasons.get(level):
            lines.append(f"  {level.value}: {reason}\n    fix: {fix(level, reason)}")
    lines.append("`python -m sandbox doctor` says more. To accept less, lower `sandbox.min_isolation`.")
    return "\n".join(lines)


def fix(level: Isolation, reason: str) -> str:
    """One sentence of advice on the reason that the self-test gave."""
    if "bwrap" in reason and "not installed" in reason:
        return "apt-get install bubblewrap, or your distribution's package of that name"
    if "cgroup" in reason or "control group" in reason:
        return (
            "run outside a container as root, or under `systemd-run --user --scope -p Delegate=yes`, or mount the "
            "container's cgroup writable; `namespaces` is enough for training"
        )
    if level in _NAMESPACES:
        return _namespaces_fix()
    if level is Isolation.LANDLOCK:
        if "ermission" in reason:
            return "install Python where every user can read it, outside a private home folder"
        return "use a kernel from 5.13 on with `landlock` among its `lsm=` boot parameters"
    return "see docs/sandbox.md"


def _namespaces_fix() -> str:
    if _is_set(_APPARMOR, "1"):
        return (
            "AppArmor forbids user namespaces to ordinary programs: give bwrap its profile `bwrap-userns-restrict` "
            "(package `apparmor-profiles`), or sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if _is_set(_USERNS_CLONE, "0"):
        return "sysctl kernel.unprivileged_userns_clone=1"
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists() or "KUBERNETES_SERVICE_HOST" in os.environ:
        return (
            "start the container with profiles that allow user namespaces and mounts in them (Docker: `--security-opt "
            "seccomp=unconfined --security-opt apparmor=unconfined`; see docs/sandbox.md), or require only `landlock`"
        )
    return "allow unprivileged user namespaces (sysctl user.max_user_namespaces above 0), or require only `landlock`"


def _is_set(path: Path, value: str) -> bool:
    return path.exists() and path.read_text().strip() == value

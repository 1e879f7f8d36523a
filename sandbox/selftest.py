"""Which isolation this machine really gives: hostile programs are run in a jail, and each must come to nothing.

No configuration is believed. `find_level` starts jails from the best level down and returns the first whose canaries
all died as they should, with the reason why each better one did not hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from sandbox.jobs import End, RunResult, StdinJob
from sandbox.limits import MIB, Limits
from sandbox.process import Jail, JailFault, JailPlan
from sandbox.verdict import Isolation

LEVELS = tuple(Isolation)
_CPU_S, _WALL_S, _PATIENCE_S = 0.05, 0.05, 30.0
_ENVIRONMENT = (
    "import os; print(sorted(set(os.environ) - "
    "{'HOME', 'LANG', 'MALLOC_ARENA_MAX', 'PATH', 'PWD', 'PYTHONHASHSEED', 'PYTHONTZPATH', 'TZ', 'LC_CTYPE'}))"
)
_OOM_HEADROOM_BYTES = 16 * MIB
CONFINED = frozenset(LEVELS) - {Isolation.RLIMITS}
_NAMESPACES = frozenset({Isolation.NAMESPACES, Isolation.NAMESPACES_CGROUP})


@dataclass(frozen=True, slots=True)
class Canary:
    """A program and the ends that are right for it; `quick` ones are run at every start of a jail."""

    name: str
    source: str
    ends: tuple[End, ...] = (End.EXCEPTION,)
    levels: frozenset[Isolation] = frozenset(LEVELS)
    stdout: bytes | None = None
    quick: bool = False


CANARIES = (
    Canary("an honest program", "print(int(input()) ** 2)", (End.OK,), stdout=b"25\n", quick=True),
    # On a machine so busy that it never gets its CPU time, it must end all the same.
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


@cache
def find_level(limits: Limits) -> Finding:
    """The best level that holds on this machine. Runs every canary once per process; takes about a second at most."""
    reasons: dict[Isolation, str] = {}
    for level in LEVELS:
        try:
            with Jail(JailPlan(level, limits)) as jail:
                check(jail, level)
        except JailFault as fault:
            reasons[level] = str(fault)
        else:
            return Finding(level, reasons)
    return Finding(None, reasons)


def check(jail: Jail, level: Isolation, *, quick: bool = False) -> None:
    """Run the canaries of `level` in `jail`. Raises `JailFault` that names the first one that was not stopped."""
    if level is not Isolation.RLIMITS and level not in _NAMESPACES and jail.landlock_abi == 0:
        raise JailFault("the kernel has no Landlock (it came with Linux 5.13 and may be switched off at boot)")
    for canary in CANARIES:
        if level in canary.levels and (canary.quick or not quick):
            _check_one(jail, canary)
    if level is Isolation.NAMESPACES_CGROUP and not quick:
        _check_memory(jail)


def _check_one(jail: Jail, canary: Canary) -> None:
    # Only those that must not end by themselves get short limits: however busy the machine is, no other may meet one.
    sleeps = canary.ends == (End.WALL_TIMEOUT,)
    loops = End.CPU_TIMEOUT in canary.ends
    (result,) = jail.run(
        canary.source,
        [StdinJob(b"5\n")],
        cpu_s=_CPU_S if loops else None,
        wall_s=_WALL_S if sleeps else _PATIENCE_S,
    )
    _expect(canary.name, result, lambda: result.end in canary.ends and canary.stdout in (None, result.stdout))


def _check_memory(jail: Jail) -> None:
    """Whether the kernel kills what goes beyond the control group's memory, and says so."""
    assert jail.cgroup is not None
    with jail.cgroup.lowered(_OOM_HEADROOM_BYTES):
        (result,) = jail.run("b = bytearray(64 << 20)", [StdinJob(b"")])
    _expect("memory", result, lambda: result.end is End.MEMORY and result.signal is not None)


def _expect(name: str, result: RunResult, holds: Callable[[], bool]) -> None:
    if not holds():
        error = f" ({result.error.type}: {result.error.message})" if result.error else ""
        output = f", output {result.stdout[:80]!r}" if result.stdout else ""
        raise JailFault(f"the self-test `{name}` ended with {result.end.value}{error}{output}")

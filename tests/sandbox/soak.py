"""Grades thousands of programs in one sandbox, hostile ones shuffled among honest ones, and then in other orders.

    python -m tests.sandbox.soak [--programs N] [--seed S]

Prints one JSON object per case: the soak, each order of the corpus, and what is left after closing. The exit status is
1 if a verdict was wrong or depended on what ran before, if anything grew, or if anything was left behind. The hostile
programs come from the threat suite (tests/sandbox/threats.py).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rltf.problems.types import AssertTest, CallTest, Problem, StdinTest
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation, Outcome, Verdict
from rltf.settings import SandboxSettings
from tests.sandbox import threats

LIMITS = SandboxSettings(cpu_s=0.6, wall_s=2.0, program_wall_s=20.0, memory_bytes=160 << 20)
HOSTILE_SHARE = 0.2
NUM_MEASUREMENTS = 10
SLACK_BYTES = 8 << 20
# The kernel memory of an idle jail (page tables, entries of deleted files) varies.
CGROUP_SLACK_BYTES = 24 << 20
_CGROUPS = Path("/sys/fs/cgroup")
_SHARED_FOLDERS = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
_JAIL_UIDS = range(60578, 61184)  # the range that `sandbox.process` uses
_STDIN = Problem("stdin", "soak", "", tuple(StdinTest(f"{n}\n", f"{n * n}\n") for n in (5, 6, 7)))
_ONE = Problem("one", "soak", "", (StdinTest("5\n", "25\n"),))
_CALL = Problem("call", "soak", "", (CallTest("f", (5,), 25),))
_ASSERT = Problem("assert", "soak", "", (AssertTest("assert f(5) == 25"), AssertTest("assert f(6) == set([36]).pop()")))
_HONEST = (
    (_STDIN, "print(int(input()) ** 2)", Outcome.PASSED),
    (_STDIN, "import sys\nfor line in sys.stdin: print(int(line) ** 2)", Outcome.PASSED),
    (_STDIN, "x = [bytearray(1 << 20) for _ in range(50)]\nprint(int(input()) ** 2)", Outcome.PASSED),
    (_STDIN, "print(sum(int(input()) for _ in range(1)) * 5)", Outcome.FAILED),
    (_STDIN, "print(int(input()) ** 2)\nraise ValueError('late')", Outcome.RUNTIME_ERROR),
    (_STDIN, "print(int(input()) ** 2", Outcome.SYNTAX_ERROR),
    (_CALL, "class Solution:\n  def f(self, n): return n * n", Outcome.PASSED),
    (_ASSERT, "def f(n): return n * n", Outcome.PASSED),
    (_ASSERT, "def f(n): return 25", Outcome.FAILED),
)


@dataclass(frozen=True, slots=True)
class Case:
    """A program with its acceptable outcomes. `name` is empty for honest programs."""

    problem: Problem
    name: str
    program: str
    right: tuple[Outcome, ...]

    @property
    def label(self) -> str:
        """Its name in a report."""
        return f"{self.problem.task_id}: {self.name or repr(self.program)}"


LOUDEST = Case(_STDIN, "much output, but not too much", "print('x' * 7_000_000)", (Outcome.FAILED,))
HOSTILE = (
    LOUDEST,
    *(Case(_ONE, threat.name, threat.source, threat.outcomes) for threat in threats.STDIN),
    *(Case(_CALL, threat.name, threat.source, threat.outcomes) for threat in threats.CALLS),
)
HONEST = tuple(Case(problem, "", program, (outcome,)) for problem, program, outcome in _HONEST)


@dataclass(frozen=True, slots=True)
class Resources:
    """What must not grow while a sandbox is idle: in this process (`parent`), in its jail, and in the jail's group."""

    descriptors: int
    processes: int
    parent_bytes: int
    jail_bytes: int
    cgroup_bytes: int


@dataclass(slots=True)
class Verdicts:
    """Compares verdicts with the right outcomes, and with earlier verdicts on the same programs."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    _first: dict[Case, tuple[object, ...]] = field(default_factory=dict)

    def add(self, case: Case, verdict: Verdict) -> None:
        """Record one verdict."""
        self.outcomes[verdict.outcome] += 1
        if verdict.outcome not in case.right:
            self.wrong.append(f"{case.label}: {verdict.outcome}")
        if len(case.right) > 1:
            return  # which of its right outcomes such a program comes to depends on the moment
        found: tuple[object, ...] = (verdict.outcome, verdict.tests)
        if verdict.outcome in (Outcome.RUNTIME_ERROR, Outcome.SYNTAX_ERROR) and verdict.error is not None:
            found += (verdict.error.type, verdict.error.line)
        before = self._first.setdefault(case, found)
        if before != found:
            self.changed.append(f"{case.label}: {_words(before)}, then {_words(found)}")


@dataclass(frozen=True, slots=True)
class SoakReport:
    """The result of a soak. `wrong` and `changed` name the first few programs with a wrong or a different verdict."""

    num_programs: int
    num_hostile: int
    num_wrong: int
    wrong: tuple[str, ...]
    num_changed: int
    changed: tuple[str, ...]
    outcomes: dict[str, int]
    num_restarts: int
    early: Resources
    late: Resources
    parent_peak_bytes: int
    isolation: str
    seconds: float

    @property
    def grew(self) -> bool:
        """Whether anything is left over at the end: descriptors, processes, or too much memory."""
        early, late = self.early, self.late
        return (
            late.descriptors > early.descriptors
            or late.processes > early.processes
            or late.parent_bytes > early.parent_bytes + SLACK_BYTES
            or late.jail_bytes > early.jail_bytes + SLACK_BYTES
            or late.cgroup_bytes > early.cgroup_bytes + CGROUP_SLACK_BYTES
        )

    @property
    def is_sound(self) -> bool:
        return not (self.num_wrong or self.num_changed or self.grew)


@dataclass(frozen=True, slots=True)
class OrderReport:
    """The corpus in one order, each program once. `changed` compares with all earlier orders."""

    order: str
    num_programs: int
    wrong: tuple[str, ...]
    changed: tuple[str, ...]
    seconds: float

    @property
    def is_sound(self) -> bool:
        return not (self.wrong or self.changed)


@dataclass(slots=True)
class Remains:
    """What exists after closing that did not exist before opening."""

    descriptors: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)
    cgroups: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    ipc: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not any(getattr(self, kind.name) for kind in fields(self))


def soak(num_programs: int, seed: int = 0) -> SoakReport:
    """Grade `num_programs` programs in one sandbox, `HOSTILE_SHARE` of them hostile.

    What it holds is measured ten times; the second to fourth time is `early`, since a process fills up at first. The
    program with the largest outputs comes before all: a heap keeps the size that it once had.
    """
    verdicts, measured, num_hostile = Verdicts(), list[Resources](), 0
    started = time.monotonic()
    with Sandbox(LIMITS, min_isolation=Isolation.LANDLOCK) as sandbox:
        verdicts.add(LOUDEST, sandbox.grade(LOUDEST.problem, LOUDEST.program, "0"))
        for number, case in enumerate(_drawn(num_programs, seed), start=1):
            verdicts.add(case, sandbox.grade(case.problem, case.program, str(number)))
            num_hostile += len(case.name) > 0
            if number * NUM_MEASUREMENTS // num_programs > len(measured):
                measured.append(measure(sandbox))
        return SoakReport(
            num_programs=num_programs,
            num_hostile=num_hostile,
            num_wrong=len(verdicts.wrong),
            wrong=tuple(verdicts.wrong[:10]),
            num_changed=len(verdicts.changed),
            changed=tuple(verdicts.changed[:10]),
            outcomes=dict(verdicts.outcomes),
            num_restarts=sandbox.num_restarts,
            early=_median(measured[1:4]),
            late=_median(measured[-3:]),
            parent_peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
            isolation=sandbox.isolation.value,
            seconds=round(time.monotonic() - started, 1),
        )


def orders(num_programs: int | None = None, seed: int = 0) -> Iterator[OrderReport]:
    """Grade the corpus (or part of it) forward, backward and shuffled, each time in a sandbox of its own."""
    draw = random.Random(seed)
    corpus = [*HONEST, *HOSTILE]
    draw.shuffle(corpus)
    corpus = corpus[:num_programs]
    verdicts = Verdicts()
    for order in ("forwards", "backwards", "shuffled"):
        cases = {"forwards": corpus, "backwards": corpus[::-1], "shuffled": draw.sample(corpus, len(corpus))}[order]
        verdicts.wrong, verdicts.changed = [], []
        started = time.monotonic()
        with Sandbox(LIMITS, min_isolation=Isolation.LANDLOCK) as sandbox:
            for number, case in enumerate(cases):
                verdicts.add(case, sandbox.grade(case.problem, case.program, str(number)))
        seconds = round(time.monotonic() - started, 1)
        yield OrderReport(order, len(cases), tuple(verdicts.wrong), tuple(verdicts.changed), seconds)


@contextmanager
def watching() -> Iterator[Remains]:
    """Collects everything that sandboxes opened in this context leave behind. Read it after the block."""
    remains, usual = Remains(), tempfile.tempdir
    with tempfile.TemporaryDirectory() as private:
        tempfile.tempdir = private
        before = _present(Path(private))
        try:
            yield remains
            for kind, found in _present(Path(private)).items():
                setattr(remains, kind, sorted(found - before[kind]))
        finally:
            tempfile.tempdir = usual


def measure(sandbox: Sandbox) -> Resources:
    """What this process and the jail hold at the moment."""
    sandbox.grade(_ONE, "print(25)", "rest")  # a jail that was given up is replaced here
    pids = _descendants(os.getpid())
    return Resources(
        descriptors=len(os.listdir("/proc/self/fd")),
        processes=len(pids),
        parent_bytes=_resident_bytes(os.getpid()),
        jail_bytes=sum(map(_resident_bytes, pids)),
        cgroup_bytes=sum(map(_usage_bytes, _own_cgroups())),
    )


def _drawn(count: int, seed: int) -> Iterator[Case]:
    draw = random.Random(seed)
    for _ in range(count):
        yield draw.choice(HOSTILE if draw.random() < HOSTILE_SHARE else HONEST)


def _median(measured: Sequence[Resources]) -> Resources:
    return Resources(
        *(int(statistics.median(getattr(one, kind.name) for one in measured)) for kind in fields(Resources))
    )


def _words(found: tuple[object, ...]) -> str:
    outcome, _, *error = found
    return " ".join(map(str, [outcome, *error]))


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _own_cgroups() -> list[Path]:
    """The groups of this process's jails, wherever they are in the hierarchy."""
    return list(_CGROUPS.rglob(f"rltf-sandbox-{os.getpid()}-*"))


def _usage_bytes(cgroup: Path) -> int:
    for name in ("memory.current", "memory.usage_in_bytes"):
        with suppress(FileNotFoundError):
            return int((cgroup / name).read_text())
    return 0  # of another controller


def _present(private: Path) -> dict[str, set[str]]:
    """What a sandbox could leave behind: in this process, in its groups, and in the folders that processes share."""
    groups = _own_cgroups()
    pids = {int(pid) for group in groups for pid in (group / "cgroup.procs").read_text().split()}
    return {
        "descriptors": set(_descriptors()),
        "processes": {f"{pid} {_command(pid)}" for pid in pids.union(_descendants(os.getpid()))},
        "cgroups": set(map(str, groups)),
        "files": {str(path) for path in private.rglob("*")} | {str(path) for path in _files_of_jails()},
        "ipc": set(_ipc_of_jails()),
    }


def _descriptors() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that listed them
            yield f"{number} {os.readlink(f'/proc/self/fd/{number}')}"


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _files_of_jails() -> Iterator[Path]:
    """Files in shared folders that belong to a jail's user. Unless started by root, a jail has no user of its own."""
    for folder in _SHARED_FOLDERS:
        for path in folder.iterdir() if folder.is_dir() else ():
            with suppress(OSError):
                if path.lstat().st_uid in _JAIL_UIDS:
                    yield path


def _ipc_of_jails() -> Iterator[str]:
    """System V shared memory, semaphores and queues that belong to a jail's user."""
    for kind in ("shm", "sem", "msg"):
        path = Path("/proc/sysvipc") / kind
        head, *rows = path.read_text().splitlines() if path.exists() else [""]
        for row in rows:
            values: dict[str, Any] = dict(zip(head.split(), row.split(), strict=False))
            if int(values["uid"]) in _JAIL_UIDS or int(values["cuid"]) in _JAIL_UIDS:
                yield f"{kind} {values['key']}"


def main() -> int:
    """Soak, grade in all orders, close, and print each report. Returns 0 if all went well."""
    parser = argparse.ArgumentParser(description="Soak test of the sandbox.")
    parser.add_argument("--programs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    is_sound = True

    def show(case: str, report: SoakReport | OrderReport | Remains) -> None:
        nonlocal is_sound
        is_sound = is_sound and report.is_sound
        found = {"benchmark": "soak", "case": case, **asdict(report), "sound": report.is_sound}
        print(json.dumps(found | {"load": os.getloadavg()[0]}), flush=True)

    with watching() as remains:
        report = soak(options.programs, options.seed)
        show("soak", report)
        for order in orders(seed=options.seed):
            show("order", order)
    show("after closing", remains)
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())

"""What a program leaves behind: no sign for the next one, and no growth of either side.

These attacks run one at a time, since other jails beside them would disturb what they measure.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rltf.problems.types import Problem, StdinTest
from rltf.sandbox.jobs import StdinJob
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation
from rltf.settings import MIB, SandboxSettings
from tests.sandbox.attacks import traces
from tests.sandbox.attacks.shape import FAILED, PASSED, SQUARE, SQUARES, problem

LIMITS = SandboxSettings(cpu_s=1.0, wall_s=3.0, program_wall_s=20.0, memory_bytes=160 * MIB)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(LIMITS, Isolation.LANDLOCK) as sandbox:
        yield sandbox


@pytest.mark.parametrize("pair", traces.PAIRS)
def test_program_leaves_no_sign_for_the_next(sandbox: Sandbox, pair: str) -> None:
    sender, receiver = traces.PAIRS[pair]
    seen = [sandbox.run(source, [StdinJob(b"")])[0].stdout for source in (receiver, sender, receiver)]
    assert seen[0]
    assert seen[2] == seen[0]


@pytest.mark.parametrize("pair", traces.PAIRS)
def test_test_leaves_no_sign_for_the_next(sandbox: Sandbox, pair: str) -> None:
    program = f"exec({list(traces.PAIRS[pair])!r}[int(input())])"
    seen = [result.stdout for result in sandbox.run(program, [StdinJob(b"1"), StdinJob(b"0"), StdinJob(b"1")])]
    assert seen[0]
    assert seen[2] == seen[0]


def resident(process: psutil.Process) -> int:
    return int(process.memory_info().rss)


def jail_bytes(sandbox: Sandbox) -> int:
    """What the kernel counts for the jail: processes, files, and its own memory."""
    if sandbox.isolation is not Isolation.NAMESPACES_CGROUP:
        pytest.skip("without a control group nobody counts the jail's memory")
    assert sandbox._jail is not None
    assert sandbox._jail.cgroup is not None
    folder = sandbox._jail.cgroup.folders[0]
    version1 = folder / "memory.usage_in_bytes"
    return int((version1 if version1.exists() else folder / "memory.current").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    "on", [pytest.param(SQUARE, id="one test"), pytest.param(SQUARES, id="several tests", marks=pytest.mark.long)]
)
@pytest.mark.parametrize(
    "sources", [traces.WARNINGS, traces.FLOODS, traces.SPOILED * 10], ids=["warnings", "large outputs", "spoiled"]
)
def test_neither_side_grows(sources: tuple[str, ...], on: Problem) -> None:
    with Sandbox(LIMITS, min_isolation=Isolation.LANDLOCK) as sandbox:
        for source in sources[:20]:
            sandbox.grade(on, source, "0")
        gc.collect()
        jail, own = jail_bytes(sandbox), resident(psutil.Process())
        for source in sources:
            assert sandbox.grade(on, source, "0").outcome in (PASSED, FAILED)
        gc.collect()
        assert sandbox.num_restarts == 0
        assert jail_bytes(sandbox) - jail < 4 * MIB
        assert resident(psutil.Process()) - own < 32 * MIB


@pytest.mark.slow
def test_large_outputs_are_not_held_all_at_once(sandbox: Sandbox) -> None:
    wanted = "1" * 7_200_000 + "\n"
    many = problem(*[StdinTest(f"{n}\n", wanted) for n in range(20)])
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = resident(psutil.Process())
    verdict = sandbox.grade(many, "input()\nprint('1' * 7_200_000)", "0")
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    assert verdict.outcome is PASSED
    assert peak - before < 96 * MIB

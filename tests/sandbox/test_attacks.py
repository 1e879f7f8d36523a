"""Attacks on the grader's word: none gets a verdict that it has not earned, and none takes the grader with it."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from problems.errors import UnusableRowError
from problems.types import Problem, StdinTest
from sandbox.jobs import StdinJob
from sandbox.sandbox import Sandbox
from sandbox.verdict import Isolation
from settings import MIB, SandboxSettings
from tests.sandbox.attacks import checks, endings, hiding, lies, memory, traces, truth
from tests.sandbox.attacks.shape import FAILED, NEVER_PASSED, PASSED, SQUARE, SQUARES, Attack, Step, problem

LIMITS = SandboxSettings(cpu_s=1.0, wall_s=3.0, program_wall_s=20.0, memory_bytes=160 * MIB)
# Kernel memory is slow to fill: little of it, and time enough to do so.
SMALL = SandboxSettings(cpu_s=5.0, wall_s=8.0, program_wall_s=40.0, memory_bytes=64 * MIB)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(LIMITS, min_isolation=Isolation.LANDLOCK) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def small_sandbox() -> Iterator[Sandbox]:
    with Sandbox(SMALL, min_isolation=Isolation.LANDLOCK) as sandbox:
        yield sandbox


def take(sandbox: Sandbox, step: Step) -> None:
    verdict = sandbox.grade(step.problem, step.source, "0", step.comparison)
    assert verdict.outcome in step.outcomes, (
        f"{verdict.outcome} {verdict.tests} {verdict.error} {sandbox.last_grader_error}"
    )
    json.dumps(verdict.to_json()).encode()
    if step.error_line is not None:
        assert verdict.error is not None
        assert verdict.error.line == step.error_line, verdict


def carry_out(sandbox: Sandbox, attack: Attack) -> None:
    for step in attack.steps:
        take(sandbox, step)
    take(sandbox, Step(SQUARE, "print(int(input()) ** 2)", (PASSED,)))


@pytest.mark.parametrize("attack", memory.THEFTS + memory.SIBLINGS, ids=lambda attack: attack.name)
def test_a_program_finds_nothing_that_others_left_in_memory(sandbox: Sandbox, attack: Attack) -> None:
    carry_out(sandbox, attack)


@pytest.mark.parametrize(
    "attack",
    checks.FORGERIES + checks.ANSWERS + checks.HEAVY_VALUES + checks.AFTERWARDS,
    ids=lambda attack: attack.name,
)
def test_a_check_is_not_forged(sandbox: Sandbox, small_sandbox: Sandbox, attack: Attack) -> None:
    carry_out(small_sandbox if attack.small else sandbox, attack)


@pytest.mark.parametrize("attack", checks.STARVATION + checks.ZYGOTES, ids=lambda attack: attack.name)
def test_a_program_that_uses_up_memory_is_told_so(small_sandbox: Sandbox, attack: Attack) -> None:
    carry_out(small_sandbox, attack)


# A comparison that takes minutes on the trusted side stops the run as well as an exception does.
@pytest.mark.timeout(20)
@pytest.mark.parametrize("attack", endings.ALL, ids=lambda attack: attack.name)
def test_a_program_ends_itself_and_not_the_run(sandbox: Sandbox, attack: Attack) -> None:
    carry_out(sandbox, attack)


@pytest.mark.parametrize("attack", hiding.ALL, ids=lambda attack: attack.name)
def test_an_error_is_where_it_is(sandbox: Sandbox, attack: Attack) -> None:
    carry_out(sandbox, attack)


@pytest.mark.parametrize("form", ["mbpp", "humaneval"])
@pytest.mark.parametrize("claim", truth.CLAIMS, ids=lambda claim: claim.assertion)
def test_a_lie_is_told_from_the_truth(sandbox: Sandbox, form: str, claim: truth.Claim) -> None:
    try:
        on = claim.as_mbpp() if form == "mbpp" else claim.as_humaneval()
    except UnusableRowError:
        return  # refused at load, counted and with its reason: as good as told apart
    honest = (*claim.honest, *(claim.only_asserted if form == "mbpp" else ()))
    refused = {source for source in honest if not sandbox.grade(on, source, "0").passed}
    told = dict.fromkeys(claim.lies) | {source: name for name, source in lies.KNOWING_NOTHING.items()}
    believed = {
        name or source
        for source, name in told.items()
        if name not in claim.true_of and sandbox.grade(on, source, "0").outcome not in NEVER_PASSED
    }
    assert (refused, believed) == (set(), set())


@pytest.mark.parametrize(
    ("_name", "on", "honest", "told"), truth.SHARED_ARGUMENTS, ids=[name for name, *_ in truth.SHARED_ARGUMENTS]
)
def test_a_changed_argument_does_not_change_what_is_wanted(
    sandbox: Sandbox, _name: str, on: Problem, honest: str, told: tuple[str, ...]
) -> None:
    take(sandbox, Step(on, honest, (PASSED,)))
    assert [lie for lie in told if sandbox.grade(on, lie, "0").outcome not in NEVER_PASSED] == []


@pytest.mark.parametrize("pair", traces.PAIRS)
def test_a_program_leaves_no_sign_for_the_next(sandbox: Sandbox, pair: str) -> None:
    sender, receiver = traces.PAIRS[pair]
    seen = [sandbox.run(source, [StdinJob(b"")])[0].stdout for source in (receiver, sender, receiver)]
    assert seen[0]
    assert seen[2] == seen[0]


@pytest.mark.parametrize("pair", traces.PAIRS)
def test_a_test_leaves_no_sign_for_the_next(sandbox: Sandbox, pair: str) -> None:
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


@pytest.mark.parametrize("on", [SQUARE, SQUARES], ids=["one test", "several tests"])
@pytest.mark.parametrize(
    "sources", [traces.WARNINGS, traces.FLOODS, traces.SPOILED * 10], ids=["warnings", "large outputs", "spoiled"]
)
def test_neither_side_grows_with_what_it_has_graded(sources: tuple[str, ...], on: Problem) -> None:
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

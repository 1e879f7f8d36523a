"""Attacks on the grader's word: none gets a verdict that it has not earned, and none takes the grader with it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from problems.errors import UnusableRowError
from problems.types import Problem
from sandbox.limits import MIB, Limits
from sandbox.sandbox import Sandbox
from sandbox.verdict import Isolation
from tests.sandbox.attacks import checks, endings, memory, truth
from tests.sandbox.attacks.shape import NEVER_PASSED, PASSED, SQUARE, Attack, Step

LIMITS = Limits(cpu_s=1.0, wall_s=3.0, program_wall_s=20.0, memory_bytes=160 * MIB)
# Kernel memory is slow to fill: little of it, and time enough to do so.
SMALL = Limits(cpu_s=5.0, wall_s=8.0, program_wall_s=40.0, memory_bytes=64 * MIB)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(LIMITS, require=Isolation.LANDLOCK) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def small_sandbox() -> Iterator[Sandbox]:
    with Sandbox(SMALL, require=Isolation.LANDLOCK) as sandbox:
        yield sandbox


def take(sandbox: Sandbox, step: Step) -> None:
    verdict = sandbox.grade(step.problem, step.source, "0", step.comparison)
    assert verdict.outcome in step.outcomes, f"{verdict.outcome} {verdict.tests} {verdict.error} {sandbox.last_fault}"
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
    "attack", checks.FORGERIES + checks.ANSWERS + checks.HEAVY_VALUES + checks.AFTERWARDS, ids=lambda attack: attack.name
)
def test_a_check_is_not_forged(sandbox: Sandbox, small_sandbox: Sandbox, attack: Attack) -> None:
    carry_out(small_sandbox if attack.small else sandbox, attack)


@pytest.mark.parametrize("attack", checks.STARVATION + checks.ZYGOTES, ids=lambda attack: attack.name)
def test_a_program_that_uses_up_memory_is_told_so(small_sandbox: Sandbox, attack: Attack) -> None:
    carry_out(small_sandbox, attack)


@pytest.mark.parametrize("attack", endings.ALL, ids=lambda attack: attack.name)
def test_a_program_ends_itself_and_not_the_run(sandbox: Sandbox, attack: Attack) -> None:
    carry_out(sandbox, attack)


@pytest.mark.parametrize("form", ["mbpp", "humaneval"])
@pytest.mark.parametrize("claim", truth.CLAIMS, ids=lambda claim: claim.assertion)
def test_a_lie_is_told_from_the_truth(sandbox: Sandbox, form: str, claim: truth.Claim) -> None:
    try:
        problem = claim.as_mbpp() if form == "mbpp" else claim.as_humaneval()
    except UnusableRowError:
        return  # refused at load, counted and with its reason: as good as told apart
    honest = (*claim.honest, *(claim.only_asserted if form == "mbpp" else ()))
    refused = {source for source in honest if not sandbox.grade(problem, source, "0").passed}
    lies = dict.fromkeys(claim.lies) | {source: name for name, source in truth.KNOWING_NOTHING.items()}
    believed = {
        name or source
        for source, name in lies.items()
        if name not in claim.true_of and sandbox.grade(problem, source, "0").outcome not in NEVER_PASSED
    }
    assert (refused, believed) == (set(), set())


@pytest.mark.parametrize(("_name", "problem", "honest", "lies"), truth.SHARED_ARGUMENTS, ids=[name for name, *_ in truth.SHARED_ARGUMENTS])
def test_a_changed_argument_does_not_change_what_is_wanted(
    sandbox: Sandbox, _name: str, problem: Problem, honest: str, lies: tuple[str, ...]
) -> None:
    take(sandbox, Step(problem, honest, (PASSED,)))
    assert [lie for lie in lies if sandbox.grade(problem, lie, "0").outcome not in NEVER_PASSED] == []

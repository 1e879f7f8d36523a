"""Attacks on the grader: none gets a verdict that it has not earned, and none brings the grader down."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from rltf.problems.types import Problem, UnusableRowError
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation
from rltf.settings import MIB, SandboxSettings
from tests.sandbox.attacks import checks, endings, hiding, lies, memory, truth
from tests.sandbox.attacks.shape import NEVER_PASSED, PASSED, SQUARE, Attack, Step
from tests.sandbox.crew import Crew, crew_of, selected

pytestmark = pytest.mark.slow

LIMITS = SandboxSettings(cpu_s=1.0, wall_s=3.0, program_wall_s=20.0, memory_bytes=160 * MIB)
# Kernel memory is slow to fill, so use little memory and allow much time.
SMALL = SandboxSettings(cpu_s=5.0, wall_s=8.0, program_wall_s=40.0, memory_bytes=64 * MIB)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(LIMITS, Isolation.LANDLOCK) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def crew(request: pytest.FixtureRequest) -> Iterator[Crew]:
    cases = [(carry_out, attack) for (attack,) in selected(request, "attack") if not attack.small]
    claims = [(tell_apart, *case) for case in selected(request, "claim", "form")]
    with crew_of(lambda: Sandbox(LIMITS, Isolation.LANDLOCK), [*cases, *claims]) as crew:
        yield crew


@pytest.fixture(scope="module")
def small_crew(request: pytest.FixtureRequest) -> Iterator[Crew]:
    cases = [(carry_out, attack) for (attack,) in selected(request, "attack") if attack.small]
    with crew_of(lambda: Sandbox(SMALL, Isolation.LANDLOCK), cases) as crew:
        yield crew


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


def tell_apart(sandbox: Sandbox, claim: truth.Claim, form: str) -> None:
    """Every honest program passes, and no lie does."""
    try:
        on = claim.as_mbpp() if form == "mbpp" else claim.as_humaneval()
    except UnusableRowError:
        return  # refused when it is loaded, with the reason: as good as told apart
    honest = (*claim.honest, *(claim.only_asserted if form == "mbpp" else ()))
    refused = {source for source in honest if not sandbox.grade(on, source, "0").passed}
    told = dict.fromkeys(claim.lies) | {source: name for name, source in lies.KNOWING_NOTHING.items()}
    believed = {
        name or source
        for source, name in told.items()
        if name not in claim.true_of and sandbox.grade(on, source, "0").outcome not in NEVER_PASSED
    }
    assert (refused, believed) == (set(), set())


@pytest.mark.parametrize("attack", memory.THEFTS + memory.SIBLINGS, ids=lambda attack: attack.name)
def test_program_finds_nothing_of_others_in_memory(crew: Crew, attack: Attack) -> None:
    crew.wait_for(carry_out, attack)


@pytest.mark.parametrize(
    "attack",
    checks.FORGERIES + checks.ANSWERS + checks.HEAVY_VALUES + checks.AFTERWARDS,
    ids=lambda attack: attack.name,
)
def test_check_cannot_be_forged(crew: Crew, small_crew: Crew, attack: Attack) -> None:
    (small_crew if attack.small else crew).wait_for(carry_out, attack)


@pytest.mark.parametrize("attack", checks.STARVATION + checks.ZYGOTES, ids=lambda attack: attack.name)
def test_program_that_uses_up_memory_gets_that_verdict(small_crew: Crew, attack: Attack) -> None:
    small_crew.wait_for(carry_out, attack)


# A comparison that takes minutes on the trusted side stops the run just as an exception does.
@pytest.mark.timeout(60)
@pytest.mark.parametrize("attack", endings.ALL, ids=lambda attack: attack.name)
def test_program_ends_itself_but_not_the_run(crew: Crew, attack: Attack) -> None:
    crew.wait_for(carry_out, attack)


@pytest.mark.parametrize("attack", hiding.ALL, ids=lambda attack: attack.name)
def test_error_has_its_true_line(crew: Crew, attack: Attack) -> None:
    crew.wait_for(carry_out, attack)


@pytest.mark.parametrize("form", ["mbpp", "humaneval"])
@pytest.mark.parametrize("claim", truth.CLAIMS, ids=lambda claim: claim.assertion)
def test_lie_is_told_from_the_truth(crew: Crew, form: str, claim: truth.Claim) -> None:
    crew.wait_for(tell_apart, claim, form)


@pytest.mark.parametrize(
    ("_name", "on", "honest", "told"), truth.SHARED_ARGUMENTS, ids=[name for name, *_ in truth.SHARED_ARGUMENTS]
)
def test_changed_argument_does_not_change_the_expected_value(
    sandbox: Sandbox, _name: str, on: Problem, honest: str, told: tuple[str, ...]
) -> None:
    take(sandbox, Step(on, honest, (PASSED,)))
    assert [lie for lie in told if sandbox.grade(on, lie, "0").outcome not in NEVER_PASSED] == []

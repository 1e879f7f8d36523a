"""Every threat gets its verdict at every level, and leaves nothing behind for the program after it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from rltf.problems.types import AssertTest, CallTest, Problem, StdinTest
from rltf.sandbox import selftest
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation, Outcome
from rltf.settings import SandboxSettings
from tests.sandbox import threats
from tests.sandbox.crew import Crew, crew_of, selected
from tests.sandbox.threats import Threat

LIMITS = SandboxSettings(cpu_s=0.6, wall_s=2.0, program_wall_s=20.0, memory_bytes=160 << 20)
WITH_NUMPY = LIMITS.model_copy(update={"packages": ("numpy",)})
SQUARE = Problem("square", "tests", "", (StdinTest("5\n", "25\n"),))
CALL = Problem("call", "tests", "", (CallTest("f", (5,), 25),))
ASSERT = Problem("assert", "tests", "", (AssertTest("assert f(5) == 25"),))
CASES = [
    pytest.param(
        problem,
        threat,
        id=f"{problem.task_id}-{threat.name}",
        marks=[pytest.mark.slow] if Outcome.TIMEOUT in threat.outcomes or threat.name == "memory bit by bit" else [],
    )
    for problem, group in ((SQUARE, threats.STDIN), (CALL, threats.CALLS), (ASSERT, threats.CALLS))
    for threat in group
    if not (problem is ASSERT and "Solution" in threat.source)  # an assert names a global
]


@cache
def finding() -> selftest.Finding:
    """What this machine gives; taken before the fixture below replaces the self-test."""
    return selftest.find_level(LIMITS)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            (Isolation.NAMESPACES_CGROUP, LIMITS), id=str(Isolation.NAMESPACES_CGROUP), marks=pytest.mark.slow
        ),
        pytest.param((Isolation.NAMESPACES, LIMITS), id=str(Isolation.NAMESPACES)),
        pytest.param((Isolation.LANDLOCK, LIMITS), id=str(Isolation.LANDLOCK), marks=pytest.mark.slow),
        pytest.param((Isolation.NAMESPACES, WITH_NUMPY), id="numpy", marks=pytest.mark.slow),
    ],
)
def crew(request: pytest.FixtureRequest) -> Iterator[Crew]:
    """Sandboxes at each level that this machine can give, not only at the best, and some with a package loaded."""
    level, limits = request.param
    if reason := finding().reasons.get(level):
        pytest.skip(reason)
    cases = [(check, *case) for case in selected(request, "problem", "threat", crew=request.param)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selftest, "find_level", lambda _: selftest.Finding(level))
        with crew_of(lambda: Sandbox(limits, level), cases) as crew:
            yield crew


def check(sandbox: Sandbox, problem: Problem, threat: Threat) -> None:
    if sandbox.isolation is Isolation.LANDLOCK and threat.needs_scratch:
        pytest.skip("no scratch folder at this level")
    if sandbox.isolation is not finding().level and Outcome.TIMEOUT in threat.outcomes:
        pytest.skip("time limits do not depend on the level")
    verdict = sandbox.grade(problem, threat.source, "0")
    assert verdict.outcome in threat.outcomes, verdict
    if threat.error_type is not None:
        assert verdict.error is not None
        assert verdict.error.type == threat.error_type, verdict
    if threat.error_line is not None:
        assert verdict.error is not None
        assert verdict.error.line == threat.error_line, verdict
    honest = sandbox.grade(SQUARE, "print(int(input()) ** 2)", "1")
    assert honest.passed, honest


@pytest.mark.parametrize(("problem", "threat"), CASES)
def test_threat_gets_its_verdict(crew: Crew, problem: Problem, threat: Threat) -> None:
    crew.wait_for(check, problem, threat)

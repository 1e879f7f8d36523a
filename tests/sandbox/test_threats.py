"""Every threat gets its verdict, and leaves nothing behind for the program after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from problems.types import AssertTest, CallTest, Problem, StdinTest
from sandbox import selftest
from sandbox.sandbox import Sandbox
from sandbox.verdict import Isolation, Outcome
from settings import SandboxSettings
from tests.sandbox import threats
from tests.sandbox.threats import Threat

LIMITS = SandboxSettings(cpu_s=0.6, wall_s=2.0, program_wall_s=20.0, memory_bytes=160 << 20)
SQUARE = Problem("square", "tests", "", (StdinTest("5\n", "25\n"),))
CALL = Problem("call", "tests", "", (CallTest("f", (5,), 25),))
ASSERT = Problem("assert", "tests", "", (AssertTest("assert f(5) == 25"),))


BEST = selftest.find_level(LIMITS).level


@pytest.fixture(scope="module", params=[Isolation.NAMESPACES_CGROUP, Isolation.NAMESPACES, Isolation.LANDLOCK])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox at each level that this machine can give, not only at the best."""
    reasons = selftest.find_level(LIMITS).reasons
    if request.param in reasons:
        pytest.skip(reasons[request.param])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selftest, "find_level", lambda limits: selftest.Finding(request.param))
        with Sandbox(LIMITS, min_isolation=request.param) as sandbox:
            yield sandbox


def check(sandbox: Sandbox, problem: Problem, threat: Threat) -> None:
    if sandbox.isolation is Isolation.LANDLOCK and threat.needs_scratch:
        pytest.skip("no scratch folder at this level")
    if sandbox.isolation is not BEST and Outcome.TIMEOUT in threat.outcomes:
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


@pytest.mark.parametrize("threat", threats.STDIN, ids=lambda threat: threat.name)
def test_stdin_program_gets_its_verdict(sandbox: Sandbox, threat: Threat) -> None:
    check(sandbox, SQUARE, threat)


@pytest.mark.parametrize("problem", [CALL, ASSERT], ids=["call", "assert"])
@pytest.mark.parametrize("threat", threats.CALLS, ids=lambda threat: threat.name)
def test_function_gets_its_verdict(sandbox: Sandbox, problem: Problem, threat: Threat) -> None:
    if problem is ASSERT and "Solution" in threat.source:
        pytest.skip("assert tests name a global")
    check(sandbox, problem, threat)

"""Many calls share processes, and only right answers count there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.problems.types import CallTest, Problem, StdinTest
from rltf.sandbox.batches import MIN_CALLS, batches
from rltf.sandbox.jobs import CallJob, End, Job, RunResult, StdinJob
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation, Outcome
from rltf.settings import MIB, SandboxSettings

NUM_TESTS = MIN_CALLS + 10
HANGS_ON_70 = "def f(n):\n    while n == 70: pass\n    return n * n"
SQUARES = Problem("squares", "any", "", tuple(CallTest("f", (n,), n * n) for n in range(NUM_TESTS)))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    limits = SandboxSettings(cpu_s=1.5, wall_s=5.0, memory_bytes=160 * MIB)
    with Sandbox(limits, Isolation.NAMESPACES) as sandbox:
        yield sandbox


@pytest.fixture
def num_jobs(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of jobs in each request to the jail."""
    counts: list[int] = []
    run = Sandbox._run

    def counted(self: Sandbox, source: str, jobs: list[Job], *rest: object) -> None:
        counts.append(len(jobs))
        run(self, source, jobs, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Sandbox, "_run", counted)
    return counts


def test_a_right_program_runs_in_few_processes(sandbox: Sandbox, num_jobs: list[int]) -> None:
    verdict = sandbox.grade(SQUARES, "def f(n): return n * n", "0")
    assert verdict.passed
    assert len(verdict.tests) == NUM_TESTS
    assert num_jobs == [3]
    assert 0 < verdict.cpu_seconds < 1.5


def test_only_the_calls_that_are_not_right_run_again(sandbox: Sandbox, num_jobs: list[int]) -> None:
    verdict = sandbox.grade(SQUARES, "def f(n): return n * n + (n in (5, 40))", "0")
    wrong = [number for number, outcome in enumerate(verdict.tests) if outcome is not Outcome.PASSED]
    assert wrong == [5, 40]
    assert verdict.outcome is Outcome.FAILED
    assert verdict.actual == "26"
    assert num_jobs == [3, 2]


@pytest.mark.parametrize(
    ("program", "outcomes"),
    [
        ("def f(n): return n * n if n != 7 else 1 // 0", {7: "runtime_error"}),
        pytest.param(
            HANGS_ON_70, {70: "timeout", **dict.fromkeys(range(71, 74), "skipped")}, marks=pytest.mark.slow
        ),
        ("import os\ndef f(n): return n * n if n != 3 else os._exit(0)", {3: "failed"}),
        ("def f(n): return n * n if n else object()", {0: "failed"}),
        ("seen = []\ndef f(n):\n    seen.append(n)\n    return n * n if len(seen) == 1 else 0", {}),
        ("def f(n) return n", dict.fromkeys(range(NUM_TESTS), "syntax_error")),
    ],
)  # fmt: skip
def test_verdicts_are_those_of_calls_that_run_alone(sandbox: Sandbox, program: str, outcomes: dict[int, str]) -> None:
    verdict = sandbox.grade(SQUARES, program, "0")
    assert {n: outcome.value for n, outcome in enumerate(verdict.tests) if outcome is not Outcome.PASSED} == outcomes


def test_a_call_cannot_answer_for_the_others(sandbox: Sandbox) -> None:
    """The first call replaces what its process calls next: whatever comes out has to be right, and none is."""
    program = "def f(n):\n    global f\n    f = lambda m: AllEqual()\n    return AllEqual()\n"
    program += "class AllEqual(int):\n    def __eq__(self, other): return True\n"
    assert set(sandbox.grade(SQUARES, program, "0").tests[1:]) == {Outcome.FAILED}


def test_other_tests_run_alone(sandbox: Sandbox, num_jobs: list[int]) -> None:
    few = Problem("few", "any", "", SQUARES.tests[: MIN_CALLS - 1])
    assert sandbox.grade(few, "def f(n): return n * n", "0").passed
    mixed = Problem("mixed", "any", "", (StdinTest("", "1\n"), *SQUARES.tests))
    assert sandbox.grade(mixed, "def f(n): return n * n\nprint(1)", "0").passed
    assert num_jobs == [MIN_CALLS - 1, 3, 1]


CALLS = st.lists(
    st.one_of(
        st.builds(CallJob, st.sampled_from("fg"), st.tuples(st.integers(), st.text(max_size=3))),
        st.builds(CallJob, st.just("f"), st.integers(0, 3).map(lambda n: ("x" * (n << 16),))),
        st.just(StdinJob(b"")),
    ),
    max_size=150,
)


@given(CALLS)
def test_each_call_is_in_one_batch(jobs: list[Job]) -> None:
    together = batches(jobs)
    calls = [number for number, job in enumerate(jobs) if isinstance(job, CallJob)]
    assert [number for batch in together for number in batch.numbers] == (calls if len(calls) >= MIN_CALLS else [])
    for batch in together:
        assert batch.job.arguments == tuple(jobs[number].arguments for number in batch.numbers)  # type: ignore[union-attr]
        assert {jobs[number].function for number in batch.numbers} == {batch.job.function}  # type: ignore[union-attr]


def test_a_result_of_another_shape_counts_for_no_call() -> None:
    (batch, *_) = batches([CallJob("f", (n,)) for n in range(MIN_CALLS)])
    assert dict(batch.results(RunResult(End.OK, value=[1, 2]))) == {}
    assert dict(batch.results(RunResult(End.OK, value="x" * 32))) == {}
    assert dict(batch.results(RunResult(End.CPU_TIMEOUT))) == {}
    assert len(dict(batch.results(RunResult(End.OK, value=[0] * 32)))) == 32

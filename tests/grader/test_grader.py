"""The grader as a Python API: verdicts in order, from any thread, honest about its own errors, and nothing left."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from errors import UserError
from grader import Comparison, Grader, Isolation, Outcome, Problem, SandboxSettings, Verdict, problem_from_row
from problems.types import AssertTest, CallTest, StdinTest
from sandbox import selftest
from tests.sandbox import threats
from tests.sandbox.programs import LIMITS, RIGHT, problem, squares

ROOT = Path(__file__).parents[2]
WEAK = Isolation.LANDLOCK
ROW = {"task_id": "echo", "statement": "Print the line.", "tests": [{"stdin": "1\n", "expected": "1\n"}]}
ECHO = "print(input())"


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(2, min_isolation=WEAK, settings=LIMITS) as grader:
        yield grader


def outcomes(verdicts: list[Verdict]) -> list[Outcome]:
    return [verdict.outcome for verdict in verdicts]


# Verdicts


def test_verdicts_come_in_the_order_of_the_programs(grader: Grader) -> None:
    slow = "import time\ntime.sleep(0.3)\n" + RIGHT
    verdicts = grader.grade(squares(2), [slow, "print(0)", "1 / 0", "print("])
    assert outcomes(verdicts) == [Outcome.PASSED, Outcome.FAILED, Outcome.RUNTIME_ERROR, Outcome.SYNTAX_ERROR]
    assert [verdict.completion_id for verdict in verdicts] == ["0", "1", "2", "3"]
    assert [verdict.pass_ratio for verdict in verdicts] == [1.0, 0.5, 0.0, 0.0]
    assert {verdict.isolation for verdict in verdicts} == {grader.isolation}
    assert not any(verdict.is_grader_error for verdict in verdicts)
    assert grader.grade(squares(2), []) == grader.grade([], []) == []


def test_each_program_meets_its_own_problem(grader: Grader) -> None:
    rows = [{**ROW, "task_id": n, "tests": [{"stdin": "", "expected": str(n)}]} for n in range(12)]
    mixed: list[Any] = [problem_from_row(row) if n % 3 else row for n, row in enumerate(rows)]
    assert all(verdict.passed for verdict in grader.grade(mixed, [f"print({n})" for n in range(12)]))
    shifted = grader.grade(mixed, [f"print({n + 1})" for n in range(12)])
    assert outcomes(shifted) == [Outcome.FAILED] * 12
    assert [verdict.task_id for verdict in shifted] == [str(n) for n in range(12)]


def test_a_data_set_may_make_its_rows_anew(grader: Grader) -> None:
    class DataSet(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            return ({**ROW, "tests": [{"stdin": "", "expected": str(n)}]} for n in super().__iter__())

    verdicts = grader.grade(DataSet(range(20)), [f"print({n})" for n in range(20)])
    assert all(verdict.passed for verdict in verdicts)


def test_threads_may_grade_at_the_same_time(grader: Grader) -> None:
    def grade(seed: int) -> bool:
        chosen = random.Random(seed)
        numbers = [chosen.randrange(100) for _ in range(8)]
        problems = [problem(StdinTest("", f"{n}\n")) for n in numbers]
        right = [chosen.random() < 0.5 for _ in numbers]
        programs = [f"print({n if ok else -1})" for n, ok in zip(numbers, right, strict=True)]
        return [verdict.passed for verdict in grader.grade(problems, programs)] == right

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(grade, range(12)))


def test_programs_can_be_graded_in_the_background(grader: Grader) -> None:
    futures = [grader.submit(squares(2), program, name) for name, program in (("a", RIGHT), ("b", "print(1)"))]
    assert [future.result().completion_id for future in futures] == ["a", "b"]
    assert [future.result().pass_ratio for future in futures] == [1.0, 0.5]


def test_the_comparison_can_be_that_of_apps() -> None:
    unordered = problem(StdinTest("", "1\n2\n"))
    with Grader(1, min_isolation=WEAK, settings=LIMITS, comparison=Comparison.APPS) as lenient:
        assert lenient.grade(unordered, ["print(2)\nprint(1)"])[0].passed
        # The level and the limits of the settings hold.
        assert lenient.grade(unordered, ["while True: pass"])[0].outcome is Outcome.TIMEOUT


# Completions

FUNCTION = {
    "task_id": "f",
    "statement": "Square.",
    "tests": [{"assert": "assert f(3) == 9"}, {"assert": "assert f(-2) == 4"}],
}
COMPLETIONS = {
    "```python\ndef f(n):\n    return n * n\n```": 1.0,
    "Sure! Here it is:\n\n```python\ndef f(n):\n    return n ** 2\n```\n\nIt squares `n`.\n```\nf(3)\n```": 1.0,
    "<think>\ndef f(n): return 0\n</think>\n```py\ndef f(n):\n    return n * n\n```": 1.0,
    "def f(n):\n    return n * n\n\nThis function squares n.": 1.0,
    "```python\ndef f(n):\n    return 9\n```": 0.5,
    "I cannot do that.": 0.0,
    "": 0.0,
}


def test_completions_are_graded_by_their_programs(grader: Grader) -> None:
    verdicts = grader.grade_completions(FUNCTION, list(COMPLETIONS))
    assert [verdict.pass_ratio for verdict in verdicts] == list(COMPLETIONS.values())
    thought = "def f(n): return n * n"
    assert grader.grade_completions(FUNCTION, [thought])[0].passed
    assert not grader.grade_completions(FUNCTION, [thought], in_thought=True)[0].passed
    assert grader.grade_completions(FUNCTION, [f"hm </think>\n{thought}"], in_thought=True)[0].passed


# Cheats

CHEATS = [
    pytest.param(tests, group, id=name)
    for name, tests, group in (
        ("stdin", problem(StdinTest("5\n", "25\n")), threats.CHEATS),
        ("call", problem(CallTest("f", (5,), 25)), threats.CALLS),
        ("assert", problem(AssertTest("assert f(5) == 25")), threats.CALLS),
    )
]


@pytest.mark.parametrize(("tests", "group"), CHEATS)
def test_cheats_do_not_pass(grader: Grader, tests: Problem, group: tuple[threats.Threat, ...]) -> None:
    never = {Outcome.PASSED, Outcome.TIMEOUT, Outcome.MEMORY_LIMIT}  # those of the latter two only take long
    cheats = [threat for threat in group if not never & set(threat.outcomes)]
    assert len(cheats) > 15
    for cheat, verdict in zip(cheats, grader.grade(tests, [one.source for one in cheats]), strict=True):
        assert not verdict.passed, cheat.name
        assert not verdict.is_grader_error, cheat.name


# Errors


def test_an_error_of_the_grader_is_not_a_wrong_answer(grader: Grader) -> None:
    broken = problem(AssertTest("assert f(1) == 1 / 0"))
    bad, good = grader.grade([broken, squares(1)], ["def f(n): return n", RIGHT])
    assert bad.is_grader_error
    assert not bad.passed
    assert bad.error is not None
    assert bad.error.type == "GraderError"
    assert "ZeroDivisionError" in bad.error.message
    assert good.passed


@pytest.mark.parametrize(
    ("problems", "programs", "message"),
    [
        ([ROW], [], r"1 problems for 0 texts"),
        ([ROW, ROW], [ECHO], r"2 problems for 1 texts"),
        (ROW, ECHO, r"got one text; put it into a list"),
        (ROW, [ECHO, None], r"text 1: expected str, got NoneType"),
        ([ROW, {**ROW, "tests": []}], [ECHO] * 2, r"problems\[1\]: the row cannot be used as jsonl: tests: "),
        ([ROW, 7], [ECHO] * 2, r"problems\[1\]: expected a row with named columns, got int"),
        (
            [{**ROW, "tests": [{"assert": "assert f(1) == 2", "setup": "import numpy"}]}],
            [""],
            r"problems\[0\]: problem echo cannot be graded: tests\[0\]: imports numpy",
        ),
    ],
)
def test_what_cannot_be_graded_is_named(grader: Grader, problems: Any, programs: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        grader.grade(problems, programs)


def test_a_grader_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="workers: expected a number from 1, got 0"):
        Grader(0)
    with pytest.raises(UserError, match=r"sandbox\.packages: 'absent-package' is not installed"):
        Grader(1, settings=SandboxSettings(packages=("absent-package",)))
    found = selftest.Finding(Isolation.RLIMITS, {Isolation.NAMESPACES: "no bwrap"})
    monkeypatch.setattr(selftest, "find_level", lambda _: found)
    with pytest.raises(UserError, match=r"`namespaces` is required, this machine gives `rlimits`"):
        Grader(1)


# What is left behind


def sandboxes() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_nothing_is_left_after_close() -> None:
    before = sandboxes()
    grader = Grader(1, min_isolation=WEAK, settings=LIMITS)
    running = grader.submit(squares(1), "import time\ntime.sleep(0.5)\n" + RIGHT)
    waiting = grader.submit(squares(1), RIGHT)
    while not running.running():
        time.sleep(0.01)
    assert sandboxes() > before
    grader.close()
    grader.close()
    assert sandboxes() == before
    assert running.result().passed
    with pytest.raises(CancelledError):
        waiting.result()
    with pytest.raises(UserError, match="the grader is closed"):
        grader.grade(squares(1), [RIGHT])


def test_a_call_during_which_the_grader_is_closed_says_so() -> None:
    grader = Grader(1, min_isolation=WEAK, settings=LIMITS)
    closer = threading.Timer(0.2, grader.close)
    closer.start()
    with pytest.raises(UserError, match="the grader is closed"):
        grader.grade(squares(1), ["import time\ntime.sleep(0.5)\n" + RIGHT] * 4)
    closer.join()


def test_nothing_is_left_of_a_grader_that_is_forgotten() -> None:
    before = sandboxes()
    grader = Grader(1, min_isolation=WEAK, settings=LIMITS)
    assert grader.grade(squares(1), [RIGHT])[0].passed
    del grader
    gc.collect()
    assert sandboxes() == before


FORGETFUL = f"""
import os, sys, threading, time
import psutil
from grader import Grader, Isolation

def pids():
    return [process.pid for process in psutil.Process().children(recursive=True)]

held = bytearray(1 << 28)
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
grader = Grader(1, min_isolation=Isolation.LANDLOCK)
row, program = {ROW}, {ECHO!r}
before = pids()
child = os.fork()
if child == 0:
    try:
        grader.grade(row, [program])
    except Exception as error:
        print(error)
    sys.exit()  # as any process ends, with its exit handlers
os.waitpid(child, 0)
assert pids() == before
print(grader.grade(row, [program])[0].passed)
print(*pids())
"""


def runs(pid: int) -> bool:
    """Whether a process runs. One that has ended may wait for the machine's first process to notice."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_process_that_forgets_to_close_leaves_nothing_and_a_fork_of_it_breaks_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", FORGETFUL], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    refusal, passed, pids = done.stdout.splitlines()
    assert refusal.endswith("is a fork; make a Grader in each process")
    assert passed == "True"
    assert len(pids.split()) >= 2
    assert not any(runs(int(pid)) for pid in pids.split())
    assert done.stderr == ""


# Imports

LIGHT = """
import sys
before = set(sys.modules)
import cli, grader, sandbox.command
grader.problem_from_row({"task_id": 1, "statement": "x", "tests": [{"stdin": "", "expected": ""}]})
print(*{name.partition(".")[0] for name in set(sys.modules) - before if name in sys.modules and "site-packages" in
        (getattr(sys.modules[name], "__file__", None) or "")})
"""
# What a base installation has: pydantic, PyYAML, packaging and tzdata, with what they require.
BASE = {"annotated_types", "packaging", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection", "tzdata"}
BASE |= {"yaml"}


def test_the_grader_needs_only_light_packages() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert {"pydantic", "tzdata"} <= found <= BASE


def test_the_example_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.grade"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [
        "sum-of-line: passed, 2 of 2 tests",
        "sum-of-line: failed, 0 of 2 tests",
        "reverse-words: runtime_error, 0 of 2 tests (ZeroDivisionError at line 2)",
    ]

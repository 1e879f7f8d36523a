"""What of each problem set can be used, whether its references pass, and how fast, beside the graders that people use.

    BENCHMARK_DATA=FOLDER PYTHONPATH=. python benchmarks/bench_problem_sets.py [sets] [peers] [mixed] [--programs N]

Prints one JSON object per case. `sets`: rows, usable ones, rejected ones by reason, and the problems whose reference
passes, graded by one worker. `peers`: the same programs by `evalplus.evaluate` (HumanEval+'s tests) and by verl's
`prime_code` (CodeContests' tests), each in a process of its own on one core, in turn with ours. `mixed`: N programs of
all sets in a random order, most of them damaged references, with up to 50 tests each, by one worker and by two, twice:
the verdicts must be the same, and the memory of this process must not grow.

The peers come from `benchmarks/requirements-peers.txt`; without them, their cases are skipped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rltf.problems import CallTest, Problem, StdinTest, load
from rltf.sandbox.admission import reason_to_refuse
from rltf.sandbox.compare import Comparison
from rltf.sandbox.grading import Graders
from rltf.sandbox.verdict import Isolation, Outcome
from rltf.settings import SandboxSettings

PEERS = Path(__file__).parent.parent / "runs" / "peers"
LIMITS = SandboxSettings()
SETS = {
    "mbpp": "mbpp:{}/mbpp/mbpp.jsonl",
    "humaneval": "humaneval:{}/humaneval/HumanEval.jsonl.gz",
    "humanevalplus": "humanevalplus:{}/humanevalplus/HumanEvalPlus-OriginFmt-third.jsonl.gz",
    "mbppplus": "mbppplus:{}/mbppplus/MbppPlus-OriginFmt-third.jsonl.gz",
    "leetcode": "leetcode:{}/leetcode/LeetCodeDataset-v0.2.0-test.jsonl.gz",
    "codecontests": "codecontests:{}/codecontests/problems.jsonl",
    "apps": "apps:{}/apps/train",
}
# Damaged programs often loop forever.
MIXED_LIMITS = SandboxSettings(cpu_s=1.0, wall_s=5.0)
_MAX_MIXED_TESTS = 50
_MAX_REASONS = 8
_SEED = 20260101


def sets(data: Path) -> Iterator[dict[str, Any]]:
    """One row per problem set."""
    for name, spec in SETS.items():
        loaded = load(spec.format(data), reason_to_refuse(LIMITS))
        reasons = Counter(_kind_of(row.reason) for row in loaded.rejected)
        with_reference = [problem for problem in loaded.problems if problem.references]
        began = time.monotonic()
        with Graders(1, LIMITS, Isolation.NAMESPACES) as graders:
            graded = graders.map(lambda problem: graders.grade(problem, problem.references[0], "0"), with_reference)
            verdicts = {problem.task_id: verdict for problem, verdict in graded}
        seconds = time.monotonic() - began
        yield {
            "benchmark": "problem sets",
            "set": name,
            "rows": len(loaded.problems) + len(loaded.rejected),
            "usable": len(loaded.problems),
            "rejected": dict(reasons.most_common(_MAX_REASONS)),
            "tests": sum(len(problem.tests) for problem in loaded.problems),
            "references": len(verdicts),
            "references_pass": sum(verdict.passed for verdict in verdicts.values()),
            "not_passing": {
                task_id: f"{verdict.outcome}{f': {verdict.error.message}' if verdict.error else ''}"
                for task_id, verdict in verdicts.items()
                if not verdict.passed
            },
            "programs_per_s": round(len(verdicts) / seconds, 1),
        }


def _kind_of(reason: str) -> str:
    """A reason without what differs from row to row."""
    return reason.split(":", 1)[0] if len(reason) > 80 else reason


def mixed(data: Path, num_programs: int) -> Iterator[dict[str, Any]]:
    """Programs of all sets, by one worker and by two, twice. Raises `AssertionError` if a verdict differs."""
    work = _mixed_work(data, num_programs)
    verdicts: list[list[Outcome]] = []
    for num_workers in (1, 2, 2):
        before = _resident_mib()
        began = time.monotonic()
        with Graders(num_workers, MIXED_LIMITS, Isolation.NAMESPACES) as graders:
            graded = graders.map(lambda item: graders.grade(item[0], item[1], "0"), work)
            outcomes = [verdict.outcome for _, verdict in graded]
        seconds = time.monotonic() - began
        verdicts.append(outcomes)
        yield {
            "benchmark": "problem sets",
            "case": "mixed",
            "workers": num_workers,
            "programs": len(work),
            "programs_per_s": round(len(work) / seconds, 1),
            "outcomes": dict(Counter(outcomes).most_common()),
            "differ_from_first": sum(a is not b for a, b in zip(verdicts[0], outcomes, strict=True)),
            "resident_mib": [before, _resident_mib()],
        }


def _mixed_work(data: Path, num_programs: int) -> list[tuple[Problem, str]]:
    draw = random.Random(_SEED)
    problems = [
        problem for spec in SETS.values() for problem in load(spec.format(data), reason_to_refuse(LIMITS)).problems
    ]
    problems = [replace(one, tests=one.tests[:_MAX_MIXED_TESTS]) for one in problems if one.references]
    chosen = draw.choices(problems, k=num_programs)
    return [(problem, _damaged(draw.choice(problem.references), draw)) for problem in chosen]


def _damaged(program: str, draw: random.Random) -> str:
    """A program as it is (one in four), or without one of its lines."""
    lines = program.splitlines(keepends=True)
    if len(lines) < 2 or draw.random() < 0.25:
        return program
    del lines[draw.randrange(len(lines))]
    return "".join(lines)


def _resident_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def peers(data: Path, repeats: int = 3) -> Iterator[dict[str, Any]]:
    """Our grader and the peers' on the same programs, in turn, each on one core."""
    cases = {
        "evalplus": [p for p in load(SETS["humanevalplus"].format(data)).problems if _plain_calls(p)],
        "verl": [p for p in load(SETS["codecontests"].format(data)).problems if p.checker is None],
    }
    for peer, problems in cases.items():
        if not (PEERS / peer).is_dir() or importlib.util.find_spec("datasets") is None:
            missing = f"{peer} is not installed (benchmarks/requirements-peers.txt)"
            yield {"benchmark": "problem sets", "system": peer, "skipped": missing}
            continue
        for _ in range(repeats):
            for system, grade in (("ours", _by_us), (peer, _by_evalplus if peer == "evalplus" else _by_verl)):
                seconds, num_passed = grade(problems)
                yield {
                    "benchmark": "problem sets",
                    "case": f"beside {peer}",
                    "system": system,
                    "programs": len(problems),
                    "tests": sum(len(problem.tests) for problem in problems),
                    "passed": num_passed,
                    "programs_per_s": round(len(problems) / seconds, 2),
                    "load": round(os.getloadavg()[0], 1),
                }


def _plain_calls(problem: Problem) -> bool:
    return all(isinstance(test, CallTest) for test in problem.tests)


def _by_us(problems: Sequence[Problem]) -> tuple[float, int]:
    with Graders(1, LIMITS, Isolation.NAMESPACES) as graders:
        graders.grade(problems[0], problems[0].references[0], "warm")
        began = time.monotonic()
        passed = [graders.grade(p, p.references[0], "0", Comparison.STRICT).passed for p in problems]
        return time.monotonic() - began, sum(passed)


_EVALPLUS = """
import os, sys, time
from evalplus.evaluate import evaluate
options = dict(dataset="humaneval", samples=sys.argv[1], base_only=True, parallel=1, i_just_wanna_run=True)
evaluate(**options)  # computes the expected values, which are kept
os.remove(sys.argv[1].replace(".jsonl", "_eval_results.json"))
began = time.monotonic()
evaluate(**options)
print("SECONDS", time.monotonic() - began)
"""


def _by_evalplus(problems: Sequence[Problem]) -> tuple[float, int]:
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        samples = Path(folder) / "samples.jsonl"
        rows.write_text("".join(json.dumps(_evalplus_row(problem)) + "\n" for problem in problems))
        solutions = [{"task_id": p.task_id, "solution": p.code_prefix + p.references[0]} for p in problems]
        samples.write_text("".join(json.dumps(row) + "\n" for row in solutions))
        seconds = _seconds_of(_EVALPLUS, str(samples), folder, HUMANEVAL_OVERRIDE_PATH=str(rows), XDG_CACHE_HOME=folder)
        results = json.loads((Path(folder) / "samples_eval_results.json").read_text())
    return seconds, sum(row["base_status"] == "pass" for rows in results["eval"].values() for row in rows)


def _evalplus_row(problem: Problem) -> dict[str, Any]:
    inputs = [list(test.arguments) for test in problem.tests if isinstance(test, CallTest)]
    return {
        "task_id": problem.task_id, "prompt": problem.code_prefix, "entry_point": problem.entry_point,
        "canonical_solution": problem.references[0], "base_input": inputs, "plus_input": [], "atol": 0, "contract": "",
    }  # fmt: skip


_VERL = """
import json, sys, time
sys.path.insert(0, sys.argv[2])
from prime_code import compute_score
work = json.load(open(sys.argv[1]))
compute_score(work[0]["program"], work[0]["tests"], continuous=True)
began = time.monotonic()
passed = sum(compute_score(item["program"], item["tests"], continuous=True)[0] is True for item in work)
print("PASSED", passed)
print("SECONDS", time.monotonic() - began)
"""


def _by_verl(problems: Sequence[Problem]) -> tuple[float, int]:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work.json"
        work.write_text(json.dumps([{"program": p.references[0], "tests": _cases(p)} for p in problems]))
        parent = str(PEERS / "verl" / "utils" / "reward_score")
        found = _output_of(_VERL, [str(work), parent], folder)
    return float(found["SECONDS"]), int(found["PASSED"])


def _cases(problem: Problem) -> dict[str, list[str]]:
    tests = [test for test in problem.tests if isinstance(test, StdinTest)]
    return {"inputs": [test.stdin for test in tests], "outputs": [test.expected for test in tests]}


def _seconds_of(source: str, argument: str, folder: str, **environment: str) -> float:
    return float(_output_of(source, [argument], folder, **environment)["SECONDS"])


def _output_of(source: str, arguments: list[str], folder: str, **environment: str) -> dict[str, str]:
    """What the script prints last, by the first word of each line."""
    command = [sys.executable, "-P", "-c", source, *arguments]
    environment = os.environ | {"PYTHONPATH": str(PEERS)} | environment
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the peer failed: {done.stderr[-2000:]}")
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("SECONDS", "PASSED")))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases that the command line names."""
    parser = argparse.ArgumentParser(description="Problem sets: usable rows, references that pass, speed.")
    parser.add_argument("cases", nargs="*", choices=["sets", "peers", "mixed"], default=["sets", "peers", "mixed"])
    parser.add_argument("--programs", type=int, default=8192, help="programs of the mixed case")
    options = parser.parse_args(arguments)
    data = Path(os.environ.get("BENCHMARK_DATA", ""))
    if not (data / "mbpp").is_dir():
        print(json.dumps({"skipped": "BENCHMARK_DATA is not a folder with benchmark data (mbpp/, apps/, ...)"}))
        return 0
    runs = {"sets": lambda: sets(data), "peers": lambda: peers(data), "mixed": lambda: mixed(data, options.programs)}
    num_different = 0
    for case in options.cases:
        for row in runs[case]():
            num_different += row.get("differ_from_first", 0)
            print(json.dumps(row), flush=True)
    return 1 if num_different else 0


if __name__ == "__main__":
    sys.exit(main())

"""Compares this checkout's sandbox with those of other checkouts, in turn, on the cases of `bench_sandbox.py`.

    python benchmarks/compare_sandboxes.py OTHER_CHECKOUT ... [--rounds N] [--only CASE ...]

Prints one JSON object per case and other checkout: programs per CPU second here and there (the best of the rounds),
their ratio, and the median of the rounds' ratios. CPU time does not count what other processes do meanwhile, but the
machine's speed still changes: more work beside it means colder caches, so the best rounds are the ones to compare. Not
named `bench_`, because it needs another checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from operator import truediv
from pathlib import Path

HERE = Path(__file__).parent.parent
CASES = ("trivial", "10-tests-passing", "10-tests-failing", "50-tests", "mbpp-3-asserts")


def programs_per_cpu_s(checkout: Path, case: str) -> float:
    """Measure one case with the checkout's own code, pinned to a core."""
    command = [sys.executable, "benchmarks/bench_sandbox.py", "--repeats", "1", "--only", case]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return float(next(row["programs_per_cpu_s"] for row in rows if row.get("system") == "ours"))


def main() -> None:
    """Measure every case in every checkout, round by round."""
    parser = argparse.ArgumentParser(description="Throughput of the sandbox in several checkouts.")
    parser.add_argument("others", nargs="+", type=Path, metavar="OTHER_CHECKOUT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES, metavar="CASE")
    options = parser.parse_args()
    for case in options.only:
        checkouts = [HERE, *(other.resolve() for other in options.others)]
        rounds = [[programs_per_cpu_s(checkout, case) for checkout in checkouts] for _ in range(options.rounds)]
        here = [rates[0] for rates in rounds]
        for number, other in enumerate(checkouts[1:], start=1):
            there = [rates[number] for rates in rounds]
            row = {
                "benchmark": "compare_sandboxes",
                "case": case,
                "other": other.name,
                "programs_per_cpu_s": max(here),
                "programs_per_cpu_s_other": max(there),
                "ratio": round(max(here) / max(there), 3),
                "median_ratio": round(statistics.median(map(truediv, here, there)), 3),
                "load": os.getloadavg()[0],
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

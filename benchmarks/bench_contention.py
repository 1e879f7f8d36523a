"""Do verdicts depend on the load? Grades honest programs, some near the limits, on an idle and then a busy machine.

    PYTHONPATH=. python benchmarks/bench_contention.py [--programs N] [--neighbours N]

Prints one JSON object: the share of verdicts that stay the same beside busy neighbors (target 0.999), and the first
few that differ. The neighbors are endless loops on the cores that the sandbox may use.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence

from rltf.problems.types import CallTest, Problem, StdinTest
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation, Outcome
from rltf.settings import SandboxSettings

LIMITS = SandboxSettings(cpu_s=0.5, wall_s=3.0, program_wall_s=60.0, memory_bytes=64 << 20)
_STDIN = Problem("stdin", "contention", "", tuple(StdinTest(f"{n}\n", f"{n * n}\n") for n in (3, 4)))
_CALL = Problem("call", "contention", "", (CallTest("f", (5,), 25),))
_BUSY = "import time\nwhile time.process_time() < {}: pass\n"
_ANSWER = "print(int(input()) ** 2)\n"
# (weight, problem, program). Most are ordinary; the others come within a fifth of a limit, on either side.
_PROGRAMS = (
    (60, _STDIN, _ANSWER),
    (10, _STDIN, "print(1)"),
    (10, _STDIN, "n = int(input())\nif n == 4: n / 0\nprint(n * n)"),
    (20, _CALL, "def f(n): return sum(n for _ in range(n))"),
    (3, _STDIN, _BUSY.format(0.4) + _ANSWER),
    (2, _STDIN, _BUSY.format(0.44) + _ANSWER),
    (2, _STDIN, _BUSY.format(0.6) + _ANSWER),
    (2, _STDIN, "import time\ntime.sleep(0.2)\n" + _ANSWER),
    (2, _STDIN, "x = bytearray(40 << 20)\n" + _ANSWER),
    (2, _STDIN, "x = bytearray(80 << 20)\n" + _ANSWER),
    (2, _STDIN, "import sys\nsys.stdout.write('x' * (6 << 20))\n"),
    (1, _STDIN, "while True: pass"),
    (1, _STDIN, "import time\ntime.sleep(60)"),
)


def grade_all(work: Sequence[tuple[Problem, str]]) -> tuple[list[tuple[Outcome, ...]], float]:
    """The outcomes of every test of every program, and the seconds it took."""
    started = time.monotonic()
    with Sandbox(LIMITS, min_isolation=Isolation.LANDLOCK) as sandbox:
        outcomes = [sandbox.grade(problem, program, "0").tests for problem, program in work]
    return outcomes, round(time.monotonic() - started, 1)


def main() -> int:
    """Grade the same programs alone and beside neighbors, and compare."""
    parser = argparse.ArgumentParser(description="Verdicts under contention.")
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--neighbours", type=int, default=4)
    options = parser.parse_args()
    weights = [weight for weight, _, _ in _PROGRAMS]
    drawn = random.Random(0).choices(_PROGRAMS, weights, k=options.programs)
    work = [(problem, program) for _, problem, program in drawn]
    load = os.getloadavg()[0]
    alone, alone_s = grade_all(work)
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.neighbours)]
    try:
        beside, beside_s = grade_all(work)
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    differing = [
        {"program": program, "alone": a, "beside": b}
        for (_, program), a, b in zip(work, alone, beside, strict=True)
        if a != b
    ]
    share = 1 - len(differing) / len(work)
    result = {"programs": len(work), "neighbours": options.neighbours, "same": round(share, 5), "target": 0.999}
    seconds = {"seconds_alone": alone_s, "seconds_beside": beside_s, "load_before": load, "cores": os.cpu_count()}
    print(json.dumps({"benchmark": "contention", **result, **seconds, "differing": differing[:5]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

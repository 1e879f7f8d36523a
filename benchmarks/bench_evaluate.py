"""Time of evaluate.py from a file of programs to results.json: 164 HumanEval problems x 100 programs of CodeGen-16B.

    BENCHMARK_DATA=FOLDER PYTHONPATH=. python benchmarks/bench_evaluate.py [--limit N] [--output DIR]

Prints one JSON object: seconds, the load of the machine over the last 15 minutes, pass@k with intervals, and outcomes.
Without the data, it prints that it skipped the benchmark.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path

import rltf.evaluate
from benchmarks.corpora import CORPORA, HUMANEVAL

NUM_SAMPLES = 100


def main() -> int:
    """Run the evaluation, and print its time and its results."""
    parser = argparse.ArgumentParser(description="evaluate.py on 16,400 programs of CodeGen.")
    parser.add_argument("--limit", type=int, help="largest number of programs")
    parser.add_argument("--output", type=Path, help="keep the folder of the evaluation here")
    options = parser.parse_args()
    data = Path(os.environ.get("BENCHMARK_DATA", ""))
    if not (data / "completions").is_dir():
        print(json.dumps({"skipped": "BENCHMARK_DATA is not a folder with benchmark data (completions/, ...)"}))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        samples = Path(temporary) / "samples.jsonl"
        with samples.open("w", encoding="utf-8") as file:
            for case in islice(CORPORA["codegen-humaneval"](data), options.limit):
                row = {"task_id": case.problem.task_id, "completion_id": case.name, "code": case.program}
                file.write(json.dumps(row) + "\n")
        output = options.output or Path(temporary) / "evaluation"
        started = time.monotonic()
        command = ["--samples", str(samples), "--problems", HUMANEVAL.format(data), "--output", str(output)]
        with redirect_stdout(sys.stderr):  # the table
            status = rltf.evaluate.main([*command, "--k", "1", "10", str(NUM_SAMPLES)])
        if status:
            return status
        results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    measured = {"case": "codegen-16B-humaneval", "seconds": round(time.monotonic() - started, 1)}
    print(json.dumps(measured | {"load_average": os.getloadavg()[2]} | results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

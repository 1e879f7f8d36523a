"""What the way over HTTP costs: programs per second beside the same grader in the process, and seconds to an answer.

    PYTHONPATH=. python benchmarks/bench_serve.py [--rounds N]

Prints one JSON object per case. `batches-of-64`: programs per second of a server with one sandbox, whose client sends
batches of 64 programs, relative to `Grader` with one sandbox on the same programs; both take turns, and the figures are
medians of the rounds. `relative_per_cpu_s` compares programs per CPU second of the processes that grade, jails included
and the client left out: it is steadier on a shared machine. `single`: milliseconds from a request with one program to
its verdict, while so many clients at a time send one request after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rltf.grader import Grader
from rltf.serving.client import GraderClient

ROOT = Path(__file__).parents[1]
BATCH = 64
NUM_BATCHES = {"trivial": 6, "10-tests": 2, "3-asserts": 4}
NUM_REQUESTS = {1: 200, 64: 1024, 1000: 2000}


def stdin_row(num_tests: int) -> dict[str, Any]:
    """A problem of reading a number and printing its square plus one."""
    tests = [{"stdin": f"{n}\n", "expected": f"{n * n + 1}\n"} for n in range(2, 2 + num_tests)]
    return {"task_id": f"stdin-{num_tests}", "statement": "Square it, and add one.", "tests": tests}


def assert_row(num_tests: int) -> dict[str, Any]:
    """The same as a function with assertions."""
    tests = [{"assert": f"assert f({n}) == {n * n + 1}"} for n in range(2, 2 + num_tests)]
    return {"task_id": f"asserts-{num_tests}", "statement": "Square it, and add one.", "tests": tests}


CASES = {
    "trivial": (stdin_row(1), "print(int(input()) ** 2 + 1)  # {}"),
    "10-tests": (stdin_row(10), "print(int(input()) ** 2 + 1)  # {}"),
    "3-asserts": (assert_row(3), "def f(n):\n    return n ** 2 + 1  # {}"),
}


def main() -> int:
    """Run every case."""
    parser = argparse.ArgumentParser(description="The grader over HTTP.")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with server() as (address, pid):
        client = GraderClient(address)
        with Grader(1) as grader:
            for name in CASES:
                for in_flight in (1, 4):
                    found = batches(grader, client, pid, name, options.rounds, in_flight)
                    print_case(f"batches-of-{BATCH}", programs=name, in_flight=in_flight, **found)
        for num_clients, num_requests in NUM_REQUESTS.items():
            found = asyncio.run(latencies(address, num_clients, num_requests))
            print_case("single", clients=num_clients, **found)
    return 0


@contextlib.contextmanager
def server() -> Iterator[tuple[str, int]]:
    """The address and process id of a server with one sandbox, in a process of its own."""
    command = [sys.executable, "-m", "rltf.cli", "serve", "--port", "0", "--workers", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+:\d+", process.stdout.readline())
        assert found is not None
        try:
            yield found[0], process.pid
        finally:
            process.terminate()


def batches(
    grader: Grader, client: GraderClient, server_pid: int, case: str, rounds: int, in_flight: int
) -> dict[str, Any]:
    """Programs per second in the process and over HTTP, with `in_flight` batches under way."""
    row, program = CASES[case]
    num_batches = NUM_BATCHES[case]
    rates: dict[str, list[float]] = {"process": [], "http": []}
    cpu_s = {"process": 0.0, "http": 0.0}
    for number in range(rounds + 1):
        work = [[program.format((number, batch, n)) for n in range(BATCH)] for batch in range(num_batches)]
        at_server, at_all = tree_cpu_s(server_pid), tree_cpu_s(os.getpid())
        started = time.perf_counter()
        verdicts = [grader.grade(row, programs) for programs in work]
        halfway, in_process_cpu_s = time.perf_counter(), tree_cpu_s(os.getpid()) - at_all
        with ThreadPoolExecutor(in_flight) as executor:
            rows = list(executor.map(lambda programs: client.grade([row], programs), work))
        ended = time.perf_counter()
        assert all(verdict.passed for batch in verdicts for verdict in batch)
        assert all(verdict["passed"] for batch in rows for verdict in batch)
        if number > 0:  # the first round warms up
            rates["process"].append(BATCH * num_batches / (halfway - started))
            rates["http"].append(BATCH * num_batches / (ended - halfway))
            cpu_s["process"] += in_process_cpu_s
            cpu_s["http"] += tree_cpu_s(server_pid) - at_server
    ratios = [http / process for http, process in zip(rates["http"], rates["process"], strict=True)]
    return {
        "programs_per_s": round(statistics.median(rates["http"]), 1),
        "in_process_programs_per_s": round(statistics.median(rates["process"]), 1),
        "relative": round(statistics.median(ratios), 3),
        "relative_per_cpu_s": round(cpu_s["process"] / cpu_s["http"], 3),
    }


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and all its descendants, including those that have ended."""
    total, waiting = 0, [pid]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            total += sum(map(int, (folder / "stat").read_text().rpartition(")")[2].split()[11:15]))
            waiting += [int(child) for file in folder.glob("task/*/children") for child in file.read_text().split()]
    return total / os.sysconf("SC_CLK_TCK")


async def latencies(address: str, num_clients: int, num_requests: int) -> dict[str, Any]:
    """Percentiles of the milliseconds to an answer, and requests per second."""
    host, port = address.removeprefix("http://").split(":")
    row, program = CASES["trivial"]
    seconds: list[float] = []
    left = iter(range(num_requests))

    async def send_all() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for number in left:
            body = json.dumps({"problems": [row], "programs": [program.format(number)]}).encode()
            head = (
                f"POST /v1/grade HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            )
            started = time.perf_counter()
            writer.write(f"{head}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer)
            assert length is not None
            content = json.loads(await reader.readexactly(int(length[1])))
            seconds.append(time.perf_counter() - started)
            assert content["verdicts"][0]["passed"]
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(send_all() for _ in range(num_clients)))
    rate = num_requests / (time.perf_counter() - started)
    return {"p50_ms": percentile(seconds, 50), "p99_ms": percentile(seconds, 99), "requests_per_s": round(rate, 1)}


def percentile(seconds: Sequence[float], percent: int) -> float:
    """A percentile in milliseconds."""
    return round(1000 * statistics.quantiles(seconds, n=100)[percent - 1], 2)


def print_case(case: str, **found: Any) -> None:
    """One JSON object on a line of its own."""
    print(json.dumps({"benchmark": "serve", "case": case, **found, "load": os.getloadavg()[0]}), flush=True)


if __name__ == "__main__":
    sys.exit(main())

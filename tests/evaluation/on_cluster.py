"""Evaluations on a cluster of two Ray nodes, both on this machine. A cluster needs a process of its own.

    python -m tests.evaluation.on_cluster OUTPUT.json MODEL FOLDER

Writes what they found as JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
from ray.cluster_utils import Cluster

import rltf.serving.cluster
from rltf.cluster_evaluation import _Generators
from rltf.entry import run_command
from rltf.evaluate import main as evaluate
from rltf.evaluation.store import SampleStore, read_samples
from tests.evaluation.fragile_worker import DEADLY, FragileWorker

NODE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}
NAMES = ("first", "second")
NUM_PROBLEMS = 3


def problem_files(folder: Path) -> list[str]:
    """Two SPECs, of problems that the tiny model does not solve."""
    specs = []
    for name in NAMES:
        rows = [
            {
                "task_id": f"{name}-{number}",
                "statement": f"Print the {name} {number}.",
                "tests": [{"stdin": text, "expected": str(number)} for text in ("1", "2")],
                "num_visible_tests": 1,
            }
            for number in range(NUM_PROBLEMS)
        ]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        specs.append(f"jsonl:{path}")
    return specs


def said(command: Sequence[str]) -> dict[str, Any]:
    """The status of a command, and what it says on standard error apart from its log."""
    with contextlib.redirect_stderr(io.StringIO()) as stderr, contextlib.redirect_stdout(io.StringIO()):
        status = run_command("rltf", lambda: evaluate(command))
    lines = [line for line in stderr.getvalue().splitlines() if line.startswith(("rltf:", "error:"))]
    return {"status": status, "said": lines}


def rows(folder: Path) -> dict[str, Any]:
    """All rows by their ids, without what depends on the machine."""
    files = sorted(folder.rglob("samples.jsonl"))
    return {row["completion_id"]: row | {"seconds": 0} for file in files for row in read_samples(file.parent)}


@contextlib.contextmanager
def on_append(number: int, act: Callable[[], None]) -> Iterator[None]:
    """Act as soon as so many rows are stored."""
    append, num_rows = SampleStore.append, 0

    def noted(store: SampleStore, row: dict[str, Any]) -> None:
        nonlocal num_rows
        append(store, row)
        num_rows += 1
        if num_rows == number:
            act()

    with patch.object(SampleStore, "append", noted):
        yield


def processes(actor: str) -> list[psutil.Process]:
    """The processes of the cluster that run this kind of actor, the oldest first."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if f"ray::{actor}" in "".join(process.cmdline()):
                found.append(process)
    return sorted(found, key=lambda process: process.create_time())


@contextlib.contextmanager
def one_dies() -> Iterator[None]:
    """A generator that has got requests, and a sandbox, die when the first program of the others is stored."""
    start = _Generators._start
    stopped: list[psutil.Process] = []

    def started(*arguments: Any) -> Any:
        engines = start(*arguments)
        stopped.append(processes("EngineActor")[0])
        stopped[0].send_signal(signal.SIGSTOP)  # so that it is in the middle of what it gets now
        return engines

    def kill() -> None:
        for process in (*stopped, *processes("FragileWorker")[:1]):
            process.kill()

    with patch.object(_Generators, "_start", started), on_append(1, kill):
        yield


def half(folder: Path, of: Path) -> None:
    """An evaluation that was interrupted in the middle of the first SPEC."""
    shutil.copytree(of, folder)
    for file, num_kept in zip(sorted(folder.rglob("samples.jsonl")), (2, 0), strict=True):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:num_kept]))


def scenarios(address: str, model: Path, folder: Path) -> dict[str, Any]:
    """What evaluations find in this process and on the cluster at `address`."""
    specs = problem_files(folder)
    options = ["--model", str(model), "--engine", "transformers", "--dtype", "float32", "--workers", "2"]
    options += ["--temperature", "1", "--num-samples", "2", "--max-tokens", "8", "--problems"]
    turns = ["--turns", "2", "--max-tokens", "4"]
    there = ["--cluster.address", address, "--generator.num_gpus", "0"]
    seen: dict[str, Any] = {}

    def run(name: str, output: str, *command: str) -> None:
        seen[name] = said([*command, "--output", str(folder / output)]) | {"rows": rows(folder / output)}

    run("local", "local", *options, *specs)
    run("local_turns", "local-turns", *options, specs[0], *turns)
    with on_append(3, lambda: os.kill(os.getpid(), signal.SIGINT)):
        run("interrupted", "turns", *options, specs[0], *turns, *there, "--generator.num_generators", "1")
    half(folder / "out", of=folder / "local")
    with one_dies():
        run("continued", "out", *options, *specs, *there)
    programs = folder / "programs.jsonl"
    codes = ["print(0)", DEADLY, "print(1)"]
    lines = [{"task_id": "first-0", "completion_id": str(name), "code": code} for name, code in enumerate(codes)]
    programs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("file", "file", "--samples", str(programs), "--problems", specs[0], *there[:2], "--workers", "2")
    run("no_room", "never", *options, specs[0], *there[:2])
    return seen


def main(output: Path, model: Path, folder: Path) -> None:
    """Run all scenarios on one cluster."""
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    with patch.object(rltf.serving.cluster, "ServingWorker", FragileWorker):
        output.write_text(json.dumps(scenarios(cluster.address, model, folder)))
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))

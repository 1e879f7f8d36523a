"""vLLM with its core in another process, and two workers that have half of the model each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from rltf.actors.engine import EngineOptions
from rltf.transport.weight_receiver import WeightsMismatchError
from rltf.transport.weights import checksum
from tests.actors.engine_process import EngineProcess, engine_process
from tests.actors.sampling import Weights, engine_options, make_request, sequence_ids

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PROMPT = list(range(10, 80))
GONE_S = 30.0
# Not started by `multiprocessing`, so that it has files of its own, as an actor of Ray.
ACTOR = """
import json, sys
from pathlib import Path
from rltf.actors.vllm_engine import VllmEngine
from rltf.transport.weight_receiver import TransferPhase
from tests.actors import engine_process
from tests.actors.sampling import make_request
from tests.actors.test_vllm_workers import options

engine = VllmEngine(Path(sys.argv[1]), options(2))
engine.add_request(make_request("waits", [10, 11]))
engine.receive(TransferPhase.START, {"version": 1, "checksum": None})
print(json.dumps(engine_process._processes()), flush=True)
sys.stdin.readline()
try:
    while engine.num_unfinished:
        engine.step()
except Exception as error:
    print(type(error).__name__, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[EngineProcess]:
    with engine_process(tmp_path) as started:
        yield started


def options(num_workers: int) -> EngineOptions:
    return engine_options(
        "float32", 256, max_num_seqs=16, kv_cache_bytes=2**24, end_token_ids=(1,), num_workers=num_workers
    )


def test_two_workers_sample_as_one_and_end_together(
    process: EngineProcess,
    tiny_model_dir: Path,
    make_weights: Callable[[int], Weights],
    reference_logprobs: Callable[..., torch.Tensor],
) -> None:
    request = make_request("a", PROMPT, num_samples=4, max_tokens=40)
    weights = {version: make_weights(version) for version in (1, 2)}
    with process.engine(tiny_model_dir, options(1)):
        expected = [process.sample([request])["a"]]
        process.load_weights(1, weights[1])
        expected.append(process.sample([request])["a"])
    process.start(tiny_model_dir, options(2))
    found = [process.sample([request])["a"]]
    process.load_weights(1, weights[1])
    found.append(process.sample([request])["a"])
    for one, two in zip(expected, found, strict=True):
        for ours, theirs in zip((*two.samples, two.greedy), (*one.samples, one.greedy), strict=True):
            assert ours is not None
            assert theirs is not None
            assert sequence_ids(ours) == sequence_ids(theirs)
            assert ours.weight_versions == theirs.weight_versions
            np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=2e-5, rtol=0)

    long = [make_request(f"{i}", PROMPT, num_samples=4, max_tokens=100, seed=i) for i in range(12)]
    finished = process.sample(long, update=(2, weights[2])).values()
    for sequence in (sequence for one in finished for sequence in one.samples):
        # The core makes steps by itself, so nobody knows after how many of them the update arrives.
        assert [span.version for span in sequence.weight_versions] in ([1], [1, 2], [2])
        for span in sequence.weight_versions:
            scored = reference_logprobs(weights[span.version], PROMPT, sequence_ids(sequence)).numpy()
            part = slice(span.first, span.end)
            np.testing.assert_allclose(sequence.logprobs[part], scored[part], atol=1e-4, rtol=0)

    crc = checksum([{name: value.numpy() for name, value in weights[1].items()}])
    process.load_weights(3, weights[1], crc)
    with pytest.raises(WeightsMismatchError, match="received weights version 4 with checksum"):
        process.load_weights(4, weights[2], crc)
    vllm = process.processes()
    os.kill(find(vllm, "Worker_TP0"), signal.SIGKILL)
    with pytest.raises(RuntimeError, match="EngineDeadError"):
        process.sample(long)
    os.kill(find(vllm, "actor"), signal.SIGKILL)  # as generators that fail end
    check_gone(vllm)


@pytest.mark.long
@pytest.mark.parametrize("victim", ["EngineCore", "actor"])
def test_nothing_is_left_of_an_engine_that_is_killed(victim: str, tiny_model_dir: Path) -> None:
    command = [sys.executable, "-c", ACTOR, str(tiny_model_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as actor:
        assert actor.stdin is not None
        assert actor.stdout is not None
        vllm = {int(pid): name for pid, name in json.loads(actor.stdout.readline()).items()}
        files = shared_files(vllm)
        os.kill(find(vllm, victim), signal.SIGKILL)
        if victim == "EngineCore":
            actor.stdin.write("\n")
            actor.stdin.flush()
            assert actor.stdout.readline() == "EngineDeadError\n"
            check_gone(vllm.keys() - {actor.pid})
            actor.kill()
        check_gone(vllm, files)


def find(processes: dict[int, str], name: str) -> int:
    (found,) = [pid for pid, title in processes.items() if name in title]
    return found


def shared_files(processes: Iterable[int]) -> set[str]:
    """The files in /dev/shm that the processes have mapped."""
    paths = {area.path for pid in processes for area in psutil.Process(pid).memory_maps()}
    files = {path for path in paths if path.startswith("/dev/shm/")}
    assert files
    return files


def check_gone(processes: Iterable[int], files: Iterable[str] = ()) -> None:
    """Wait until the processes have ended and the files are removed."""
    deadline = time.monotonic() + GONE_S

    def runs(pid: int) -> bool:
        return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE

    while left := [*filter(runs, processes), *filter(os.path.exists, files)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)

"""vLLM engines in a process of their own, as generators have one. There is no compiler on its PATH.

vLLM's Transformers backend changes classes of transformers in its process, so nothing else can use them there later.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from rltf.actors.engine import EngineOptions, FinishedRequest, SamplingRequest
from tests.actors.sampling import Weights

ANSWER_S = 300.0
STEPS_BEFORE_UPDATE = 8
NEEDED_BY_VLLM = ("lscpu", "ldconfig", "uname")
COMPILERS = ("c++", "g++", "gcc", "cc", "clang", "clang++")

_engine: Any = None


class EngineProcess:
    """The methods of a `SamplingEngine` that tests need. The engine in the other process does the work."""

    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self._executor = executor

    def _ask(self, function: Any, *arguments: Any) -> Any:
        return self._executor.submit(_run, function, *arguments).result(timeout=ANSWER_S)

    @contextmanager
    def engine(self, model: Path, options: EngineOptions) -> Iterator[None]:
        """Serve `model`. Only one engine runs at a time."""
        self.start(model, options)
        yield
        self._ask(_close)

    def start(self, model: Path, options: EngineOptions) -> None:
        """Serve `model` until the process ends."""
        self._ask(_start, model, options)

    def load_weights(self, version: int, weights: Weights, checksum: int | None = None) -> None:
        """Load weights. If `checksum` is given, as those that the learner sends."""
        self._ask(_load, version, {name: value.numpy() for name, value in weights.items()}, checksum)

    def sample(
        self, requests: Sequence[SamplingRequest], update: tuple[int, Weights] | None = None
    ) -> dict[str, FinishedRequest]:
        """The answers to `requests`. With an `update`, its version of the weights is loaded after some steps."""
        version, weights = update or (0, {})
        arrays = {name: value.numpy() for name, value in weights.items()}
        result: dict[str, FinishedRequest] = self._ask(_sample, requests, version, arrays)
        return result

    def processes(self) -> dict[int, str]:
        """The processes that vLLM has started for the engine, by their ids, and the one that has the engine."""
        found: dict[int, str] = self._ask(_processes)
        return found

    def compilers(self) -> list[str]:
        """The compilers that the process finds."""
        found: list[str] = self._ask(_compilers)
        return found


@contextmanager
def engine_process(folder: Path) -> Iterator[EngineProcess]:
    """A process that serves one engine after another. Its tools and caches are in `folder`."""
    tools = folder / "bin"
    tools.mkdir()
    for name in NEEDED_BY_VLLM:
        found = shutil.which(name, path=f"{os.environ['PATH']}:/sbin:/usr/sbin")
        if found:
            (tools / name).symlink_to(found)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_enter, initargs=(folder, tools)) as executor:
        yield EngineProcess(executor)


def _enter(folder: Path, tools: Path) -> None:
    for name in ("CC", "CXX", "TORCH_COMPILE_DISABLE"):
        os.environ.pop(name, None)
    os.environ |= {"PATH": str(tools), "HOME": str(folder), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}


def _run(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        if type(error).__module__.startswith("vllm"):  # to unpickle it, the test would have to import vLLM
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise


def _compilers() -> list[str]:
    return [name for name in COMPILERS if shutil.which(name)]


def _start(model: Path, options: EngineOptions) -> None:
    global _engine
    from rltf.actors.vllm_engine import VllmEngine

    _engine = VllmEngine(model, options)


def _load(version: int, weights: dict[str, Any], checksum: int | None) -> None:
    import torch

    receive = _engine.receive
    if checksum is not None:
        _engine.receive = lambda phase, payload: receive(phase, {**payload, "checksum": checksum})
    try:
        _engine.load_weights(version, ((name, torch.from_numpy(value)) for name, value in weights.items()))
    finally:
        _engine.receive = receive


def _sample(requests: Sequence[SamplingRequest], version: int, weights: dict[str, Any]) -> dict[str, FinishedRequest]:
    finished: dict[str, FinishedRequest] = {}
    for request in requests:
        _engine.add_request(request)
    for _ in range(STEPS_BEFORE_UPDATE if weights else 0):
        finished |= {result.request_id: result for result in _engine.step()}
    if weights:
        _load(version, weights, None)
    while _engine.num_unfinished:
        finished |= {result.request_id: result for result in _engine.step()}
    return finished


def _processes() -> dict[int, str]:
    me = psutil.Process()
    names = {process.pid: "".join(process.cmdline()) for process in me.children(recursive=True)}
    return {pid: name for pid, name in names.items() if name.startswith("VLLM::")} | {me.pid: "actor"}


def _close() -> None:
    global _engine
    _engine.close()
    _engine = None

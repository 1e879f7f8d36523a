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

from rltf.actors.engine import EngineOptions, FinishedRequest, SamplingRequest
from tests.actors.sampling import Weights

ANSWER_S = 120.0
NEEDED_BY_VLLM = ("lscpu", "ldconfig", "uname")
COMPILERS = ("c++", "g++", "gcc", "cc", "clang", "clang++")

_engine: Any = None


class EngineProcess:
    """The methods of a `SamplingEngine` that tests need. The engine in the other process does the work."""

    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self._executor = executor

    def _ask(self, function: Any, *arguments: Any) -> Any:
        return self._executor.submit(function, *arguments).result(timeout=ANSWER_S)

    @contextmanager
    def engine(self, model: Path, options: EngineOptions) -> Iterator[None]:
        """Serve `model`. Only one engine runs at a time."""
        self._ask(_start, model, options)
        yield
        self._ask(_close)

    def load_weights(self, version: int, weights: Weights) -> None:
        self._ask(_load, version, {name: value.numpy() for name, value in weights.items()})

    def sample(self, requests: Sequence[SamplingRequest]) -> dict[str, FinishedRequest]:
        result: dict[str, FinishedRequest] = self._ask(_sample, requests)
        return result

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


def _compilers() -> list[str]:
    return [name for name in COMPILERS if shutil.which(name)]


def _start(model: Path, options: EngineOptions) -> None:
    global _engine
    from rltf.actors.vllm_engine import VllmEngine

    _engine = VllmEngine(model, options)


def _load(version: int, weights: dict[str, Any]) -> None:
    import torch

    _engine.load_weights(version, ((name, torch.from_numpy(value)) for name, value in weights.items()))


def _sample(requests: Sequence[SamplingRequest]) -> dict[str, FinishedRequest]:
    finished: dict[str, FinishedRequest] = {}
    for request in requests:
        _engine.add_request(request)
    while _engine.num_unfinished:
        finished |= {result.request_id: result for result in _engine.step()}
    return finished


def _close() -> None:
    global _engine
    _engine.close()
    _engine = None

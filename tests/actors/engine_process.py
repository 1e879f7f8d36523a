"""A vLLM engine in a process of its own, as generators are: vLLM's Transformers backend changes classes of transformers
in the process it runs in, so that nothing else can use them there afterwards."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.engine import EngineOptions, FinishedRequest, SamplingRequest
from tests.actors.sampling import Weights

ANSWER_S = 120.0

_engine: Any = None


class EngineProcess:
    """The methods of a `SamplingEngine` that tests need, each answered by the engine in the other process."""

    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self._executor = executor

    def _ask(self, function: Any, *arguments: Any) -> Any:
        return self._executor.submit(function, *arguments).result(timeout=ANSWER_S)

    @contextmanager
    def engine(self, model: Path, options: EngineOptions) -> Iterator[None]:
        """Serve `model`, one at a time."""
        self._ask(_start, model, options)
        yield
        self._ask(_close)

    def load_weights(self, version: int, weights: Weights) -> None:
        self._ask(_load, version, {name: value.numpy() for name, value in weights.items()})

    def sample(self, requests: Sequence[SamplingRequest]) -> dict[str, FinishedRequest]:
        result: dict[str, FinishedRequest] = self._ask(_sample, requests)
        return result


@contextmanager
def engine_process() -> Iterator[EngineProcess]:
    """A process that serves one engine after another."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield EngineProcess(executor)


def _start(model: Path, options: EngineOptions) -> None:
    global _engine
    from actors.vllm_engine import VllmEngine

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

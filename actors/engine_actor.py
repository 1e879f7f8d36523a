"""A sampling engine as an actor, for weights that stay as they are: an evaluation on a cluster.

    submit -> [inbox] -> engine thread: admit, step -> [ready] -> take

The requests bring their prompts, and the answers are ids. So unlike the generator of a run (`actors/generator.py`), it
knows neither problems nor the rollout store.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import ray

from rltf.actors.engine import FinishedRequest, SamplingRequest, build_engine
from rltf.actors.messages import GeneratorError, RolloutRequest
from rltf.settings import GeneratorSettings, ModelSettings
from rltf.transport.folders import HomeFolders


@dataclass(frozen=True, slots=True)
class EngineRequest(RolloutRequest):
    """A request with the ids [P] of its prompt, and those that its completions continue (`SamplingRequest`)."""

    prompt_ids: tuple[int, ...] = ()
    prefix_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, request: SamplingRequest) -> EngineRequest:
        """The request of an engine in this process, for one elsewhere."""
        asked = {field.name: getattr(request.rollout, field.name) for field in fields(request.rollout)}
        return cls(**asked, prompt_ids=tuple(request.prompt_ids), prefix_ids=tuple(request.prefix_ids))


class EngineActor:
    """Samples requests; see the module's docstring.

    After an internal failure, every call raises `GeneratorError` with the cause, and the actor must be replaced.
    """

    def __init__(
        self,
        name: str,
        model: Path,
        settings: ModelSettings,
        generator: GeneratorSettings,
        end_ids: tuple[int, ...],
        seed: int,
        home: HomeFolders,
    ) -> None:
        """Build the engine from `model`, a folder on the node of `home`, and start. Raises as `build_engine`."""
        self._name = name
        self._engine = build_engine(home.fetch(model), settings, generator, end_ids, seed)
        lock = threading.Lock()
        self._work, self._delivered = threading.Condition(lock), threading.Condition(lock)
        self._inbox: list[EngineRequest] = []
        self._ready: list[FinishedRequest] = []
        self._failure: Exception | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._guard, name=f"{name} sampling", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        """The prefix of this actor's log lines, and its name in the dashboard."""
        return self._name

    @ray.method
    def ping(self) -> str:
        """The actor's name, once it is ready."""
        self._check()
        return self._name

    @ray.method
    def submit(self, requests: Sequence[EngineRequest]) -> None:
        """Queue the requests. Each must leave room for a completion."""
        self._check()
        with self._work:
            self._inbox += requests
            self._work.notify()

    @ray.method
    def take(self, timeout_s: float) -> list[FinishedRequest]:
        """What has finished since the last call. Waits up to `timeout_s` for the first."""
        with self._delivered:
            self._delivered.wait_for(lambda: self._ready or self._failure, timeout_s)
            ready, self._ready = self._ready, []
        self._check()
        return ready

    @ray.method
    def close(self) -> None:
        """End the engine, with its processes, after its current step."""
        with self._work:
            self._closing = True
            self._work.notify()
        self._thread.join()

    def _check(self) -> None:
        if self._failure is not None:
            cause = f"{type(self._failure).__name__}: {self._failure}"
            raise GeneratorError(f"generator {self._name} failed: {cause}")

    def _guard(self) -> None:
        try:
            self._sample()
        except Exception as error:  # a thread has no caller to raise to, so every later call gets the error
            logging.getLogger(__name__).exception("%s failed", self._name)
            with self._delivered:
                self._failure = error
                self._delivered.notify_all()

    def _sample(self) -> None:
        """The engine thread."""
        while True:
            with self._work:
                self._work.wait_for(lambda: self._inbox or self._engine.num_unfinished or self._closing)
                inbox, self._inbox = self._inbox, []
            if self._closing:
                break
            for request in inbox:
                self._engine.add_request(SamplingRequest(request, request.prompt_ids, prefix_ids=request.prefix_ids))
            if finished := self._engine.step():
                with self._delivered:
                    self._ready += finished
                    self._delivered.notify_all()
        self._engine.close()

"""The generator actor: keeps one sampling engine busy, and hands out references to finished rollouts.

    submit -> [inbox] -> engine thread: load weights, admit, step -> [finished] -> delivery thread -> [ready] -> take
                                                                     text, program, rollout store

Only the engine thread touches the engine, and it waits only when there is nothing to sample. The delivery thread
decodes text and talks to the rollout store. Ray calls the public methods from several threads.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorProxy
from ray.exceptions import RayActorError, RayTaskError

from rltf.actors.engine import FinishedRequest, SamplingRequest, build_engine
from rltf.actors.messages import FETCH_TURNS_S, GeneratorError, GeneratorStats, RolloutHandle, RolloutRequest
from rltf.actors.prompting import Prompter
from rltf.problems.types import Problem
from rltf.settings import GeneratorSettings, LoraPublish, OnUpdate, Settings, WeightTransfer
from rltf.transport.folders import HomeFolders
from rltf.transport.lora import AdapterMerger
from rltf.transport.model_folder import end_token_ids
from rltf.transport.rollouts import EarlierTurn, RolloutStore
from rltf.transport.weight_receiver import (
    PHASE_TIMEOUT_S,
    TransferError,
    TransferPhase,
    WeightReceiver,
    WeightsGoneError,
    WeightsMismatchError,
)
from rltf.transport.weights import WeightsHandle, checksum, unpack

logger = logging.getLogger(__name__)

FETCH_TIMEOUT_S = 120.0
KEEP_TIMEOUT_S = 60.0
UPDATE_TIMEOUT_S = 120.0
DRAIN_TIMEOUT_S = 3600.0
# Calls that may run at the same time: long polls of `take`, an update, and short questions.
MAX_CONCURRENCY = 8


def actor_options(name: str, settings: GeneratorSettings) -> dict[str, Any]:
    """Ray's options for a generator actor: `ray.remote(Generator).options(**actor_options(...)).remote(...)`."""
    workers = settings.tensor_parallel_size
    return {
        "name": name,
        "num_cpus": settings.num_cpus,
        "num_gpus": settings.num_gpus,
        "max_concurrency": MAX_CONCURRENCY,
        # More kernel threads than reserved cores would take cores from the learner. Each worker starts as many.
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(max(1, int(settings.num_cpus / workers)))}},
    }


class Generator:
    """Samples rollouts; see the module's docstring.

    After an internal failure, every call raises `GeneratorError` with the cause, and the actor must be replaced.
    """

    def __init__(
        self,
        name: str,
        model: Path,
        settings: Settings,
        problems: Mapping[str, Problem],
        rollout_store: ActorProxy[RolloutStore],
        seed: int = 0,
        home: HomeFolders | None = None,
    ) -> None:
        """Build the engine from the Hugging Face folder `model`, as weights version 0, and start.

        `problems` are by task id (pass a reference; Ray resolves it). `seed` starts the engine's own random state, for
        requests without a seed. `model` is a path on the node of `home`, or on this node without one.

        Raises UserError if the folder cannot be sampled from.
        """
        self._name = name
        model = model if home is None else home.fetch(model)
        lora = settings.model.lora
        self._max_model_len = settings.model.max_model_len
        self._problems = problems
        self._prompter = Prompter(model, problems, settings.model, settings.generator.stop)
        self._tokenizer_lock = threading.Lock()
        end_ids = end_token_ids(model, self._prompter.tokenizer, chat=self._prompter.form.chat)
        self._engine = build_engine(
            model, settings.model, settings.generator, end_ids, seed, deterministic=settings.run.deterministic
        )
        self._merger = AdapterMerger(model, lora) if lora.rank and lora.publish == LoraPublish.ADAPTER else None
        self._rollout_store = rollout_store
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._delivered = threading.Condition(self._lock)
        self._inbox: list[SamplingRequest] = []
        self._in_flight: dict[str, SamplingRequest] = {}
        self._finished: queue.SimpleQueue[FinishedRequest] = queue.SimpleQueue()
        self._ready: list[RolloutHandle] = []
        self._failure: Exception | None = None
        self._closing = False
        self._closed = threading.Event()
        self._drains = settings.generator.on_update == OnUpdate.DRAIN
        self._update_timeout_s = update_timeout_s(settings.generator)
        self._receiver = WeightReceiver(
            self._update, self._work, self._note_update, drains=self._drains, timeout_s=self._update_timeout_s
        )
        self._version = self._num_sequences = self._num_tokens = self._num_updates = 0
        self._busy_s = self._updating_s = 0.0
        self._started = time.monotonic()
        for run in (self._sample, self._deliver):
            threading.Thread(target=self._guard, args=(run,), name=f"{name} {run.__name__}", daemon=True).start()

    def __repr__(self) -> str:
        """The prefix of this actor's log lines, and its name in the dashboard."""
        return self._name

    @ray.method
    def ping(self) -> str:
        """The generator's name, once it is ready."""
        self._check()
        return self._name

    @ray.method
    def too_long(self) -> list[str]:
        """The task ids whose prompts fill the model's context and leave no room for a program."""
        self._check()
        with self._tokenizer_lock:
            return [task_id for task_id in self._problems if len(self._prompter.encode(task_id)) >= self._max_model_len]

    @ray.method
    def submit(self, requests: Sequence[RolloutRequest]) -> None:
        """Queue all of `requests`, or none if one of them cannot be served.

        A dialogue whose prompt leaves no room is not sampled; its handle is empty. Raises ValueError if a problem is
        unknown, a first prompt leaves no room, or a `rollout_id` is already in flight, and Ray's ObjectLostError if the
        turn before died with the rollout store.
        """
        self._check()
        previous = _fetched(requests)
        with self._tokenizer_lock:
            prompts = [self._prompter.encode(r.task_id, previous.get(r.rollout_id)) for r in requests]
        new = {
            r.rollout_id: SamplingRequest(r, ids, previous.get(r.rollout_id))
            for r, ids in zip(requests, prompts, strict=True)
        }
        full = [id_ for id_ in previous if len(new[id_].prompt_ids) >= self._max_model_len]
        for request in new.values():
            if request.request_id not in full:
                request.completion_room(self._max_model_len)
        with self._lock:
            repeated = self._in_flight.keys() & new.keys()
            if repeated or len(new) < len(requests):
                raise ValueError(f"{self._name}: rollout ids requested twice: {sorted(repeated) or 'in one call'}")
            for rollout_id in full:
                del new[rollout_id]
                self._ready.append(RolloutHandle([], rollout_id))
            self._in_flight |= new
            self._inbox += new.values()
            self._work.notify()
            if full:
                self._delivered.notify_all()

    @ray.method
    def take(self, timeout_s: float) -> list[RolloutHandle]:
        """All rollouts finished since the last call. Waits up to `timeout_s` for the first."""
        with self._lock:
            self._delivered.wait_for(lambda: self._ready or self._failure, timeout_s)
            handles, self._ready = self._ready, []
        self._check()
        return handles

    @ray.method
    def update_weights(self, weights: WeightsHandle) -> int:
        """Sample with `weights` from the next engine step on. Returns the version that is sampled from afterwards.

        Requests in flight continue with them, or finish first if `generator.on_update` is `drain`. Weights older than
        the current ones are ignored, because two updates may arrive in either order.

        Raises:
            ray.exceptions.GetTimeoutError: the weights did not arrive from the object store in time.
            TimeoutError: the engine did not load them in time.
            WeightsMismatchError: they differ from what was published.
            WeightsGoneError: the learner that should send them died.
            TransferError: sending failed; the generator may hold half of them and must be replaced.
        """
        self._check()
        if weights.sender is None:
            buckets = ray.get(list(weights.refs), timeout=FETCH_TIMEOUT_S)
            if weights.checksum is not None and (received := checksum(buckets)) != weights.checksum:
                raise WeightsMismatchError(
                    f"{self._name} received weights version {weights.version} with checksum {received:08x}; the "
                    f"learner published {weights.checksum:08x}"
                )
            self._receiver.ask(TransferPhase.LOAD, {"version": weights.version, "buckets": buckets})
        elif weights.version > self._version:
            self._have_sent(weights)
        return self._version

    def _have_sent(self, weights: WeightsHandle) -> None:
        """Ask the learner to send its newest weights. Meanwhile it calls `transfer`, from another process."""
        assert weights.sender is not None
        self._receiver.ask(TransferPhase.READY, {})
        me = ray.get_runtime_context().current_actor
        try:
            ray.get(weights.sender.send.remote(me, self._name), timeout=self._update_timeout_s)
        except RayTaskError as error:
            raise TransferError(
                f"{self._name}: weights version {weights.version} did not arrive: {error.cause}"
            ) from error
        except RayActorError as error:
            if self._receiver.is_receiving:
                raise TransferError(f"{self._name}: the learner died while it sent weights") from error
            self._receiver.ask(TransferPhase.GIVE_UP, {})
            raise WeightsGoneError(f"weights version {weights.version} are gone with their learner") from error

    @ray.method
    def transfer(self, phase: TransferPhase, payload: Mapping[str, Any]) -> None:
        """Do a phase of an update that the learner sends; see `WeightReceiver.ask` and `VllmEngine.receive`."""
        self._check()
        self._receiver.ask(phase, payload)

    @ray.method
    def stats(self) -> GeneratorStats:
        """Counts and times since the start."""
        self._check()
        with self._lock:
            return GeneratorStats(
                name=self._name,
                version=self._version,
                num_in_flight=len(self._in_flight),
                num_sequences=self._num_sequences,
                num_tokens=self._num_tokens,
                num_updates=self._num_updates,
                busy_s=self._busy_s,
                updating_s=self._updating_s,
                wall_s=time.monotonic() - self._started,
                gpu_memory_bytes=self._engine.gpu_memory_bytes,
            )

    @ray.method
    def close(self) -> None:
        """End the engine, with its processes, after its current step. Ray would kill them and leave shared memory."""
        with self._lock:
            self._closing = True
            self._work.notify()
        self._closed.wait()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failed(self._failure)

    def _failed(self, cause: Exception) -> GeneratorError:
        return GeneratorError(f"generator {self._name} failed: {type(cause).__name__}: {cause}")

    def _guard(self, run: Callable[[], None]) -> None:
        try:
            run()
        except Exception as error:  # a thread has no caller to raise to, so every later call gets the error
            logger.exception("generator %s failed", self._name)
            with self._lock:
                self._failure = error
                self._delivered.notify_all()
                self._receiver.fail(self._failed(error))

    def _sample(self) -> None:
        """The engine thread."""
        while True:
            inbox: list[SamplingRequest] = []
            with self._lock:
                self._num_sequences = self._engine.num_unfinished
                self._work.wait_for(
                    lambda: self._inbox or self._receiver.is_asked or self._num_sequences or self._closing
                )
                if self._closing:
                    break
                updates = self._receiver.is_asked
                if updates and self._drains and self._num_sequences:
                    updates = False  # requests in flight finish first, and no others start
                else:
                    inbox, self._inbox = self._inbox, []
            if updates:
                self._receiver.take_part()
            for request in inbox:
                self._engine.add_request(request)
            began = time.monotonic()
            for finished in self._engine.step():
                self._finished.put(finished)
            self._busy_s += time.monotonic() - began
        self._engine.close()
        self._closed.set()

    def _update(self, phase: TransferPhase, payload: Mapping[str, Any]) -> None:
        """Do a phase of a weight update, on the engine thread."""
        if phase is not TransferPhase.LOAD:
            self._engine.receive(phase, payload)
        elif payload["version"] >= self._version:
            named_tensors = unpack(payload["buckets"])
            if self._merger is not None:
                named_tensors = self._merger.merge(named_tensors)
            self._engine.load_weights(payload["version"], named_tensors)

    def _note_update(self, version: int, seconds: float) -> None:
        with self._lock:
            self._version = max(self._version, version)
            self._num_updates += 1
            self._updating_s += seconds

    def _deliver(self) -> None:
        """The delivery thread. Everything that finished while it delivered a batch makes up the next one."""
        while True:
            batch = [self._finished.get()]
            while not self._finished.empty():
                batch.append(self._finished.get())
            with self._lock:
                requests = [self._in_flight[finished.request_id] for finished in batch]
            with self._tokenizer_lock:
                rollouts = [self._prompter.rollout(*pair) for pair in zip(requests, batch, strict=True)]
            refs = ray.get(self._rollout_store.keep.remote(rollouts), timeout=KEEP_TIMEOUT_S)
            with self._lock:
                for rollout, ref in zip(rollouts, refs, strict=True):
                    del self._in_flight[rollout.rollout_id]
                    self._num_tokens += sum(len(completion.token_ids) for completion in rollout.completions)
                    self._ready.append(RolloutHandle([ref], rollout.rollout_id))
                self._delivered.notify_all()


def _fetched(requests: Sequence[RolloutRequest]) -> dict[str, EarlierTurn]:
    """The last turns of the dialogues among `requests`, by rollout id."""
    continued = [request for request in requests if request.previous]
    turns = ray.get([request.previous[0] for request in continued], timeout=FETCH_TURNS_S)
    return {request.rollout_id: turn for request, turn in zip(continued, turns, strict=True)}


def update_timeout_s(settings: GeneratorSettings) -> float:
    """How long a weight update may take. If it drains, as long as completions may take.

    A learner that sends weights serves one generator after another.
    """
    timeout_s = DRAIN_TIMEOUT_S if settings.on_update == OnUpdate.DRAIN else UPDATE_TIMEOUT_S
    is_sent = settings.weight_transfer != WeightTransfer.OBJECT_STORE
    return timeout_s + is_sent * settings.num_generators * PHASE_TIMEOUT_S

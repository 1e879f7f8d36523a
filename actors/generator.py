"""The generator actor: keeps one sampling engine busy, and hands out references to what it sampled.

    submit -> [inbox] -> engine thread: load weights, admit, step -> [finished] -> delivery thread -> [ready] -> take
                                                                     text, program, keeper

The engine thread touches the engine alone and waits only when there is nothing to sample; text and object store are the
delivery thread's. Ray calls the public methods from several threads.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from actors.engine import FinishedRequest, SamplingRequest, completion_room
from actors.engines import build_engine
from actors.messages import (
    PHASE_TIMEOUT_S,
    GeneratorError,
    GeneratorStats,
    RolloutHandle,
    RolloutRequest,
    TransferError,
    TransferPhase,
    WeightsGoneError,
    WeightsMismatchError,
)
from actors.model_folder import end_token_ids
from actors.prompting import Prompter
from actors.weight_receiver import WeightReceiver
from problems.types import Problem
from settings import GeneratorSettings, ModelSettings
from transport.folders import HomeFolders
from transport.lora import AdapterMerger
from transport.weights import Bucket, WeightsHandle, WeightUpdateReply, checksum, unpack

logger = logging.getLogger(__name__)

FETCH_TIMEOUT_S = 120.0
KEEP_TIMEOUT_S = 60.0
UPDATE_TIMEOUT_S = 120.0
DRAIN_TIMEOUT_S = 3600.0
# Calls that may be under way at a time: long polls of `take`, an update, and short questions beside them.
MAX_CONCURRENCY = 8


def actor_options(name: str, settings: GeneratorSettings) -> dict[str, Any]:
    """Ray's options for a generator actor: `ray.remote(Generator).options(**actor_options(...)).remote(...)`."""
    return {
        "name": name,
        "num_cpus": settings.num_cpus,
        "num_gpus": settings.num_gpus,
        "max_concurrency": MAX_CONCURRENCY,
        # A kernel thread more than the cores asked for would take them from the learner.
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(max(1, int(settings.num_cpus)))}},
    }


@dataclass(frozen=True, slots=True)
class _InFlight:
    request: RolloutRequest
    prompt_ids: list[int]


@dataclass(frozen=True, slots=True)
class _Update:
    version: int
    buckets: list[Bucket]
    reply: Future[WeightUpdateReply]


class Generator:
    """Samples rollouts; see the module's docstring.

    After a failure inside, every call raises `GeneratorError` with the cause: the actor is of no more use.
    """

    def __init__(
        self,
        name: str,
        model: Path,
        model_settings: ModelSettings,
        settings: GeneratorSettings,
        problems: Mapping[str, Problem],
        keeper: Any,
        *,
        seed: int = 0,
        deterministic: bool = False,
        home: HomeFolders | None = None,
    ) -> None:
        """Build the engine from the Hugging Face folder `model`, as weights version 0, and start.

        `problems` are by task id (pass a reference; Ray resolves it). `keeper` is the handle of the
        `transport.rollout_store` actor, which owns the rollouts. `seed` is of the engine's own random state, for
        requests without one.
        `deterministic` is `EngineOptions`'. `model` is of the node of `home`; none: of this node.

        Raises:
            UserError: the folder cannot be sampled from.
        """
        self._name = name
        model = model if home is None else home.fetch(model)
        self._max_length = model_settings.max_model_len
        self._problems = problems
        self._prompter = Prompter(model, problems, chat_template=model_settings.chat_template)
        self._tokenizer_lock = threading.Lock()
        end_ids = end_token_ids(model, self._prompter.tokenizer, chat=model_settings.chat_template)
        self._engine = build_engine(model, model_settings, settings, end_ids, seed, deterministic=deterministic)
        lora = model_settings.lora
        self._merger = AdapterMerger(model, lora) if lora.rank and lora.publish == "adapter" else None
        self._keeper = keeper
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._delivered = threading.Condition(self._lock)
        self._inbox: list[SamplingRequest] = []
        self._updates: list[_Update] = []
        self._in_flight: dict[str, _InFlight] = {}
        self._finished: queue.SimpleQueue[FinishedRequest | None] = queue.SimpleQueue()
        self._ready: list[RolloutHandle] = []
        self._failure: Exception | None = None
        self._closing = False
        self._drains = settings.on_update == "drain"
        self._update_timeout_s = update_timeout_s(settings)
        self._receiver = WeightReceiver(
            self._engine, self._work, self._note_update, drains=self._drains, timeout_s=self._update_timeout_s
        )
        self._version = self._num_sequences = self._num_rollouts = self._num_tokens = self._num_updates = 0
        self._busy_s = self._updating_s = 0.0
        self._started = time.monotonic()
        self._threads = [
            threading.Thread(target=self._guard, args=(run,), name=f"{name} {run.__name__}", daemon=True)
            for run in (self._sample, self._deliver)
        ]
        for thread in self._threads:
            thread.start()

    def __repr__(self) -> str:
        """What Ray puts before each line of this actor's log, and before its methods in the dashboard."""
        return self._name

    def ping(self) -> str:
        """The generator's name, once it is ready."""
        self._check()
        return self._name

    def too_long(self) -> list[str]:
        """The task ids whose prompts fill the model's context, so that they cannot be sampled for."""
        self._check()
        with self._tokenizer_lock:
            return [task_id for task_id in self._problems if len(self._prompter.encode(task_id)) >= self._max_length]

    def submit(self, requests: Sequence[RolloutRequest]) -> None:
        """Queue rollouts; all of them or, where one cannot be served, none.

        Raises:
            ValueError: unknown problem, a prompt without room for a completion, or a `rollout_id` in flight.
        """
        self._check()
        with self._tokenizer_lock:
            prompts = [self._prompter.encode(request.task_id) for request in requests]
        new = {request.rollout_id: _InFlight(request, ids) for request, ids in zip(requests, prompts, strict=True)}
        admitted = [_sampling_request(origin) for origin in new.values()]
        for sampling_request in admitted:
            completion_room(sampling_request, self._max_length)
        with self._lock:
            repeated = self._in_flight.keys() & new.keys()
            if repeated or len(new) < len(requests):
                raise ValueError(f"{self._name}: rollout ids asked for twice: {sorted(repeated) or 'in one call'}")
            self._in_flight |= new
            self._inbox += admitted
            self._work.notify()

    def take(self, timeout_s: float) -> list[RolloutHandle]:
        """All rollouts finished since the last call; waits up to `timeout_s` for the first, then returns none."""
        with self._lock:
            self._delivered.wait_for(lambda: self._ready or self._failure, timeout_s)
            handles, self._ready = self._ready, []
        self._check()
        return handles

    def update_weights(self, weights: WeightsHandle) -> WeightUpdateReply:
        """Sample with `weights` from the next engine step on; what is in flight goes on, or ends before where
        `generator.on_update` is `drain`.

        Weights older than the current ones change nothing: two updates may arrive in either order. The reply names the
        version that is sampled from afterwards and the seconds that sampling stood still.

        Raises:
            ray.exceptions.GetTimeoutError: the weights did not arrive from the object store in time.
            TimeoutError: the engine did not come to load them in time.
            WeightsMismatchError: they are not what was published.
            WeightsGoneError: the learner that was to send them died.
            TransferError: it did not succeed in it; the generator may hold half of them, and must be replaced.
        """
        self._check()
        if weights.sender is not None:
            return self._have_sent(weights)
        buckets = ray.get(list(weights.refs), timeout=FETCH_TIMEOUT_S)
        if weights.checksum is not None and (received := checksum(buckets)) != weights.checksum:
            raise WeightsMismatchError(
                f"{self._name} received weights version {weights.version} with checksum {received:08x}; the learner "
                f"published {weights.checksum:08x}"
            )
        update = _Update(weights.version, buckets, Future())
        with self._lock:
            self._updates.append(update)
            self._work.notify()
        return update.reply.result(timeout=self._update_timeout_s)

    def _have_sent(self, weights: WeightsHandle) -> WeightUpdateReply:
        """Have the learner send the newest weights, for which it calls `transfer` meanwhile, from another process."""
        if weights.version <= self._version:
            return WeightUpdateReply(self._version, 0.0)
        self._receiver.ask(TransferPhase.READY, {})
        before_s = self._updating_s
        me = ray.get_runtime_context().current_actor
        try:
            ray.get(weights.sender.send.remote(me, self._name), timeout=self._update_timeout_s)
        except RayTaskError as error:
            raise TransferError(
                f"{self._name}: weights version {weights.version} did not come: {error.cause}"
            ) from error
        except RayActorError as error:
            if self._receiver.is_receiving:
                raise TransferError(f"{self._name}: the learner died while it sent weights") from error
            self._receiver.ask(TransferPhase.GIVE_UP, {})
            raise WeightsGoneError(f"weights version {weights.version} are gone with their learner") from error
        return WeightUpdateReply(self._version, self._updating_s - before_s)

    def transfer(self, phase: TransferPhase, payload: Mapping[str, Any]) -> None:
        """Do a phase of an update that the learner sends; see `WeightReceiver.ask` and `VllmEngine.receive`."""
        self._check()
        self._receiver.ask(phase, payload)

    def stats(self) -> GeneratorStats:
        """Counts and times since the start."""
        self._check()
        with self._lock:
            return GeneratorStats(
                name=self._name,
                version=self._version,
                num_in_flight=len(self._in_flight),
                num_sequences=self._num_sequences,
                num_rollouts=self._num_rollouts,
                num_tokens=self._num_tokens,
                num_updates=self._num_updates,
                busy_s=self._busy_s,
                updating_s=self._updating_s,
                wall_s=time.monotonic() - self._started,
                gpu_memory_bytes=torch.cuda.memory_reserved(),
            )

    def close(self) -> None:
        """Stop both threads and free the engine; rollouts in flight are given up."""
        with self._lock:
            self._closing = True
            self._receiver.fail(GeneratorError(f"generator {self._name} is closed"))
        self._finished.put(None)
        for thread in self._threads:
            thread.join()
        self._engine.close()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failed(self._failure)

    def _failed(self, cause: Exception) -> GeneratorError:
        return GeneratorError(f"generator {self._name} failed: {type(cause).__name__}: {cause}")

    def _guard(self, run: Any) -> None:
        try:
            run()
        except Exception as error:  # a thread has no caller to raise to: all of them are told
            logger.exception("generator %s failed", self._name)
            with self._lock:
                self._failure = error
                self._delivered.notify_all()
                self._receiver.fail(self._failed(error))
                for update in self._updates:
                    update.reply.set_exception(self._failed(error))

    def _sample(self) -> None:
        """The engine thread."""
        while True:
            with self._lock:
                self._num_sequences = self._engine.num_unfinished
                self._work.wait_for(self._has_work)
                if self._closing:
                    return
                updates, is_asked, inbox = list(self._updates), self._receiver.is_asked, self._inbox
                if self._drains and (updates or is_asked) and self._num_sequences:
                    # What is in flight ends first, and nothing begins meanwhile.
                    updates, is_asked, inbox = [], False, []
                else:
                    self._inbox = []
            for update in updates:
                self._load(update)
            if is_asked:
                self._receiver.take_part()
            for request in inbox:
                self._engine.add_request(request)
            began = time.monotonic()
            for finished in self._engine.step():
                self._finished.put(finished)
            self._busy_s += time.monotonic() - began

    def _has_work(self) -> bool:
        return bool(self._inbox or self._updates or self._receiver.is_asked or self._num_sequences or self._closing)

    def _load(self, update: _Update) -> None:
        began = time.monotonic()
        if update.version >= self._version:
            named_tensors = unpack(update.buckets)
            if self._merger is not None:
                named_tensors = self._merger.merge(named_tensors)
            self._engine.load_weights(update.version, named_tensors)
        seconds = time.monotonic() - began
        with self._lock:
            self._updates.remove(update)
        self._note_update(max(update.version, self._version), seconds)
        update.reply.set_result(WeightUpdateReply(self._version, seconds))

    def _note_update(self, version: int, seconds: float) -> None:
        with self._lock:
            self._version = version
            self._num_updates += 1
            self._updating_s += seconds

    def _deliver(self) -> None:
        """The delivery thread: everything finished while the last batch was on its way goes in one."""
        while (first := self._finished.get()) is not None:
            batch = [first]
            while not self._finished.empty() and (more := self._finished.get()) is not None:
                batch.append(more)
            with self._lock:
                origins = [self._in_flight[finished.request_id] for finished in batch]
            with self._tokenizer_lock:
                rollouts = [
                    self._prompter.rollout(origin.request, origin.prompt_ids, finished)
                    for origin, finished in zip(origins, batch, strict=True)
                ]
            refs = ray.get(self._keeper.keep.remote(rollouts), timeout=KEEP_TIMEOUT_S)
            handles = [RolloutHandle.of(rollout, ref) for rollout, ref in zip(rollouts, refs, strict=True)]
            with self._lock:
                for handle in handles:
                    del self._in_flight[handle.rollout_id]
                    self._num_rollouts += 1
                    self._num_tokens += handle.num_tokens
                self._ready.extend(handles)
                self._delivered.notify_all()


def update_timeout_s(settings: GeneratorSettings) -> float:
    """How long a weight update may take to begin and end: where it drains, as long as completions may.

    The learner sends to one generator after the other, where it sends.
    """
    turns_s = 0.0 if settings.weight_transfer == "object_store" else settings.num_generators * PHASE_TIMEOUT_S
    return (DRAIN_TIMEOUT_S if settings.on_update == "drain" else UPDATE_TIMEOUT_S) + turns_s


def _sampling_request(origin: _InFlight) -> SamplingRequest:
    request = origin.request
    return SamplingRequest(
        request_id=request.rollout_id,
        prompt_ids=origin.prompt_ids,
        num_samples=request.num_samples,
        greedy=request.greedy,
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=request.max_tokens,
        seed=request.seed,
    )

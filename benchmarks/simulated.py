"""A job whose stages only sleep for given times, to measure what the rest of the program adds.

`Controller`, `GeneratorPool` and `SandboxPool` are real, and so are the buffer, the learner's prefetcher and the object
store. Generators, sandbox workers and policy updates sleep. Many simulated actors share one process, so a thousand
sandboxes fit on a laptop. Each still costs its calls, messages and objects.

`tests/controller/simulation.py` simulates actors too, for another purpose: it has no Ray and no real time, and its
actors can die at any call. The two share nothing but the interfaces of the actors they stand in for.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from rltf.actors.messages import RolloutHandle, RolloutRequest
from rltf.controller.controller import Controller
from rltf.controller.events import Event, Step
from rltf.controller.generators import GeneratorPool
from rltf.controller.grading import GradedRollout
from rltf.controller.learner_service import LearnerService
from rltf.learner.actor import Prefetcher
from rltf.learner.buffer import BufferItem, start_buffer
from rltf.learner.data import Experience, Experiences
from rltf.learner.metrics import StepMetrics, StepReport, UpdateStats
from rltf.problems.types import Problem, StdinTest
from rltf.rewards import Granularity
from rltf.sandbox.pool import SandboxPool, _Worker
from rltf.sandbox.verdict import Isolation, Outcome
from rltf.sandbox.worker import SandboxWorker
from rltf.settings import LearnerSettings, Settings
from rltf.transport.rollouts import Completion, FinishReason, Rollout, VersionSpan
from rltf.transport.weights import WeightsHandle

NUM_PROBLEMS = 1000
NUM_TOKENS = 64
MAX_CALLS = 100_000
START_S = 60.0


@dataclass(frozen=True, slots=True)
class StageTimes:
    """The seconds it takes to sample a rollout, grade a program, make an update, and publish and load weights.

    A generator samples `slots` rollouts at a time.
    """

    rollout_s: float
    grade_s: float
    update_s: float
    publish_s: float = 0.0
    load_s: float = 0.0
    slots: int = 1


@dataclass(slots=True)
class _Generator:
    slots: asyncio.Semaphore
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    ready: list[RolloutHandle] = field(default_factory=list)
    version: int = 0


class Host:
    """An asyncio actor that plays any number of generators and sandbox workers. `index` says which one is called."""

    def __init__(self, times: StageTimes, buffer: Any) -> None:
        self._times = times
        self._buffer = buffer
        self._generators: dict[int, _Generator] = {}
        self._workers: dict[int, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sampling_s = self._grading_s = 0.0
        gc.freeze()

    async def ping(self, index: int) -> str:
        """A generator is ready."""
        self._generators[index] = _Generator(asyncio.Semaphore(self._times.slots))
        return f"generator-{index}"

    async def submit(self, index: int, requests: Sequence[RolloutRequest]) -> None:
        """See `actors.generator.Generator`."""
        for request in requests:
            task = asyncio.create_task(self._sample(self._generators[index], request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def take(self, index: int, timeout_s: float) -> list[RolloutHandle]:
        """See `actors.generator.Generator`."""
        generator = self._generators[index]
        try:
            await asyncio.wait_for(generator.done.wait(), timeout_s)
        except TimeoutError:
            return []
        generator.done.clear()
        handles, generator.ready = generator.ready, []
        return handles

    async def update_weights(self, index: int, weights: WeightsHandle) -> int:
        """See `actors.generator.Generator`."""
        await asyncio.sleep(self._times.load_s)
        self._generators[index].version = weights.version
        return weights.version

    async def start(self, index: int) -> None:
        """A sandbox worker is ready."""
        self._workers[index] = asyncio.Lock()

    async def grade_rollout(
        self, index: int, ref: list[ray.ObjectRef[Rollout]], previous: None, num_shown: int
    ) -> GradedRollout:
        """See `controller.grading.GradingWorker`."""
        async with self._workers[index]:
            rollout = ray.get(ref[0])  # as real workers do; the rollout is there already
            seconds = self._times.grade_s * len(rollout.samples)
            await asyncio.sleep(seconds)
            self._grading_s += seconds
            samples = Experiences(_experience(sample) for sample in rollout.samples)
            added = await self._buffer.add.remote(rollout.rollout_id, samples)
        return GradedRollout(
            rollout_id=rollout.rollout_id,
            task_id=rollout.task_id,
            num_samples=len(rollout.samples),
            num_passed=0,
            num_faults=0,
            fault="",
            num_tests=0,
            num_tokens=len(rollout.samples) * NUM_TOKENS,
            seconds=seconds,
            outcomes=Counter({Outcome.FAILED: len(rollout.samples)}),
            isolation=Isolation.NAMESPACES,
            added=added,
            greedy=None,
            shown=(),
        )

    async def busy_s(self) -> tuple[float, float]:
        """Seconds that slots spent sampling rollouts, and seconds that workers spent grading programs."""
        return self._sampling_s, self._grading_s

    async def _sample(self, generator: _Generator, request: RolloutRequest) -> None:
        async with generator.slots:
            version = generator.version
            await asyncio.sleep(self._times.rollout_s)
            self._sampling_s += self._times.rollout_s
        rollout = _rollout(request, version)
        generator.ready.append(RolloutHandle([ray.put(rollout)], request.rollout_id))
        generator.done.set()


class SimulatedLearner:
    """Fetches batches with the real prefetcher, then sleeps. See `learner.actor.LearnerActor`."""

    def __init__(self, learner: LearnerSettings, times: StageTimes) -> None:
        self.settings = learner
        self._version = self._step = 0
        self._times = times
        self._prefetcher = Prefetcher(self)  # type: ignore[arg-type]

    def prepare(self, experiences: Sequence[Experience]) -> object:
        """Nothing to pack."""
        return experiences

    def set_references(self, problems: object) -> None:
        """Ignored: nothing is learned."""

    def at_least_version(self, version: int) -> int:
        """See `LearnerActor`."""
        return self._step

    def step(self, items: Sequence[BufferItem], ahead: Sequence[BufferItem] = ()) -> StepReport:
        """One update."""
        began = time.monotonic()
        fetched = self._prefetcher.get(items)
        waited = time.monotonic()
        if ahead:
            self._prefetcher.announce(ahead)
        time.sleep(self._times.update_s)
        self._step += 1
        rollouts = list(fetched.rollouts.values())
        samples = [sample for rollout in rollouts for sample in rollout]
        num_tokens = sum(len(sample.token_ids) for sample in samples)
        metrics = StepMetrics.of(
            replace(_NOTHING_LEARNED, num_samples=len(samples), num_tokens=num_tokens),
            rollouts,
            step=self._step,
            weights_version=self._version,
            wait_s=waited - began,
            seconds=time.monotonic() - began,
        )
        return StepReport(metrics, tuple(fetched.rollouts), fetched.lost)

    def progress(self) -> None:
        """It is alive."""

    def publish(self) -> WeightsHandle:
        """Weights without content."""
        time.sleep(self._times.publish_s)
        self._version += 1
        return WeightsHandle(self._version, (), 0)

    def save_checkpoint(self, folder: Path, run_state: str, items: Sequence[BufferItem], keep: int) -> Path:
        """Nothing to save."""
        return folder


@dataclass(frozen=True, slots=True)
class _Method:
    method: Any
    index: int

    def remote(self, *arguments: Any) -> Any:
        return self.method.remote(self.index, *arguments)


@dataclass(frozen=True, slots=True)
class _Handle:
    """Works like the handle of an actor, but is one of many that a host plays."""

    host: Any
    index: int

    def __getattr__(self, name: str) -> _Method:
        return _Method(getattr(self.host, name), self.index)


class SimulatedSandboxPool(SandboxPool):
    """The real pool, with workers that hosts play."""

    def __init__(self, settings: Settings, hosts: Sequence[Any]) -> None:
        timeout_s = settings.cluster.heartbeat_timeout_s
        super().__init__(SandboxWorker, settings.sandbox, None, heartbeat_timeout_s=timeout_s)
        self._hosts = hosts

    def _new_worker(self) -> _Worker:
        self._num_started += 1
        host = self._hosts[self._num_started % len(self._hosts)]
        return _Worker(f"worker-{self._num_started}", _Handle(host, self._num_started))


@dataclass(slots=True)
class Observed:
    """For each step: its metrics, when it ended, and the driver's memory at that moment.

    Also the CPU seconds that the driver and the process `buffer_pid` had used by then.
    """

    buffer_pid: int
    steps: list[StepMetrics] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    driver_bytes: list[int] = field(default_factory=list)
    driver_cpu_s: list[float] = field(default_factory=list)
    buffer_cpu_s: list[float] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        """Record the facts of an update."""
        if isinstance(event, Step):
            self.steps.append(event.metrics)
            self.at_s.append(time.monotonic())
            self.driver_bytes.append(_resident_bytes())
            self.driver_cpu_s.append(time.process_time())
            self.buffer_cpu_s.append(_cpu_s(self.buffer_pid))


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """A finished run: its steps, its wall time, and the share of that time in which each stage was busy."""

    observed: Observed
    seconds: float
    generator_busy: float
    sandbox_busy: float
    learner_busy: float


async def run_simulated(settings: Settings, times: StageTimes, *, num_hosts: int = 2) -> SimulatedRun:
    """Run simulated stages on the running Ray, from the first request to the last update."""
    buffer: Any = start_buffer(settings.buffer)
    host_class: Any = ray.remote(Host).options(num_cpus=0, max_concurrency=MAX_CALLS)
    hosts = [host_class.remote(times, buffer) for _ in range(num_hosts)]
    learner_class: Any = ray.remote(SimulatedLearner).options(num_cpus=0)
    generators = GeneratorPool[RolloutHandle](
        lambda index, life: _Handle(hosts[index % num_hosts], index),
        settings.generator.num_generators,
        max_samples=(times.slots + 1) * settings.generator.num_generations,
        start_timeout_s=START_S,
    )
    pool = SimulatedSandboxPool(settings, hosts)
    learner = LearnerService(
        lambda life: learner_class.remote(settings.learner, times),
        references=(),
        folder=Path("none"),
        sft=False,
        emit=lambda event: None,
    )
    await asyncio.gather(pool.start(), generators.start(), learner.start(None))
    observed = Observed(await buffer.__ray_call__.remote(lambda self: os.getpid()))
    problems = [Problem(str(i), "simulated", "", (StdinTest("", ""),)) for i in range(NUM_PROBLEMS)]
    controller = Controller(
        settings=settings,
        train=problems,
        held_out=[],
        generators=generators,
        pool=pool,
        buffer=buffer,
        learner=learner,
        emit=observed.emit,
    )
    began = time.monotonic()
    await controller.run()
    seconds = time.monotonic() - began
    busy = [
        sum(column) for column in zip(*await asyncio.gather(*(host.busy_s.remote() for host in hosts)), strict=True)
    ]
    await generators.close()
    ray.kill(learner.place.actor)
    for actor in (*hosts, buffer):
        ray.kill(actor)
    num_slots = settings.generator.num_generators * times.slots
    return SimulatedRun(
        observed=observed,
        seconds=seconds,
        generator_busy=busy[0] / (num_slots * seconds),
        sandbox_busy=busy[1] / (settings.sandbox.max_workers * seconds),
        learner_busy=sum(step.seconds - step.wait_s for step in observed.steps) / seconds,
    )


def _resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        user, system = stat.read().rpartition(") ")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


_IDS = np.arange(NUM_TOKENS, dtype=np.int32)
_LOGPROBS = np.full(NUM_TOKENS, -0.5, dtype=np.float32)
_SPANS = np.stack([_IDS, _IDS + 1], axis=1)
_WEIGHTS = np.ones((len(Granularity), NUM_TOKENS), dtype=np.float32)
_NOTHING_LEARNED = UpdateStats(
    loss=0.0, loss_sl=0.0, loss_coarse=0.0, loss_fine=0.0, loss_adaptive=0.0, loss_static=0.0, loss_structure=0.0,
    loss_custom=0.0, loss_kl=0.0, loss_value=0.0, grad_norm=0.0, learning_rate=0.0, ratio_mean=1.0, ratio_max=1.0,
    mismatch_mean=0.0, mismatch_max=0.0, entropy=0.0, clip_fraction=0.0, num_samples=0, num_idle_samples=0,
    num_tokens=0,
)  # fmt: skip


def _rollout(request: RolloutRequest, version: int) -> Rollout:
    samples = tuple(
        Completion(
            task_id=request.task_id,
            completion_id=f"{request.rollout_id}/{i}",
            prompt_ids=_IDS,
            # Real samples do not share arrays. Pickle would send a shared one only once.
            token_ids=_IDS.copy(),
            logprobs=_LOGPROBS.copy(),
            char_spans=_SPANS.copy(),
            weight_versions=(VersionSpan(0, NUM_TOKENS, version),),
            finish_reason=FinishReason.STOP,
            text="x" * NUM_TOKENS,
            program_start=0,
            program_end=NUM_TOKENS,
        )
        for i in range(request.num_samples)
    )
    return Rollout(request.rollout_id, request.task_id, samples, None)


def _experience(sample: Completion) -> Experience:
    return Experience(
        task_id=sample.task_id,
        completion_id=sample.completion_id,
        prompt_ids=sample.prompt_ids,
        token_ids=sample.token_ids,
        logprobs=sample.logprobs,
        token_weights=_WEIGHTS.copy(),
        version=sample.weight_versions[0].version,
        reward=0.0,
        outcome=Outcome.FAILED,
    )

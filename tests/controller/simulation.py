"""Simulated actors in virtual time. The driver is real; the actors it calls may be late, and may die at any call.

Generators, sandbox workers, rollout store and learner are stand-ins. The buffer is the real one without Ray. Every call
takes a random time. A plan says at which calls an actor is killed, and whether that is before the call is carried out
or before its answer arrives. Another plan says at which calls an actor freezes: it answers nothing until it is killed.

`benchmarks/simulated.py` simulates actors on a real Ray and in real time, to measure speed. Nothing dies there.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from ray.exceptions import ActorDiedError, ObjectLostError

from actors.messages import RolloutHandle, RolloutRequest
from controller.grading import GradedRollout
from files import write_folder
from learner.buffer import BufferServer
from learner.data import Experience, Experiences, save_rollouts
from learner.metrics import StepMetrics, StepReport, UpdateStats
from rewards import Granularity
from sandbox.verdict import Isolation, Outcome
from settings import Settings
from supervise import Watched
from transport.weights import WeightsHandle

T = TypeVar("T")
GENERATORS = ("generator-0", "generator-1")
TARGETS = (*GENERATORS, "worker", "rollout store", "buffer", "learner")
RESTART_S = 2.0
LONGEST_CALL_S = 2.0


class _InstantSelector(selectors.SelectSelector):
    """Never sleeps, but moves the loop's clock forward instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("nothing is scheduled: the program would hang")
        self.now += timeout
        return super().select(0)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._selector_ = _InstantSelector()
        super().__init__(self._selector_)

    def time(self) -> float:
        return self._selector_.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]  # generic there
        """At once: time would not wait for another thread."""
        done = self.create_future()
        done.set_result(func(*args))
        return done


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, without waiting for any sleep."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(main)


@dataclass(slots=True, eq=False)
class Process:
    """One life of an actor. The `calls` in progress fail when it dies."""

    name: str
    is_alive: bool = True
    is_frozen: bool = False
    calls: set[asyncio.Future[Any]] = field(default_factory=set)

    def die(self) -> None:
        self.is_alive = False
        for call in list(self.calls):
            if not call.done():
                call.set_exception(ActorDiedError())


@dataclass(frozen=True, slots=True, eq=False)
class Ref:
    """An object in the store. It is lost when the process that owns it dies."""

    value: Any
    owner: Process

    def get(self) -> Any:
        if not self.owner.is_alive:
            raise ObjectLostError("00", None, "")
        return self.value


class Cluster:
    """All processes, by name.

    `kills` maps the number of a call to who dies, and whether that is before the call; `freezes` to who freezes.
    """

    def __init__(
        self, seed: int, kills: dict[int, tuple[str, bool]], freezes: Mapping[int, str] = MappingProxyType({})
    ) -> None:
        self.random = random.Random(seed)
        self.kills = kills
        self.freezes = freezes
        self.num_calls = 0
        self.num_killed = 0
        self.processes: dict[str, Process] = {}
        self.started: list[Process] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.failures: list[BaseException | None] = []

    def start(self, name: str) -> Process:
        self.processes[name] = Process(name)
        self.started.append(self.processes[name])
        return self.processes[name]

    def kill(self, name: str) -> None:
        process = self.processes.get(name)
        if process is not None and process.is_alive:
            self.num_killed += 1
            process.die()

    def watched(self) -> list[Watched]:
        """Every process that lives; a frozen one does not answer."""
        return [
            Watched(f"{process.name} ({number})", partial(_answer, process), process.die)
            for number, process in enumerate(self.started)
            if process.is_alive
        ]

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in the background. If it fails, the simulation fails."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failures.append(task.exception())

    async def delay(self, longest_s: float = LONGEST_CALL_S) -> None:
        """A delay that is usually short and sometimes long."""
        await asyncio.sleep(longest_s * self.random.random() ** 4)

    def event(self) -> tuple[str | None, str | None]:
        """Who dies before the next call is carried out, and who dies after it."""
        self.num_calls += 1
        if (frozen := self.processes.get(self.freezes.get(self.num_calls, ""))) is not None:
            frozen.is_frozen = True
        who, before = self.kills.get(self.num_calls, (None, True))
        return (who, None) if before else (None, who)


async def _answer(process: Process) -> None:
    while process.is_frozen:
        await asyncio.sleep(1.0)


class Handle:
    """An actor handle: `handle.method.remote(...)`. Each call is carried out once, and fails if its process dies."""

    def __init__(self, cluster: Cluster, name: str, actor: Any) -> None:
        self.cluster, self.actor = cluster, actor
        self.process = cluster.start(name)

    def __getattr__(self, method: str) -> Any:
        return _Method(self, method)

    async def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        return await self.attempt(method, arguments)

    async def attempt(self, method: str, arguments: tuple[Any, ...]) -> Any:
        before, after = self.cluster.event()
        if before is not None:
            self.cluster.kill(before)
        process, actor = self.process, self.actor
        await self.cluster.delay()
        if not process.is_alive:
            raise ActorDiedError()
        death: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        process.calls.add(death)
        work = asyncio.ensure_future(_called(getattr(actor, method), arguments))
        try:
            await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
            if not death.done() and after is not None:
                self.cluster.kill(after)
            if process.is_frozen:
                await asyncio.wait([death])
            if death.done():
                raise ActorDiedError() from death.exception()
            value = work.result()
        finally:
            work.cancel()
            process.calls.discard(death)
            death.cancel()
        await self.cluster.delay()
        return value


async def _called(method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """What `method` returns. Stand-ins have coroutines, the real buffer has not."""
    result = method(*arguments)
    return await result if asyncio.iscoroutine(result) else result


class RestartingHandle(Handle):
    """An actor that restarts empty after a death and repeats failed calls. Any call may be carried out twice."""

    def __init__(self, cluster: Cluster, name: str, make: Callable[[Process], Any]) -> None:
        self.make = make
        super().__init__(cluster, name, None)
        self.actor = make(self.process)

    async def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        while True:
            try:
                value = await self.attempt(method, arguments)
                if self.cluster.random.random() < 0.1:
                    value = await self.attempt(method, arguments)
                return value
            except ActorDiedError:
                await asyncio.sleep(RESTART_S)
                if not self.process.is_alive:
                    self.process = self.cluster.start(self.process.name)
                    self.actor = self.make(self.process)


@dataclass(frozen=True, slots=True)
class _Method:
    handle: Handle
    name: str

    def options(self, **_: Any) -> _Method:
        return self

    def remote(self, *arguments: Any) -> asyncio.Future[Any]:
        task = asyncio.ensure_future(self.handle.call(self.name, arguments))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting for it
        return task


class SimulatedGenerator:
    """Samples each rollout in a random time, with the weights it has at the start. May return a rollout twice."""

    def __init__(self, cluster: Cluster, rollout_store: RestartingHandle, slowness: float) -> None:
        self.cluster, self.rollout_store, self.slowness = cluster, rollout_store, slowness
        self.version = 0
        self.in_flight: set[str] = set()
        self.finished: list[RolloutHandle] = []

    async def ping(self) -> str:
        return "ready"

    async def too_long(self) -> list[str]:
        return []

    async def update_weights(self, weights: WeightsHandle) -> None:
        for ref in weights.refs:
            ref.get()  # type: ignore[attr-defined]
        self.version = max(self.version, weights.version)

    async def submit(self, requests: Sequence[RolloutRequest]) -> None:
        for request in requests:
            if request.rollout_id in self.in_flight:
                raise ValueError(f"requested twice: {request.rollout_id}")
            self.in_flight.add(request.rollout_id)
            self.cluster.spawn(self.sample(request))

    async def sample(self, request: RolloutRequest) -> None:
        version = self.version
        assert version > 0, "sampled with weights that were never published"
        await self.cluster.delay(10.0 * self.slowness)
        ref = await self.rollout_store.keep.remote((request, version))
        self.finished.append(RolloutHandle([ref], request.rollout_id))
        self.in_flight.discard(request.rollout_id)

    async def take(self, timeout_s: float) -> list[RolloutHandle]:
        if not self.finished:
            await asyncio.sleep(self.cluster.random.random() * timeout_s)
        handles, self.finished = self.finished, []
        if handles and self.cluster.random.random() < 0.2:
            self.finished = handles[:1]
        return handles


class SimulatedRolloutStore:
    def __init__(self, process: Process) -> None:
        self.process = process

    async def keep(self, value: Any) -> Ref:
        return Ref(value, self.process)


class SimulatedGraders:
    """The sandbox pool. It repeats the calls of workers that die."""

    def __init__(self, cluster: Cluster, buffer: Handle) -> None:
        self.cluster, self.buffer = cluster, buffer

    async def submit(self, method: str, *arguments: Any, num_items: int = 1) -> Any:
        while True:
            handle = Handle(self.cluster, "worker", self)
            try:
                return await handle.call(method, arguments)
            except ActorDiedError:
                await self.cluster.delay()

    async def grade_rollout(self, refs: list[Ref], previous: object, num_shown: int) -> GradedRollout:
        request, version = refs[0].get()
        rollout_id, task_id, num_samples = request.rollout_id, request.task_id, request.num_samples
        await self.cluster.delay(4.0)
        num_faults = int(self.cluster.random.random() < 0.03)
        samples = Experiences(
            _experience(task_id, rollout_id, index, version) for index in range(num_samples - num_faults)
        )
        added = await self.buffer.add.remote(rollout_id, samples) if samples else None
        return GradedRollout(
            rollout_id=rollout_id,
            task_id=task_id,
            num_samples=len(samples),
            num_passed=0,
            num_faults=num_faults,
            fault="",
            num_tests=1,
            num_tokens=2,
            seconds=0.5,
            outcomes=Counter(),
            isolation=Isolation.NAMESPACES,
            added=added,
            greedy=None,
            shown=(),
        )


def _experience(task_id: str, rollout_id: str, index: int, version: int) -> Experience:
    return Experience(
        task_id=task_id,
        completion_id=f"{rollout_id}/{index}",
        prompt_ids=np.zeros(1, np.int32),
        token_ids=np.zeros(2, np.int32),
        logprobs=np.zeros(2, np.float32),
        token_weights=np.zeros((len(Granularity), 2), np.float32),
        version=version,
        reward=0.0,
        outcome=Outcome.FAILED,
    )


class SimulatedLearner:
    """Its weights are the list of what it was trained on: (step, rollout ID, number of samples)."""

    def __init__(self, cluster: Cluster, process: Callable[[], Process], max_off_policy_versions: int) -> None:
        self.cluster, self.process, self.max_off_policy_versions = cluster, process, max_off_policy_versions
        self.step_, self.version = 0, 0
        self.published_step: int | None = None
        self.weights: list[tuple[int, str, int]] = []
        self.announced: dict[str, Any] = {}

    async def set_references(self, problems: object) -> None:
        return None

    async def progress(self) -> None:
        return None

    async def at_least_version(self, version: int) -> int:
        self.version = max(self.version, version)
        return self.step_

    async def step(self, items: Sequence[Any], ahead: Sequence[Any]) -> StepReport:
        ids = [item.meta.rollout_id for item in items]
        assert not self.announced or list(self.announced) == ids, "not the batch that was announced"
        kept, lost = [], []
        for item in items:
            try:
                self.announced.get(item.meta.rollout_id) or item.ref.get()
                kept.append(item)
            except ObjectLostError:
                lost.append(item.meta.rollout_id)
        self.announced = {item.meta.rollout_id: item.ref.owner.is_alive and item.ref.get() for item in ahead}
        if not kept:
            return StepReport(None, (), tuple(lost))
        await self.cluster.delay(6.0)
        self.step_ += 1
        for item in kept:
            meta = item.meta
            assert meta.rollout_id not in {name for _, name, _ in self.weights}, "trained on twice"
            assert self.version - meta.version <= self.max_off_policy_versions, "too stale"
            self.weights.append((self.step_, meta.rollout_id, meta.num_samples))
        losses = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        stats = UpdateStats(*losses, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0, 0, 0)
        rollouts = [item.ref.value for item in kept]
        metrics = StepMetrics.of(
            stats, rollouts, step=self.step_, weights_version=self.version, wait_s=0.0, seconds=1.0
        )
        return StepReport(metrics, tuple(item.meta.rollout_id for item in kept), tuple(lost))

    async def publish(self) -> WeightsHandle:
        if self.published_step != self.step_:
            self.version, self.published_step = self.version + 1, self.step_
        ref: Any = Ref(self.version, self.process())
        return WeightsHandle(self.version, (ref,), 1)

    async def save_checkpoint(self, folder: Path, run_state: str, items: Sequence[Any], keep: int) -> Path:
        path = folder / f"step-{self.step_}"

        def write(incomplete: Path) -> None:
            kept = [(item.meta.rollout_id, item.ref.value) for item in items if item.ref.owner.is_alive]
            state = incomplete / "trainer_state"
            state.mkdir()
            (state / "run_state.json").write_text(run_state)
            save_rollouts(state / "rollouts.npz", kept)
            lines = [" ".join(map(str, row)) for row in self.weights]
            (state / "weights").write_text("\n".join([f"{self.version} {self.published_step}", *lines]))

        if not path.exists():
            write_folder(path, write)
        return path

    async def resume(self, path: Path, version: int) -> int:
        first, *lines = (path / "trainer_state" / "weights").read_text().splitlines()
        stored, published = first.split()
        self.weights = [(int(step), name, int(count)) for step, name, count in (line.split() for line in lines)]
        self.step_, self.version = int(path.name.removeprefix("step-")), int(stored)
        self.published_step = None if published == "None" else int(published)
        if version > self.version:
            self.version, self.published_step = version, None
        return self.step_


def start_buffer(cluster: Cluster, settings: Settings) -> Any:
    def make(process: Process) -> BufferServer:
        return BufferServer(settings.buffer, put=lambda experiences: Ref(experiences, process))

    return RestartingHandle(cluster, "buffer", make)

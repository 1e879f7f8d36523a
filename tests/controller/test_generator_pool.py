"""Generators and learner are started again while their nodes die, and given up for their own deaths."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext  # type: ignore[attr-defined]  # made by protobuf
from ray.exceptions import ActorDiedError

from rltf.actors.messages import RolloutHandle, RolloutRequest
from rltf.controller.generators import GeneratorPool
from rltf.controller.learner_service import LearnerService
from rltf.supervise import GaveUpError
from rltf.transport.weights import WeightsHandle
from tests.controller.simulation import GENERATORS, SimulatedGenerator, SimulatedLearner, SimulatedRolloutStore
from tests.controller.virtual_cluster import Cluster, Handle, RestartingHandle, run_virtually


class FaultyGenerator(SimulatedGenerator):
    """Its `take` has a bug."""

    async def take(self, timeout_s: float) -> list[RolloutHandle]:
        raise KeyError("no such rollout")


def test_a_bug_in_the_program_ends_the_wait_for_rollouts_at_once() -> None:
    async def scenario() -> None:
        cluster = Cluster(0, {})
        rollout_store = RestartingHandle(cluster, "rollout store", SimulatedRolloutStore)
        generator = Handle(cluster, "generator-0", FaultyGenerator(cluster, rollout_store, slowness=1))
        pool = GeneratorPool[RolloutHandle](lambda index, life: generator, 1, max_samples=5, start_timeout_s=600)
        await pool.start()
        try:
            with pytest.raises(KeyError, match="no such rollout"):
                await pool.sample(RolloutRequest("r1", "p0", 2, False, 1.0, 1.0, 8))
        finally:
            await pool.close()

    run_virtually(scenario())


def test_one_generator_samples_while_the_other_waits_for_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A node is lost for an hour, and with it the room for one of two generators."""
    monkeypatch.setattr("rltf.supervise.MAX_DEATHS_IN_A_ROW", 3)

    class Homeless(SimulatedGenerator):
        async def ping(self) -> str:
            await asyncio.sleep(3600)
            return "ready"

    async def scenario() -> None:
        cluster = Cluster(0, {})
        rollout_store = RestartingHandle(cluster, "rollout store", SimulatedRolloutStore)

        def spawn(index: int, life: int) -> Handle:
            kind = Homeless if index == 1 and life > 0 else SimulatedGenerator
            return Handle(cluster, GENERATORS[index], kind(cluster, rollout_store, slowness=1))

        pool = GeneratorPool[RolloutHandle](
            spawn, 2, max_samples=5, start_timeout_s=600, end=lambda handle: handle.process.die()
        )
        await pool.start()
        try:
            pool.use(WeightsHandle(1, (), 0))
            cluster.kill("generator-1")
            for number in range(400):
                await pool.sample(RolloutRequest(f"r{number}", "p0", 2, False, 1.0, 1.0, 8))
                await asyncio.sleep(10)
            assert pool.num_replaced == 1
        finally:
            await pool.close()

    run_virtually(scenario())
    assert "timed out after 600 s waiting for generator 1 to start: is there room for it?" in caplog.text


@pytest.mark.parametrize(("num_samples", "num_requests"), [(8, 5), (16, 2), (1, 40), (64, 1)])
def test_a_generator_gets_as_many_samples_however_they_are_grouped(num_samples: int, num_requests: int) -> None:
    class Busy(SimulatedGenerator):
        async def sample(self, request: RolloutRequest, versions: Sequence[int]) -> None:
            await asyncio.Event().wait()

    async def scenario() -> None:
        cluster = Cluster(0, {})
        generator = Busy(cluster, RestartingHandle(cluster, "rollout store", SimulatedRolloutStore), slowness=1)
        handle = Handle(cluster, "generator-0", generator)
        pool = GeneratorPool[RolloutHandle](lambda index, life: handle, 1, max_samples=40, start_timeout_s=600)
        await pool.start()
        requests = [RolloutRequest(f"r{number}", "p0", num_samples, False, 1.0, 1.0, 8) for number in range(50)]
        waiting = [asyncio.create_task(pool.sample(request)) for request in requests]
        await asyncio.sleep(60)
        assert len(generator.in_flight) == num_requests
        for task in waiting:
            task.cancel()
        await pool.close()

    run_virtually(scenario())


def node_died() -> ActorDiedError:
    text = "The actor died because its node has died. Node Id: 1"
    return ActorDiedError(ActorDiedErrorContext(actor_id=bytes(16), error_message=text))


class OnDyingNodes:
    """Makes handles. The first ten die with `death` before they answer."""

    def __init__(self, make: Callable[[], Any], death: Exception) -> None:
        self.make, self.death, self.num_spawned = make, death, 0

    def __call__(self, *arguments: object) -> Any:
        self.num_spawned += 1
        handle = self.make()
        if self.num_spawned <= 10:

            async def die(*arguments: object) -> None:
                raise self.death

            handle.actor.ping = handle.actor.set_references = die
        return handle


@pytest.mark.parametrize(("death", "survives"), [(node_died(), True), (ActorDiedError(), False)])
def test_dying_nodes_do_not_count_against_the_actors_on_them(
    death: Exception, survives: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rltf.supervise.MAX_DEATHS_IN_A_ROW", 3)

    async def scenario() -> None:
        cluster = Cluster(0, {})
        rollout_store = RestartingHandle(cluster, "rollout store", SimulatedRolloutStore)

        def generator(*place: int) -> Handle:
            return Handle(cluster, "generator-0", SimulatedGenerator(cluster, rollout_store, slowness=1))

        def learner(life: int = 0) -> Handle:
            return Handle(cluster, "learner", SimulatedLearner(cluster, lambda: handle.process, 1))

        handle = learner()
        spawn = OnDyingNodes(generator, death)
        pool = GeneratorPool[RolloutHandle](spawn, 1, max_samples=5, start_timeout_s=600, end=lambda handle: None)
        service = LearnerService(
            OnDyingNodes(learner, death), (), tmp_path, False, lambda state: None, end=lambda handle: None
        )
        if survives:
            await pool.start()
            assert await service.start(None) == 0
            assert spawn.num_spawned == 11
            await pool.close()
        else:
            with pytest.raises(GaveUpError, match="generator 0 died 4 times"):
                await pool.start()
            with pytest.raises(GaveUpError, match="the learner died 4 times"):
                await service.start(None)

    run_virtually(scenario())

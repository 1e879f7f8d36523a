"""Weights sent by the learner: the real learner, and vLLM's engines on both sides. Only NCCL and IPC are replaced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.actor import ActorProxy

import controller.generators
from actors.generator import Generator, update_timeout_s
from actors.messages import GeneratorError, GeneratorStats
from controller.generators import GeneratorPool
from tests.actors.running_actors import (
    CALL_S,
    KEEP,
    MODEL,
    RunningActors,
    Scorer,
    check_logprobs,
    check_update_in_flight,
    fetch,
    kill,
    next_version,
    rollout_request,
    start_generator,
    take,
    train,
    versions,
    wait_for,
)
from tests.actors.sampling import Weights
from tests.actors.without_gpu import DIES, STALLS, Forger, set_fault
from transport.weight_receiver import TransferError, WeightsGoneError
from transport.weights import WeightsHandle


@pytest.fixture
def forger(ray_session: None) -> Iterator[Any]:
    actor: Any = ray.remote(Forger).options(max_concurrency=2).remote()
    yield actor
    kill(actor)


def test_weights_are_sent_between_steps_while_rollouts_are_in_flight(
    running: RunningActors, reference_logprobs: Scorer, tmp_path: Path
) -> None:
    check_update_in_flight(running.learner, running.keeping, reference_logprobs, tmp_path)


def test_requests_in_flight_finish_before_weights_are_sent_if_updates_drain(
    running: RunningActors, reference_logprobs: Scorer, tmp_path: Path
) -> None:
    check_update_in_flight(running.learner, running.draining, reference_logprobs, tmp_path, drains=True)


def test_generators_continue_if_the_learner_died_before_it_sent(running: RunningActors) -> None:
    learner, generators = running.learner, (running.keeping, running.draining)
    train(learner)
    handle = wait_for(learner.publish.remote())
    kill(learner)
    for generator in generators:
        version = wait_for(generator.stats.remote()).version
        with pytest.raises(WeightsGoneError, match=f"weights version {handle.version} are gone with their learner"):
            wait_for(generator.update_weights.remote(handle))
        wait_for(generator.submit.remote([rollout_request("on")]))
        assert versions(take(generator, 1)["on"])[1] == version < handle.version


async def run_pool(actors: list[ActorProxy[Generator]], num: int, weights: WeightsHandle) -> list[GeneratorStats]:
    """Have a pool of `num` generators, the next of `actors` each time, sample with `weights`. Returns their counts."""
    waiting = iter(actors)
    pool = GeneratorPool(
        lambda index, life: next(waiting),
        num,
        max_samples=16,
        start_timeout_s=CALL_S,
        load_timeout_s=update_timeout_s(KEEP),
    )
    try:
        await pool.start()
        pool.use(weights)
        async with asyncio.timeout(CALL_S):
            found = await pool.stats()
            while [stats.version for stats in found] != [weights.version] * num:
                await asyncio.sleep(0.2)
                found = await pool.stats()
        assert pool.num_replaced == 1
        return found
    finally:
        await pool.close()


@pytest.fixture
def short_polls(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wait for a pool's last poll, which would take what other tests sample."""
    monkeypatch.setattr(controller.generators, "POLL_S", 0.2)
    yield
    time.sleep(1.0)


@pytest.mark.slow
def test_a_generator_that_stalls_in_an_update_is_replaced_by_one_with_the_newest_weights(
    running: RunningActors, short_polls: None
) -> None:
    faulty: Any = running.draining
    spare = running.keeping
    handle = wait_for(running.learner.publish.remote())
    wait_for(faulty.__ray_call__.remote(set_fault, STALLS))
    (stats,) = asyncio.run(run_pool([faulty, spare], 1, handle))
    assert stats.name == wait_for(spare.ping.remote())
    with pytest.raises(ray.exceptions.RayActorError):
        wait_for(faulty.ping.remote())


@pytest.mark.long
def test_a_generator_that_dies_in_an_update_is_replaced_and_does_not_affect_the_others(
    running: RunningActors, tiny_model_dir: Path, short_polls: None
) -> None:
    faulty: Any = running.draining
    handle = wait_for(running.learner.publish.remote())
    wait_for(faulty.__ray_call__.remote(set_fault, DIES))
    spare = start_generator("spare", tiny_model_dir, MODEL, KEEP)
    before = wait_for(running.keeping.stats.remote()).num_updates
    stats = asyncio.run(run_pool([running.keeping, faulty, spare], 2, handle))
    assert [found.num_updates for found in stats] == [before + 1, 1]
    kill(spare)


@pytest.mark.long
def test_weights_sent_by_ipc(
    tiny_model_dir: Path,
    make_weights: Callable[[int], Weights],
    reference_logprobs: Scorer,
    ray_session: None,
) -> None:
    settings = KEEP.model_copy(update={"weight_transfer": "ipc"})
    generator = start_generator("by-ipc", tiny_model_dir, MODEL, settings)
    sender: Any = ray.remote(Forger).options(max_concurrency=2).remote("ipc")
    for version in (1, 2):
        handle = wait_for(sender.publish.remote(version, make_weights(version), forge=False))
        assert wait_for(generator.update_weights.remote(handle)) == version
        wait_for(generator.submit.remote([rollout_request("after")]))
        check_logprobs(fetch(take(generator, 1)["after"]), {version: make_weights(version)}, reference_logprobs)
    kill(generator)
    kill(sender)


def test_another_learner_may_send_and_a_failed_generator_says_why_and_its_rollouts_outlive_it(
    running: RunningActors, forger: Any, make_weights: Callable[[int], Weights]
) -> None:
    generator = running.keeping
    first = next_version(generator)
    for version in (first, first + 1):
        handle = wait_for(forger.publish.remote(version, make_weights(version), forge=False))
        assert wait_for(generator.update_weights.remote(handle)) == version
    wait_for(generator.submit.remote([rollout_request("survivor")]))
    survivor = take(generator, 1)["survivor"]
    assert versions(survivor) == (first + 1, first + 1)

    handle = wait_for(forger.publish.remote(first + 2, make_weights(first + 2), forge=True))
    cause = rf"received weights version {first + 2} with checksum .* sent 00000001"
    with pytest.raises(TransferError, match=cause):
        wait_for(generator.update_weights.remote(handle))
    with pytest.raises(GeneratorError, match=rf"generator keep-\d+ failed: WeightsMismatchError: {cause}"):
        wait_for(generator.ping.remote())

    kill(generator)
    with pytest.raises(ray.exceptions.RayActorError):
        wait_for(generator.ping.remote())
    time.sleep(1.0)  # by then Ray has noticed the dead owner; the rollout must not die with its generator
    assert fetch(survivor).rollout_id == "survivor"

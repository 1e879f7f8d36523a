"""Generators and the learner as Ray actors: requests in, references to rollouts out, weights between engine steps.

Weights come from the object store or from the learner. Learner and vLLM's engines are real; only NCCL and CUDA IPC are
replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.actor import ActorProxy

import rltf.controller.generators
from rltf.actors.generator import Generator, update_timeout_s
from rltf.actors.messages import GeneratorError, GeneratorStats, RolloutHandle
from rltf.controller.generators import GeneratorPool
from rltf.transport.rollouts import Completion, FinishReason
from rltf.transport.weight_receiver import TransferError, WeightsGoneError, WeightsMismatchError
from rltf.transport.weights import WeightsHandle, publish
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


@pytest.fixture(scope="module")
def running(tiny_model_dir: Path, ray_session: None) -> Iterator[RunningActors]:
    """All of the shared actors start now, because starting them together takes the least time."""
    actors = RunningActors(tiny_model_dir)
    actors.start()
    yield actors
    actors.end()


@pytest.fixture
def generator(running: RunningActors) -> ActorProxy[Generator]:
    return running.keeping


def assert_well_formed(completion: Completion) -> None:
    num_tokens = len(completion.token_ids)
    assert num_tokens == len(completion.logprobs) == len(completion.char_spans) > 0
    assert (completion.logprobs <= 0).all()
    starts, ends = completion.char_spans.T
    stopped = completion.finish_reason is FinishReason.STOP
    assert starts[0] == 0
    assert ends[-1] == len(completion.text)
    assert not stopped or starts[-1] == ends[-1]
    assert (np.diff(starts) >= 0).all()
    assert completion.program == completion.text
    assert completion.weight_versions[0].first == 0
    assert completion.weight_versions[-1].end == num_tokens


def test_rollouts_come_back_as_references_with_their_counts(generator: ActorProxy[Generator]) -> None:
    wait_for(generator.submit.remote([rollout_request("a"), rollout_request("b", "even", greedy=False)]))
    handles = take(generator, 2)
    first, second = fetch(handles["a"]), fetch(handles["b"])
    assert (first.task_id, second.task_id) == ("sum", "even")
    assert first.greedy is not None
    assert second.greedy is None
    for rollout in (first, second):
        for completion in rollout.completions:
            assert_well_formed(completion)
        assert len(rollout.samples) == 2
    assert [completion.completion_id for completion in first.completions] == ["a/0", "a/1", "a/greedy"]


def test_weights_are_loaded_between_steps_while_rollouts_are_in_flight(
    generator: ActorProxy[Generator], make_weights: Callable[[int], Weights], reference_logprobs: Scorer
) -> None:
    first = next_version(generator)
    weights = {version: make_weights(version) for version in (first, first + 1)}
    assert wait_for(generator.update_weights.remote(publish(first, weights[first].items()))) == first
    long = [rollout_request(f"long{i}", max_tokens=200, num_samples=8) for i in range(4)]
    wait_for(generator.submit.remote(long))
    handle = publish(first + 1, weights[first + 1].items(), verify=True)
    assert wait_for(generator.update_weights.remote(handle)) == first + 1
    handles = take(generator, 4)
    assert {versions(handle)[1] for handle in handles.values()} == {first + 1}
    for rollout in map(fetch, handles.values()):
        check_logprobs(rollout, weights, reference_logprobs)


def test_older_weights_that_arrive_late_change_nothing(
    generator: ActorProxy[Generator], make_weights: Callable[[int], Weights]
) -> None:
    older, newer = next_version(generator), next_version(generator) + 1
    assert wait_for(generator.update_weights.remote(publish(newer, make_weights(newer).items()))) == newer
    assert wait_for(generator.update_weights.remote(publish(older, make_weights(older).items()))) == newer
    wait_for(generator.submit.remote([rollout_request("after")]))
    assert versions(take(generator, 1)["after"]) == (newer, newer)


def test_weights_that_differ_from_those_published_are_refused(
    generator: ActorProxy[Generator], make_weights: Callable[[int], Weights]
) -> None:
    version = next_version(generator)
    weights = publish(version, make_weights(version).items(), verify=True)
    forged = dataclasses.replace(weights, checksum=1)
    with pytest.raises(WeightsMismatchError, match=f"received weights version {version} with checksum"):
        wait_for(generator.update_weights.remote(forged))
    assert wait_for(generator.update_weights.remote(weights)) == version


def test_stats_count_what_was_sampled(generator: ActorProxy[Generator]) -> None:
    before = wait_for(generator.stats.remote())
    wait_for(generator.submit.remote([rollout_request("counted")]))
    handle = take(generator, 1)["counted"]
    after = wait_for(generator.stats.remote())
    sampled = sum(len(completion.token_ids) for completion in fetch(handle).completions)
    assert after.num_tokens == before.num_tokens + sampled
    assert after.num_in_flight == 0
    assert after.busy_s > before.busy_s


def test_take_returns_nothing_when_nothing_finishes_in_time(generator: ActorProxy[Generator]) -> None:
    assert ray.get(generator.take.remote(0.05), timeout=CALL_S) == []


def test_requests_that_cannot_be_served_are_refused_before_anything_is_queued(
    generator: ActorProxy[Generator],
) -> None:
    good = rollout_request("good")
    for bad, message in (
        (rollout_request("bad", "long"), r"request bad: the prompt has \d+ tokens and leaves no room"),
        (rollout_request("bad", "absent"), "'absent' is not one of the generator's 3 problems"),
        (rollout_request("bad", num_samples=0, greedy=False), "nothing to sample"),
        (good, "requested twice"),
    ):
        with pytest.raises(ValueError, match=message):
            wait_for(generator.submit.remote([good, bad]))
    assert wait_for(generator.stats.remote()).num_in_flight == 0


def test_requests_in_flight_finish_before_an_update_that_drains(
    running: RunningActors, make_weights: Callable[[int], Weights]
) -> None:
    generator = running.draining
    new = next_version(generator)
    old = new - 1
    requests = [rollout_request(f"old{i}", max_tokens=100, num_samples=4) for i in range(3)]
    wait_for(generator.submit.remote(requests))
    while (stats := wait_for(generator.stats.remote())).num_in_flight and not stats.num_sequences:
        time.sleep(0.01)  # the engine has not begun with them, so the weights would come first
    assert wait_for(generator.update_weights.remote(publish(new, make_weights(new).items()))) == new
    wait_for(generator.submit.remote([rollout_request("new")]))
    found = {name: versions(handle) for name, handle in take(generator, 4).items()}
    assert found == {"old0": (old, old), "old1": (old, old), "old2": (old, old), "new": (new, new)}


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
    pool = GeneratorPool[RolloutHandle](
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
    monkeypatch.setattr(rltf.controller.generators, "POLL_S", 0.2)
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


def ping_for_ever(generator: Any) -> None:
    """Ping a failed generator: it may still answer until its death arrives."""
    while True:
        with contextlib.suppress(GeneratorError):
            wait_for(generator.ping.remote())


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
        ping_for_ever(generator)
    time.sleep(1.0)  # by then Ray has noticed the dead owner; the rollout must not die with its generator
    assert fetch(survivor).rollout_id == "survivor"

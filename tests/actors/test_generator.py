"""The generator as a Ray actor: requests in, references to rollouts out, weights between engine steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import ray

from actors.generator import Generator
from tests.actors.running_actors import (
    CALL_S,
    RunningActors,
    Scorer,
    check_logprobs,
    fetch,
    next_version,
    rollout_request,
    take,
    versions,
    wait_for,
)
from tests.actors.sampling import Weights
from transport.rollouts import Completion, FinishReason
from transport.weight_receiver import WeightsMismatchError
from transport.weights import publish


@pytest.fixture
def generator(running: RunningActors) -> ray.actor.ActorProxy[Generator]:
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


def test_rollouts_come_back_as_references_with_their_counts(generator: ray.actor.ActorProxy[Generator]) -> None:
    wait_for(generator.submit.remote([rollout_request("a"), rollout_request("b", "even", greedy=False)]))
    handles = take(generator, 2)
    first, second = fetch(handles["a"]), fetch(handles["b"])
    assert (first.task_id, second.task_id) == ("sum", "even")
    assert first.greedy is not None
    assert second.greedy is None
    for handle, rollout in ((handles["a"], first), (handles["b"], second)):
        for completion in rollout.completions:
            assert_well_formed(completion)
        assert handle.num_samples == len(rollout.samples) == 2
        assert handle.num_tokens == sum(len(completion.token_ids) for completion in rollout.completions)
    assert [completion.completion_id for completion in first.completions] == ["a/0", "a/1", "a/greedy"]


def test_weights_are_loaded_between_steps_while_rollouts_are_in_flight(
    generator: ray.actor.ActorProxy[Generator], make_weights: Callable[[int], Weights], reference_logprobs: Scorer
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
    generator: ray.actor.ActorProxy[Generator], make_weights: Callable[[int], Weights]
) -> None:
    older, newer = next_version(generator), next_version(generator) + 1
    assert wait_for(generator.update_weights.remote(publish(newer, make_weights(newer).items()))) == newer
    assert wait_for(generator.update_weights.remote(publish(older, make_weights(older).items()))) == newer
    wait_for(generator.submit.remote([rollout_request("after")]))
    assert versions(take(generator, 1)["after"]) == (newer, newer)


def test_weights_that_differ_from_those_published_are_refused(
    generator: ray.actor.ActorProxy[Generator], make_weights: Callable[[int], Weights]
) -> None:
    version = next_version(generator)
    weights = publish(version, make_weights(version).items(), verify=True)
    forged = dataclasses.replace(weights, checksum=1)
    with pytest.raises(WeightsMismatchError, match=f"received weights version {version} with checksum"):
        wait_for(generator.update_weights.remote(forged))
    assert wait_for(generator.update_weights.remote(weights)) == version


def test_stats_count_what_was_sampled(generator: ray.actor.ActorProxy[Generator]) -> None:
    before = wait_for(generator.stats.remote())
    wait_for(generator.submit.remote([rollout_request("counted")]))
    handle = take(generator, 1)["counted"]
    after = wait_for(generator.stats.remote())
    assert after.num_rollouts == before.num_rollouts + 1
    assert after.num_tokens == before.num_tokens + handle.num_tokens
    assert after.num_in_flight == 0
    assert after.busy_s > before.busy_s


def test_take_returns_nothing_when_nothing_finishes_in_time(generator: ray.actor.ActorProxy[Generator]) -> None:
    assert ray.get(generator.take.remote(0.05), timeout=CALL_S) == []


def test_requests_that_cannot_be_served_are_refused_before_anything_is_queued(
    generator: ray.actor.ActorProxy[Generator],
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
    assert wait_for(generator.update_weights.remote(publish(new, make_weights(new).items()))) == new
    wait_for(generator.submit.remote([rollout_request("new")]))
    found = {name: versions(handle) for name, handle in take(generator, 4).items()}
    assert found == {"old0": (old, old), "old1": (old, old), "old2": (old, old), "new": (new, new)}

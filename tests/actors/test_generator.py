"""The generator as a Ray actor: requests in, references to rollouts out, weights between engine steps."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from actors.generator import Generator, actor_options
from actors.messages import GeneratorError, RolloutHandle, RolloutRequest, WeightsMismatchError
from actors.types import Completion, FinishReason, Rollout
from problems.types import Problem, StdinTest
from settings import GeneratorSettings, ModelSettings
from tests.actors.sampling import Weights
from transport.rollout_store import start_rollout_store
from transport.weights import publish

CALL_S = 60.0
MODEL = ModelSettings(dtype="float32", max_model_len=256)
SETTINGS = GeneratorSettings(num_cpus=1, num_gpus=0, max_num_seqs=16, kv_cache_bytes=32 * 2**20)


def problem(task_id: str, statement: str) -> Problem:
    return Problem(task_id, "starter", statement, (StdinTest("", ""),))


PROBLEMS = {
    "sum": problem("sum", "Write a function `solve` that takes a list of integers and returns the sum."),
    "even": problem("even", "Write a function that returns the even ones."),
    "long": problem("long", "x y " * 400),
}


def rollout_request(rollout_id: str, task_id: str = "sum", **changes: Any) -> RolloutRequest:
    fields = {"num_samples": 2, "greedy": True, "temperature": 1.0, "top_p": 1.0, "max_tokens": 12, "seed": 3}
    return RolloutRequest(rollout_id, task_id, **(fields | changes))


def start(name: str, model: Path, keeper: Any, **changes: Any) -> Any:
    settings = SETTINGS.model_copy(update=changes)
    actor = ray.remote(Generator).options(**actor_options(name, settings))
    return actor.remote(name, model, MODEL, settings, ray.put(PROBLEMS), keeper)


def take(generator: Any, count: int) -> dict[str, RolloutHandle]:
    handles: dict[str, RolloutHandle] = {}
    deadline = time.monotonic() + CALL_S
    while len(handles) < count and time.monotonic() < deadline:
        handles |= {h.rollout_id: h for h in ray.get(generator.take.remote(5.0), timeout=CALL_S)}
    assert len(handles) == count
    return handles


def fetch(handle: RolloutHandle) -> Rollout:
    rollout: Rollout = ray.get(handle.ref[0], timeout=CALL_S)
    return rollout


@pytest.fixture(scope="module")
def keeper(ray_session: None) -> Any:
    return start_rollout_store()


@pytest.fixture(scope="module")
def draining(tiny_model_dir: Path, keeper: Any) -> Any:
    """A generator that ends what is in flight before it loads weights; the last of its tests kills it."""
    return start("generator-draining", tiny_model_dir, keeper, on_update="drain")


@pytest.fixture(scope="module")
def generator(tiny_model_dir: Path, keeper: Any) -> Iterator[Any]:
    actor = start("generator-test", tiny_model_dir, keeper)
    assert ray.get(actor.ping.remote(), timeout=120) == "generator-test"
    yield actor
    ray.kill(actor)


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


def test_rollouts_come_back_as_references_with_their_counts(generator: Any) -> None:
    ray.get(generator.submit.remote([rollout_request("a"), rollout_request("b", "even", greedy=False)]))
    handles = take(generator, 2)
    first, second = fetch(handles["a"]), fetch(handles["b"])
    assert (first.task_id, second.task_id) == ("sum", "even")
    assert first.greedy is not None
    assert second.greedy is None
    for handle, rollout in ((handles["a"], first), (handles["b"], second)):
        completions = [*rollout.samples, *([rollout.greedy] if rollout.greedy else [])]
        for completion in completions:
            assert_well_formed(completion)
        assert handle.num_samples == len(rollout.samples) == 2
        assert handle.num_tokens == sum(len(completion.token_ids) for completion in completions)
        assert handle.size_bytes > 16 * handle.num_tokens
    ids = [completion.completion_id for completion in (*first.samples, first.greedy)]
    assert ids == ["a/0", "a/1", "a/greedy"]


def test_weights_are_loaded_between_steps_while_rollouts_are_in_flight(
    generator: Any,
    make_weights: Callable[[int], Weights],
    reference_logprobs: Callable[..., torch.Tensor],
) -> None:
    weights = {version: make_weights(version) for version in (1, 2)}
    reply = ray.get(generator.update_weights.remote(publish(1, weights[1].items())), timeout=CALL_S)
    assert reply.version == 1
    long = [rollout_request(f"long{i}", max_tokens=200, num_samples=8) for i in range(4)]
    ray.get(generator.submit.remote(long))
    reply = ray.get(generator.update_weights.remote(publish(2, weights[2].items(), verify=True)), timeout=CALL_S)
    assert reply.version == 2
    handles = take(generator, 4)
    assert {handle.version_max for handle in handles.values()} == {2}
    for rollout in map(fetch, handles.values()):
        for completion in rollout.samples:
            prompt, ids = completion.prompt_ids.tolist(), completion.token_ids.tolist()
            for span in completion.weight_versions:
                expected = reference_logprobs(weights[span.version], prompt, ids)[span.first : span.end]
                np.testing.assert_allclose(completion.logprobs[span.first : span.end], expected, atol=1e-4, rtol=0)


def test_older_weights_that_arrive_late_change_nothing(generator: Any, make_weights: Callable[[int], Weights]) -> None:
    newer, older = publish(7, make_weights(7).items()), publish(6, make_weights(6).items())
    assert ray.get(generator.update_weights.remote(newer), timeout=CALL_S).version == 7
    assert ray.get(generator.update_weights.remote(older), timeout=CALL_S).version == 7
    ray.get(generator.submit.remote([rollout_request("after")]))
    assert take(generator, 1)["after"].version_min == 7


def test_weights_other_than_those_published_are_refused(generator: Any, make_weights: Callable[[int], Weights]) -> None:
    weights = publish(8, make_weights(8).items(), verify=True)
    forged = dataclasses.replace(weights, checksum=1)
    with pytest.raises(WeightsMismatchError, match="received weights version 8 with checksum"):
        ray.get(generator.update_weights.remote(forged), timeout=CALL_S)
    assert ray.get(generator.update_weights.remote(weights), timeout=CALL_S).version == 8


def test_stats_count_what_was_sampled(generator: Any) -> None:
    before = ray.get(generator.stats.remote(), timeout=CALL_S)
    ray.get(generator.submit.remote([rollout_request("counted")]))
    handle = take(generator, 1)["counted"]
    after = ray.get(generator.stats.remote(), timeout=CALL_S)
    assert after.num_rollouts == before.num_rollouts + 1
    assert after.num_tokens == before.num_tokens + handle.num_tokens
    assert after.num_in_flight == 0
    assert after.busy_s > before.busy_s


def test_take_returns_nothing_when_nothing_finishes_in_time(generator: Any) -> None:
    assert ray.get(generator.take.remote(0.05), timeout=CALL_S) == []


def test_requests_that_cannot_be_served_are_refused_before_anything_is_queued(generator: Any) -> None:
    good = rollout_request("good")
    for bad, message in (
        (rollout_request("bad", "long"), r"request bad: the prompt has \d+ tokens and leaves no room"),
        (rollout_request("bad", "absent"), "'absent' is none of the generator's 3 problems"),
        (good, "asked for twice"),
    ):
        with pytest.raises(ValueError, match=message):
            ray.get(generator.submit.remote([good, bad]), timeout=CALL_S)
    assert ray.get(generator.stats.remote(), timeout=CALL_S).num_in_flight == 0


def test_what_is_in_flight_ends_before_weights_are_loaded_where_these_drain(
    draining: Any, make_weights: Callable[[int], Weights]
) -> None:
    old = [rollout_request(f"old{i}", max_tokens=100, num_samples=4) for i in range(3)]
    ray.get(draining.submit.remote(old), timeout=120)
    assert ray.get(draining.update_weights.remote(publish(1, make_weights(1).items())), timeout=CALL_S).version == 1
    ray.get(draining.submit.remote([rollout_request("new")]))
    versions = {name: (handle.version_min, handle.version_max) for name, handle in take(draining, 4).items()}
    assert versions == {"old0": (0, 0), "old1": (0, 0), "old2": (0, 0), "new": (1, 1)}


def test_a_failed_generator_says_why_and_its_rollouts_outlive_it(
    draining: Any, make_weights: Callable[[int], Weights]
) -> None:
    ray.get(draining.submit.remote([rollout_request("survivor")]), timeout=120)
    handle = take(draining, 1)["survivor"]

    incomplete = make_weights(2)
    del incomplete["model.norm.weight"]
    cause = r"generator-draining failed: ValueError: weight update without model\.norm\.weight"
    for call in (lambda: draining.update_weights.remote(publish(2, incomplete.items())), draining.ping.remote):
        with pytest.raises(GeneratorError, match=cause):
            ray.get(call(), timeout=CALL_S)

    ray.kill(draining)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(draining.ping.remote(), timeout=CALL_S)
    time.sleep(1.0)  # Ray notices a dead owner within this time; the object must not go with the generator
    assert fetch(handle).rollout_id == "survivor"

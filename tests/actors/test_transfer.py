"""Weights that the learner sends: the real learner, vLLM's engines on both sides, NCCL alone replaced where it must be.

In order: the last two end the learner, and a generator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load_file

from actors.generator import Generator, actor_options, update_timeout_s
from actors.messages import GeneratorError, GeneratorStats, WeightsGoneError
from controller.generators import POLL_S, GeneratorPool
from learner.actor import LearnerActor
from learner.buffer import BufferActor
from problems.types import Problem, StdinTest
from settings import GeneratorSettings, ModelSettings
from tests.actors.sampling import Weights
from tests.actors.test_generator import PROBLEMS, fetch, rollout_request, take
from tests.actors.without_gpu import DIES, STALLS, Forger, ModelHere
from tests.learner.samples import settings as learner_settings
from tests.learner.test_learner_actor import BUFFER, fill, rollouts
from tests.learner.test_learner_actor import take as take_graded
from transport.rollout_store import start_rollout_store
from transport.weights import WeightsHandle

CALL_S = 120.0
KEEP = GeneratorSettings(
    num_generators=2, num_cpus=1, num_gpus=0, max_num_seqs=16, kv_cache_bytes=32 * 2**20, weight_transfer="nccl"
)
DRAIN = KEEP.model_copy(update={"on_update": "drain"})
Scorer = Callable[..., torch.Tensor]


def wait_for(reply: Any) -> Any:
    return ray.get(reply, timeout=CALL_S)


def start_learner(model: Path, model_settings: ModelSettings, weight_transfer: str, num_gpus: float = 0.0) -> Any:
    actor_class: Any = LearnerActor
    learner = actor_class.options(num_gpus=num_gpus).remote(
        str(model),
        model_settings,
        learner_settings(learning_rate=0.02, warmup_steps=0, num_gpus=num_gpus),
        temperature=1.0,
        seed=0,
        verify_weights_every=1,
        weight_transfer=weight_transfer,
    )
    tests = (StdinTest("", "1\n"),)
    problems = [Problem(f"p{i}", "own", f"Print {i}.", tests, references=(f"print({i})\n",)) for i in range(8)]
    learner.set_references.remote(problems)
    return learner


def start_generator(
    name: str, model: Path, model_settings: ModelSettings, settings: GeneratorSettings, **variables: str
) -> Any:
    options = actor_options(name, settings)
    options["runtime_env"]["env_vars"] |= variables
    actor: Any = ray.remote(Generator).options(**options)
    return actor.remote(name, model, model_settings, settings, ray.put(PROBLEMS), start_rollout_store())


def train(learner: Any) -> None:
    """One update."""
    buffer_class: Any = BufferActor
    buffer = buffer_class.remote(BUFFER)
    fill(buffer, rollouts(0, 4))
    items = take_graded(buffer, "r0", "r1", "r2", "r3")
    assert wait_for(learner.step.remote(items)).metrics is not None


def weights_of(learner: Any, folder: Path) -> Weights:
    return load_file(wait_for(learner.save_checkpoint.remote(folder, "{}", [], 3)) / "model.safetensors")


def check_update_in_flight(
    learner: Any,
    generator: Any,
    score: Scorer,
    folder: Path,
    first: int,
    *,
    drains: bool = False,
    atol: float = 1e-4,
    itemsize: int = 4,
) -> None:
    """Weights `first` and the next are sent to `generator`, the latter while rollouts are in flight there.

    Every token must have the log-probability that its version of the learner's weights gives it.
    """
    weights = {first: weights_of(learner, folder)}
    assert wait_for(generator.update_weights.remote(wait_for(learner.publish.remote()))).version == first
    train(learner)
    weights[first + 1] = weights_of(learner, folder)
    handle = wait_for(learner.publish.remote())
    assert handle.version == first + 1
    assert handle.num_bytes == sum(itemsize * value.numel() for value in weights[first].values())
    wait_for(generator.submit.remote([rollout_request(f"long{i}", max_tokens=200, num_samples=8) for i in range(4)]))
    while (stats := wait_for(generator.stats.remote())).num_in_flight and not stats.num_sequences:
        time.sleep(0.01)  # they are to have begun
    reply = wait_for(generator.update_weights.remote(handle))
    assert reply.version == first + 1
    assert reply.seconds > 0
    wait_for(generator.submit.remote([rollout_request("after", max_tokens=200)]))
    handles = take(generator, 5)
    after = handles.pop("after")
    assert after.version_min == first + 1
    assert {h.version_max for h in handles.values()} == {first if drains else first + 1}
    for rollout in map(fetch, [after, *handles.values()]):
        for completion in rollout.samples:
            prompt, ids = completion.prompt_ids.tolist(), completion.token_ids.tolist()
            for span in completion.weight_versions:
                expected = score(weights[span.version], prompt, ids)[span.first : span.end]
                np.testing.assert_allclose(completion.logprobs[span.first : span.end], expected, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def model_settings() -> ModelSettings:
    return ModelHere(dtype="float32", max_model_len=256)


@pytest.fixture(scope="module")
def learner(tiny_model_dir: Path, model_settings: ModelSettings, ray_session: None) -> Iterator[Any]:
    actor = start_learner(tiny_model_dir, model_settings, "nccl")
    yield actor
    ray.kill(actor)


class Pair:
    """Two generators, one that keeps and one that drains. The first life of one may stall or die in an update."""

    def __init__(self, model: Path, model_settings: ModelSettings, faults: tuple[str, str]) -> None:
        self.model, self.model_settings, self.faults = model, model_settings, faults
        self.actors: list[Any] = [None, None]
        self.num_replaced = 0

    def spawn(self, index: int, life: int) -> Any:
        name = f"{self.faults[index]}-{index}.{life}"
        fault = "" if life else self.faults[index]
        self.actors[index] = start_generator(
            name, self.model, self.model_settings, (KEEP, DRAIN)[index], TRANSFER=fault
        )
        return self.actors[index]

    async def bring_up(self, weights: WeightsHandle) -> list[GeneratorStats]:
        """Have a pool make them sample with `weights`; returns their counts then."""
        pool = GeneratorPool(
            self.spawn, 2, max_samples=16, start_timeout_s=CALL_S, load_timeout_s=update_timeout_s(KEEP)
        )
        try:
            await pool.start()
            pool.use(weights)
            async with asyncio.timeout(CALL_S):
                found = await pool.stats()
                while [stats.version for stats in found] != [weights.version] * 2:
                    await asyncio.sleep(0.2)
                    found = await pool.stats()
            self.num_replaced = pool.num_replaced
            return found
        finally:
            await pool.close()
            await asyncio.sleep(POLL_S + 1)  # until its last poll is over, which would take what is sampled next

    def end(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


@pytest.fixture(scope="module")
def pair(tiny_model_dir: Path, model_settings: ModelSettings, learner: Any) -> Iterator[Pair]:
    pair = Pair(tiny_model_dir, model_settings, (STALLS, ""))
    asyncio.run(pair.bring_up(wait_for(learner.publish.remote())))
    yield pair
    pair.end()


@pytest.mark.slow
def test_a_generator_that_stalls_in_an_update_is_rebuilt_with_the_newest_weights(pair: Pair) -> None:
    assert pair.num_replaced == 1
    for actor in pair.actors:
        assert wait_for(actor.stats.remote()).num_updates == 1
        wait_for(actor.submit.remote([rollout_request("first")]))
        assert take(actor, 1)["first"].version_min == 1


@pytest.mark.long
def test_a_generator_that_dies_in_an_update_is_rebuilt_and_takes_no_other_along(
    tiny_model_dir: Path, model_settings: ModelSettings, learner: Any
) -> None:
    pair = Pair(tiny_model_dir, model_settings, ("", DIES))
    stats = asyncio.run(pair.bring_up(wait_for(learner.publish.remote())))
    assert [found.num_updates for found in stats] == [1, 1]
    assert pair.num_replaced == 1
    pair.end()


@pytest.mark.long
def test_weights_sent_by_ipc(
    tiny_model_dir: Path,
    model_settings: ModelSettings,
    make_weights: Callable[[int], Weights],
    reference_logprobs: Scorer,
    ray_session: None,
) -> None:
    settings = KEEP.model_copy(update={"weight_transfer": "ipc"})
    generator = start_generator("by-ipc", tiny_model_dir, model_settings, settings)
    sender: Any = ray.remote(Forger).options(max_concurrency=2).remote("ipc")
    for version in (1, 2):
        handle = wait_for(sender.publish.remote(version, make_weights(version), forge=False))
        assert wait_for(generator.update_weights.remote(handle)).version == version
        wait_for(generator.submit.remote([rollout_request("after")]))
        for completion in fetch(take(generator, 1)["after"]).samples:
            expected = reference_logprobs(
                make_weights(version), completion.prompt_ids.tolist(), completion.token_ids.tolist()
            )
            np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4, rtol=0)
    ray.kill(generator)
    ray.kill(sender)


def test_weights_are_sent_between_steps_while_rollouts_are_in_flight(
    pair: Pair, learner: Any, reference_logprobs: Scorer, tmp_path: Path
) -> None:
    check_update_in_flight(learner, pair.actors[0], reference_logprobs, tmp_path, 1)


def test_what_is_in_flight_ends_before_weights_are_sent_where_these_drain(
    pair: Pair, learner: Any, reference_logprobs: Scorer, tmp_path: Path
) -> None:
    check_update_in_flight(learner, pair.actors[1], reference_logprobs, tmp_path, 2, drains=True)


def test_generators_go_on_where_the_learner_died_before_it_sent(pair: Pair, learner: Any) -> None:
    train(learner)
    handle = wait_for(learner.publish.remote())
    ray.kill(learner)
    for actor in pair.actors:
        version = wait_for(actor.stats.remote()).version
        with pytest.raises(WeightsGoneError, match=f"weights version {handle.version} are gone with their learner"):
            wait_for(actor.update_weights.remote(handle))
        wait_for(actor.submit.remote([rollout_request("on")]))
        assert take(actor, 1)["on"].version_max == version < handle.version


def test_another_learner_is_listened_to_and_weights_other_than_it_sent_are_refused(
    pair: Pair, make_weights: Callable[[int], Weights]
) -> None:
    forger: Any = ray.remote(Forger).options(max_concurrency=2).remote()
    generator = pair.actors[0]
    for version in (5, 6):
        handle = wait_for(forger.publish.remote(version, make_weights(version), forge=False))
        assert wait_for(generator.update_weights.remote(handle)).version == version
    handle = wait_for(forger.publish.remote(7, make_weights(7), forge=True))
    for call in (lambda: generator.update_weights.remote(handle), generator.ping.remote):
        with pytest.raises(GeneratorError, match=r"received weights version 7 with checksum .* sent 00000001"):
            wait_for(call())
    ray.kill(forger)

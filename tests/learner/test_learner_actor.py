"""Learner and buffer as real Ray actors: references in, weights out, and what happens when something dies."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import ObjectLostError

from learner.actor import LearnerActor
from learner.buffer import BufferItem, DropReason, SampleMeta
from learner.buffer_actor import BufferActor, BufferServer, TakeReply, TakeRequest
from learner.experience import Experiences
from learner.metrics import StepReport
from learner.prefetcher import Prefetcher
from learner.stored_rollouts import load_rollouts, save_rollouts
from problems.types import Problem, StdinTest
from settings import BufferSettings, ModelSettings, SftSettings
from tests.learner.producer import Producer
from tests.learner.samples import make_learner, make_references, make_rollout, settings

DEADLINE_S = 240
BUFFER = BufferSettings(capacity=32, refresh_every=2, max_off_policy_versions=1)


def rollouts(first: int, count: int, version: int = 0) -> list[tuple[str, Experiences]]:
    random = np.random.default_rng(first)
    return [(f"r{i}", make_rollout(random, f"r{i}", version=version)) for i in range(first, first + count)]


def wait_for(reply: Any) -> Any:
    return ray.get(reply, timeout=DEADLINE_S)


def wait_until_lost(ref: Any) -> None:
    """An owner's death is noticed a little later than it happens."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            wait_for(ref)
        except ObjectLostError:
            return
    raise TimeoutError("the object outlives its owner")


def take(buffer: Any, num_samples: int = 8, version: int = 0, **fields: Any) -> TakeReply[Any]:
    request = TakeRequest(fields.pop("ticket", f"{time.monotonic()}"), num_samples, version, 10.0, **fields)
    reply: TakeReply[Any] = wait_for(buffer.take.remote(request))
    return reply


def ids(reply: TakeReply[Any]) -> list[str]:
    return [item.meta.rollout_id for item in reply.items]


@pytest.fixture
def buffer(ray_session: None) -> Iterator[Any]:
    actor: Any = BufferActor.remote(BUFFER)
    yield actor
    ray.kill(actor)


@pytest.fixture
def feed(ray_session: None, tiny_model_dir: Path) -> Prefetcher:
    learner = make_learner(tiny_model_dir, fetch_timeout_s=60.0)
    learner.set_examples(make_references(0))
    return Prefetcher(learner)


def start_learner(model: Path) -> Any:
    actor_class: Any = LearnerActor
    learner = actor_class.remote(
        str(model),
        ModelSettings(name=str(model), dtype="float32", max_model_len=256),
        settings(fetch_timeout_s=60.0, sft=SftSettings(num_steps=2, cache_dir=None)),
        temperature=0.8,
        seed=0,
    )
    tests = (StdinTest("", "1\n"),)
    problems = [Problem(f"p{i}", "own", f"Print {i}.", tests, references=(f"print({i})\n",)) for i in range(8)]
    assert wait_for(learner.set_references.remote(problems)) == len(problems)
    return learner


@pytest.mark.slow
def test_updates_checkpoints_and_the_death_of_the_learner(buffer: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    learner = start_learner(tiny_model_dir)
    assert wait_for(learner.progress.remote()) is None
    assert wait_for(learner.sft.remote()).num_steps == 2
    assert wait_for(learner.progress.remote()).step == 2

    stored = rollouts(0, 5)
    incarnation = wait_for(buffer.add.remote(stored))
    assert wait_for(learner.publish.remote()).version == 1
    assert wait_for(learner.publish.remote()).version == 1, "the same weights are the same version"
    items = list(take(buffer, 16, incarnation=incarnation).items)
    report: StepReport = wait_for(learner.step.remote(items[:2], items[2:]))
    assert (report.trained, report.lost) == (("r0", "r1"), ())
    metrics = report.metrics
    assert metrics is not None
    assert (metrics.step, metrics.weights_version, metrics.update.num_samples) == (1, 1, 8)
    assert metrics.outcomes == {"passed": 2, "failed": 2, "runtime_error": 2, "syntax_error": 2}
    assert metrics.pass_rate == 0.25
    assert metrics.reward_mean == pytest.approx((1.0 - 3 * 0.3) / 4)
    assert (metrics.staleness_mean, metrics.staleness_max) == (1.0, 1)
    row = metrics.with_driver(1.0, 7, {"stale": 1}).row()
    assert {"step", "weights_version", "loss", "loss_sl", "loss_coarse", "loss_fine", "loss_adaptive"} <= row.keys()
    assert (row["buffer_size"], row["dropped"]) == (7, {"stale": 1})
    waiting = [*items[2:], *wait_for(buffer.contents.remote())]
    path = wait_for(learner.save_checkpoint.remote(tmp_path, '{"state": 1}', waiting, 3))
    assert (path / "trainer_state" / "run_state.json").read_text() == '{"state": 1}'
    kept = load_rollouts(path / "trainer_state" / "rollouts.npz")
    assert [name for name, _ in kept] == ["r2", "r3", "r4"]

    # Another learner goes on from there, with newer versions than the dead one may have published since.
    ray.kill(learner)
    learner = start_learner(tiny_model_dir)
    assert wait_for(learner.resume.remote(path, 3)) == 1
    report = wait_for(learner.step.remote(items[2:]))
    assert report.metrics is not None
    assert (report.metrics.step, report.trained) == (2, ("r2", "r3"))
    assert wait_for(learner.publish.remote()).version == 4
    ray.kill(learner)


def test_stored_rollouts_are_the_same_bits(tmp_path: Path) -> None:
    stored = rollouts(0, 3, version=2)
    save_rollouts(tmp_path / "rollouts.npz", stored)
    loaded = load_rollouts(tmp_path / "rollouts.npz")
    assert [name for name, _ in loaded] == [name for name, _ in stored]
    for (_, ours), (_, theirs) in zip(stored, loaded, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a.task_id, a.completion_id, a.version, a.reward, a.outcome) == (
                (b.task_id, b.completion_id, b.version, b.reward, b.outcome)
            )
            for name in ("prompt_ids", "token_ids", "logprobs", "token_weights"):
                left, right = getattr(a, name), getattr(b, name)
                assert left.dtype == right.dtype
                assert np.array_equal(left, right)
    save_rollouts(tmp_path / "none.npz", [])
    assert load_rollouts(tmp_path / "none.npz") == []


def test_what_was_announced_comes_next(feed: Prefetcher, buffer: Any) -> None:
    incarnation = wait_for(buffer.add.remote(rollouts(0, 4)))
    items = take(buffer, 16, incarnation=incarnation).items
    feed.announce(items[:2])
    with pytest.raises(ValueError, match="announced as the next"):
        feed.get(items[2:])
    fed = feed.get(items[2:])
    assert fed.prepared is not None
    assert fed.prepared.num_samples == 8


def test_a_take_waits_for_what_is_on_its_way(buffer: Any) -> None:
    incarnation = take(buffer).incarnation
    reply = buffer.take.remote(TakeRequest("1", 8, 0, DEADLINE_S, incarnation=incarnation))
    wait_for(buffer.add.remote(rollouts(0, 2)))
    assert ids(wait_for(reply)) == ["r0", "r1"]


def test_a_take_that_comes_twice_is_answered_once(ray_session: None) -> None:
    async def twice() -> None:
        buffer = BufferServer(BUFFER)
        await buffer.add(rollouts(0, 4))
        request = TakeRequest("same", 8, 0, 10.0, incarnation=buffer.incarnation)
        assert await buffer.take(request) == await buffer.take(request)
        assert (await buffer.stats()).num_taken == 8

    asyncio.run(twice())


def test_a_take_tells_what_became_stale_rather_than_wait(buffer: Any) -> None:
    incarnation = wait_for(buffer.add.remote(rollouts(0, 1)))
    wait_for(buffer.add.remote(rollouts(10, 1, version=1)))
    reply = take(buffer, 8, version=2, incarnation=incarnation)
    assert (ids(reply), [drop.rollout_id for drop in reply.drops]) == ([], ["r0"])
    wait_for(buffer.add.remote(rollouts(20, 1, version=2)))
    reply = take(buffer, 8, version=2, incarnation=incarnation, cursor=reply.cursor)
    assert (ids(reply), reply.drops) == (["r10", "r20"], ())


def test_a_buffer_that_died_says_so_and_serves_on(buffer: Any) -> None:
    incarnation = wait_for(buffer.add.remote(rollouts(0, 2)))
    items = take(buffer, 4, incarnation=incarnation).items
    reply = buffer.take.remote(TakeRequest("1", 8, 0, DEADLINE_S, incarnation=incarnation))
    os.kill(wait_for(buffer.pid.remote()), signal.SIGKILL)
    told: TakeReply[Any] = wait_for(reply)
    assert told.incarnation != incarnation
    assert told.items == ()
    wait_until_lost(items[0].ref)
    assert wait_for(buffer.add.remote(rollouts(2, 2))) == told.incarnation
    assert ids(take(buffer, 8, incarnation=told.incarnation)) == ["r2", "r3"]


def test_rollouts_outlive_the_process_that_made_them(feed: Prefetcher, buffer: Any) -> None:
    actor_class: Any = Producer
    producer = actor_class.remote()
    wait_for(producer.produce.remote(buffer, rollouts(0, 4), DEADLINE_S))
    ray.kill(producer)
    incarnation = take(buffer, 8).incarnation
    fed = feed.get(take(buffer, 8, incarnation=incarnation).items)
    assert fed.prepared is not None
    assert fed.prepared.num_samples == 8


def test_rollouts_whose_objects_are_gone_are_told(feed: Prefetcher) -> None:
    producer_class: Any = Producer
    producers = [producer_class.remote() for _ in range(2)]
    items = []
    for index, (name, group) in enumerate(rollouts(0, 2)):
        (ref,) = wait_for(producers[index].put.remote(group))
        items.append(BufferItem(ref, SampleMeta.of(name, group)))
    ray.kill(producers[0])
    wait_until_lost(items[0].ref)
    fed = feed.get(items)
    assert [item.meta.rollout_id for item in fed.items] == ["r1"]
    assert [item.meta.rollout_id for item in fed.lost] == ["r0"]
    fed = feed.get(items[:1])
    assert (fed.items, fed.prepared) == ([], None)
    ray.kill(producers[1])


def test_what_is_taken_is_trained_or_dropped(buffer: Any) -> None:
    incarnation = wait_for(buffer.add.remote(rollouts(0, 4)))
    take(buffer, 16, incarnation=incarnation)
    take(buffer, 1, incarnation="", finished=("r0", "r1"), lost=("r2",))
    wait_for(buffer.refuse.remote(["r3"], DropReason.DUPLICATE))
    stats = wait_for(buffer.stats.remote())
    assert (stats.num_taken, stats.num_trained) == (0, 8)
    assert stats.dropped == {DropReason.LOST: 4, DropReason.DUPLICATE: 4}

"""The learner and the buffer as real Ray actors: updates, checkpoints, and the death of a process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import ObjectLostError

from rltf.learner.actor import LearnerActor, Prefetcher
from rltf.learner.buffer import Added, BufferItem, RolloutMeta, start_buffer
from rltf.learner.data import Experiences, load_rollouts, save_rollouts
from rltf.learner.metrics import StepReport
from rltf.problems.types import Problem, StdinTest
from rltf.settings import BufferSettings, GeneratorSettings, ModelSettings, Settings, SftSettings
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
    """Ray notices the death of an owner with a delay."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            wait_for(ref)
        except ObjectLostError:
            return
    raise TimeoutError("the object is still there after the death of its owner")


def fill(buffer: Any, stored: list[tuple[str, Experiences]]) -> str:
    """Add rollouts; returns the buffer's epoch."""
    added: list[Added] = wait_for([buffer.add.remote(*rollout) for rollout in stored])
    return added[-1].epoch


def take(buffer: Any, *names: str) -> list[BufferItem]:
    items: list[BufferItem] = wait_for(buffer.take.remote(names, ()))[1]
    return items


def ids(items: list[BufferItem]) -> list[str]:
    return [item.meta.rollout_id for item in items]


@pytest.fixture
def buffer(ray_session: None) -> Iterator[Any]:
    actor: Any = start_buffer(BUFFER)
    yield actor
    ray.kill(actor)


@pytest.fixture
def prefetcher(ray_session: None, tiny_model_dir: Path) -> Prefetcher:
    learner = make_learner(tiny_model_dir, fetch_timeout_s=60.0)
    learner.set_references(make_references(0))
    return Prefetcher(learner)


def start_learner(model: Path) -> Any:
    actor_class: Any = LearnerActor
    learner = actor_class.remote(
        model,
        Settings(
            model=ModelSettings(dtype="float32", max_model_len=256),
            generator=GeneratorSettings(temperature=0.8, max_tokens=32),
            learner=settings(fetch_timeout_s=60.0, num_threads=3, sft=SftSettings(num_steps=2, cache_dir=None)),
        ),
    )
    tests = (StdinTest("", "1\n"),)
    problems = [Problem(f"p{i}", "own", f"Print {i}.", tests, references=(f"print({i})\n",)) for i in range(8)]
    assert wait_for(learner.set_references.remote(problems)) == len(problems)
    return learner


@pytest.mark.slow
def test_updates_checkpoint_and_successor(buffer: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    learner = start_learner(tiny_model_dir)
    assert wait_for(learner.progress.remote()) is None
    assert wait_for(learner.sft.remote()).num_steps == 2
    assert wait_for(learner.progress.remote()).step == 2
    num_threads = learner.__ray_call__.remote(lambda actor: torch.get_num_threads())
    assert wait_for(num_threads) == 3, "not the threads of the settings, or those of SFT"

    stored = rollouts(0, 5)
    fill(buffer, stored)
    assert wait_for(learner.publish.remote()).version == 1
    assert wait_for(learner.publish.remote()).version == 1, "the same weights are the same version"
    items = take(buffer, "r0", "r1", "r2", "r3")
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
    waiting = [*items[2:], *wait_for(buffer.items.remote())]
    path = wait_for(learner.save_checkpoint.remote(tmp_path, '{"state": 1}', waiting, 3))
    assert (path / "trainer_state" / "run_state.json").read_text() == '{"state": 1}'
    kept = load_rollouts(path / "trainer_state" / "rollouts.npz")
    assert [name for name, _ in kept] == ["r2", "r3", "r4"]

    # Another learner continues, with versions newer than any that the dead one may have published.
    ray.kill(learner)
    learner = start_learner(tiny_model_dir)
    assert wait_for(learner.resume.remote(path, 3)) == 1
    report = wait_for(learner.step.remote(items[2:]))
    assert report.metrics is not None
    assert (report.metrics.step, report.trained) == (2, ("r2", "r3"))
    assert wait_for(learner.publish.remote()).version == 4
    ray.kill(learner)


def test_stored_rollouts_are_bit_identical(tmp_path: Path) -> None:
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


def test_prefetcher_refuses_rollouts_that_were_not_announced(prefetcher: Prefetcher, buffer: Any) -> None:
    fill(buffer, rollouts(0, 4))
    items = take(buffer, "r0", "r1", "r2", "r3")
    prefetcher.announce(items[:2])
    with pytest.raises(ValueError, match=r"expected the announced rollouts \['r0', 'r1'\], got \['r2', 'r3'\]"):
        prefetcher.get(items[2:])
    fetched = prefetcher.get(items[2:])
    assert list(fetched.rollouts) == ["r2", "r3"]
    assert fetched.prepared is not None
    assert len(fetched.prepared.experiences) == 8


def test_a_buffer_that_died_says_so_and_serves_on(buffer: Any) -> None:
    epoch = fill(buffer, rollouts(0, 2))
    (item,) = take(buffer, "r0")
    os.kill(wait_for(buffer.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)
    now, items = wait_for(buffer.take.remote(["r1"], []))
    assert (now != epoch, items) == (True, [])
    wait_until_lost(item.ref)
    assert fill(buffer, rollouts(2, 2)) == now
    assert ids(take(buffer, "r2", "r3")) == ["r2", "r3"]


def test_rollouts_outlive_their_producer(prefetcher: Prefetcher, buffer: Any) -> None:
    actor_class: Any = Producer
    producer = actor_class.remote()
    wait_for(producer.produce.remote(buffer, rollouts(0, 4), DEADLINE_S))
    ray.kill(producer)
    fetched = prefetcher.get(take(buffer, "r0", "r1"))
    assert fetched.prepared is not None
    assert len(fetched.prepared.experiences) == 8


def test_lost_rollouts_are_reported(prefetcher: Prefetcher) -> None:
    producer_class: Any = Producer
    producers = [producer_class.remote() for _ in range(2)]
    items = []
    for index, (name, group) in enumerate(rollouts(0, 2)):
        (ref,) = wait_for(producers[index].put.remote(group))
        items.append(BufferItem(ref, RolloutMeta.of(name, group)))
    ray.kill(producers[0])
    wait_until_lost(items[0].ref)
    fetched = prefetcher.get(items)
    assert (list(fetched.rollouts), fetched.lost) == (["r1"], ("r0",))
    fetched = prefetcher.get(items[:1])
    assert (fetched.rollouts, fetched.lost, fetched.prepared) == ({}, ("r0",), None)
    ray.kill(producers[1])

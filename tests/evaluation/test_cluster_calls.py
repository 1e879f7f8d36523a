"""What an evaluation asks of a cluster, and what it says if the cluster cannot be relied on. Starts no Ray."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

import rltf.controller.head
from rltf.actors.engine import FinishedRequest, SamplingRequest
from rltf.actors.messages import RolloutRequest
from rltf.cluster_evaluation import ClusterEngines, Loop, default_sandboxes, fail_without_head, most_generators
from rltf.controller.generators import GeneratorPool
from rltf.errors import UserError
from rltf.settings import GeneratorSettings

GPU_NODE, CPU_NODE = {"CPU": 8.0, "GPU": 4.0}, {"CPU": 16.0}
HEAD = {"node_kinds": 1.0}


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop(heartbeat_timeout_s=60.0) as found:
        yield found


@pytest.mark.parametrize(
    ("nodes", "asked", "num_generators", "num_sandboxes"),
    [
        ([GPU_NODE, GPU_NODE, CPU_NODE], {}, 8, 24),
        ([GPU_NODE], {"num_gpus": 0.4}, 8, 1),
        ([GPU_NODE], {"num_gpus": 0.3, "num_cpus": 0.0}, 12, 8),
        ([GPU_NODE], {"num_cpus": 3.0}, 2, 2),
        ([CPU_NODE, CPU_NODE], {"num_gpus": 0.0, "num_cpus": 12.0}, 2, 8),
        ([CPU_NODE], {}, 0, 16),
        ([HEAD, GPU_NODE | {"generator": 1.0}, CPU_NODE | {"sandbox": 1.0}, GPU_NODE | {"learner": 1.0}], {}, 4, 16),
    ],
)
def test_a_cluster_is_used_as_a_whole(
    nodes: list[dict[str, float]], asked: dict[str, float], num_generators: int, num_sandboxes: int
) -> None:
    settings = GeneratorSettings.model_validate(asked)
    found = [{"Resources": node} for node in nodes]
    assert most_generators(found, settings) == num_generators
    if num_generators:
        settings = settings.model_copy(update={"num_generators": num_generators})
    assert default_sandboxes(found, settings if num_generators else None) == num_sandboxes


class Dying:
    """The handle of a generator that dies of every request."""

    def __getattr__(self, method: str) -> SimpleNamespace:
        return SimpleNamespace(remote=getattr(self, f"_{method}"))

    async def _ping(self) -> None: ...

    async def _close(self) -> None: ...

    async def _take(self, timeout_s: float) -> list[FinishedRequest]:
        await asyncio.sleep(timeout_s)
        return []

    async def _submit(self, _: object) -> None:
        raise ActorDiedError()


def test_generators_that_die_again_and_again_end_the_evaluation_with_one_message(loop: Loop) -> None:
    pool = GeneratorPool[FinishedRequest](
        lambda index, life: Dying(), 2, max_samples=5, start_timeout_s=60, end=lambda handle: None
    )
    loop.call(pool.start())
    engines = ClusterEngines(loop, pool)
    engines.add_request(SamplingRequest(RolloutRequest("a", "a", 2, False, 1.0, 1.0, 8, seed=1), [1, 2]))
    with pytest.raises(
        UserError, match=r"generator \d died 4 times .*; what is graded is stored, and the same command"
    ):
        wait_for(engines.step)
    engines.close()


def test_what_waits_for_a_lost_head_fails_and_so_does_all_that_comes_later(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rltf.controller.head, "HEAD_EVERY_S", 0.01)
    monkeypatch.setattr(rltf.controller.head, "MAX_SILENCE_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    released = threading.Event()
    loop.start(hold_up(released))
    with Loop(heartbeat_timeout_s=60.0) as watcher:
        watcher.start(fail_without_head(loop, address, lambda: False, 60.0))
        for _ in range(2):
            with pytest.raises(UserError, match=rf"the head of the cluster \({address}\) does not answer"):
                loop.call(asyncio.sleep(60))
    loop.finish(never())
    released.set()


async def hold_up(released: threading.Event) -> None:
    """As Ray does if an actor is to start without a head."""
    released.wait()


async def never() -> None:
    raise AssertionError("actors that cannot be reached are asked to end")


def test_a_bug_keeps_its_traceback(loop: Loop) -> None:
    with pytest.raises(AssertionError):
        loop.call(never())


def wait_for(step: Callable[[], list[Any]]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        step()

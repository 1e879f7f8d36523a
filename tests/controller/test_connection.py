"""A cluster head that is missing or lost: the job soon ends with a message instead of waiting."""

from __future__ import annotations

import asyncio
import socket
import textwrap
from collections.abc import Callable, Coroutine
from itertools import chain, repeat
from typing import Any

import psutil
import pytest
from ray.exceptions import GetTimeoutError

from rltf.controller import head as head_module
from rltf.controller.head import Head, HeadLostError, while_head_lives
from rltf.controller.ray_session import ray_running
from rltf.errors import UserError
from rltf.settings import ClusterSettings
from tests.jobs import python


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "HEAD_EVERY_S", 0.02)
    monkeypatch.setattr(head_module, "MAX_SILENCE_S", 0.1)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
        return port


def join(address: str) -> None:
    with ray_running(ClusterSettings(address=address)):
        pytest.fail("there is no cluster to join")


def watched(
    work: Coroutine[Any, Any, None], head: socket.socket, said: list[str], answers: Callable[[], bool] = lambda: True
) -> Coroutine[Any, Any, None]:
    """`work` while a head is watched, which counts as frozen after 0.3 s. `said` gets the messages."""
    return while_head_lives(work, f"127.0.0.1:{head.getsockname()[1]}", answers, 0.3, said.append)


def run(work: Coroutine[Any, Any, None], head: socket.socket) -> list[str]:
    """The messages while `work` runs and a head is watched."""
    said: list[str] = []
    asyncio.run(watched(work, head, said))
    return said


def test_a_missing_head_is_reported_before_ray_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=rf"head at .*{address.rpartition(':')[2]} does not answer.*ray up"):
        join(address)
    monkeypatch.setenv("RAY_ADDRESS", address)  # `auto` reads it, and Ray Jobs sets it
    with pytest.raises(UserError, match=r"cluster\.address auto: the head at"):
        join("auto")


@pytest.mark.ray
def test_a_slow_dashboard_does_not_end_the_job() -> None:
    program = """
        import ray
        from rltf.controller.ray_session import ray_running
        from ray._private import ray_constants
        from rltf.settings import ClusterSettings

        ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S = 0
        with ray_running(ClusterSettings(object_store_bytes=2**27)) as dashboard:
            assert dashboard == ""
            assert ray.get(ray.remote(lambda: 7).remote()) == 7
    """
    done = python("-c", textwrap.dedent(program))
    assert done.returncode == 0, done.stderr


def test_work_goes_on_while_the_head_answers() -> None:
    async def work() -> None:
        await asyncio.sleep(0.3)

    with socket.create_server(("127.0.0.1", 0), backlog=128) as head:
        assert run(work(), head) == []


def test_a_lost_head_is_reported_and_the_work_is_saved() -> None:
    saved: list[str] = []

    async def work() -> None:
        head.close()
        try:
            await asyncio.sleep(60)
        finally:
            saved.append("checkpoint")

    head = socket.create_server(("127.0.0.1", 0), backlog=128)
    said: list[str] = []
    with pytest.raises(HeadLostError, match=r"stopped answering.*--resume"):
        asyncio.run(watched(work(), head, said))
    assert len(said) == 1
    assert saved == ["checkpoint"]


def test_a_frozen_head_is_reported_and_the_work_is_saved() -> None:
    saved: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            saved.append("checkpoint")

    said: list[str] = []
    with (
        socket.create_server(("127.0.0.1", 0), backlog=128) as head,
        pytest.raises(HeadLostError, match=r"is frozen: it accepts .* for 0\.3 s, since \d\d:\d\d:\d\d; .*--resume"),
    ):
        asyncio.run(watched(work(), head, said, answers=lambda: False))
    assert len(said) == 1
    assert saved == ["checkpoint"]


def test_work_goes_on_when_a_frozen_head_thaws() -> None:
    replies = chain([False] * 3, repeat(True))

    async def work() -> None:
        await asyncio.sleep(0.5)

    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0), backlog=128) as head:
        asyncio.run(watched(work(), head, said, answers=lambda: next(replies)))
    assert said == []


def test_work_that_fails_because_of_the_head_says_so() -> None:
    async def work() -> None:
        raise ExceptionGroup("stages", [GetTimeoutError("There was timeout in getting the actor handle")])

    with (
        socket.create_server(("127.0.0.1", 0)) as head,
        pytest.raises(HeadLostError, match="does not answer"),
    ):
        asyncio.run(watched(work(), head, [], answers=lambda: False))


@pytest.mark.usefixtures("ray_session")
def test_a_head_answers_until_it_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "CONNECT_S", 1.0)
    (server,) = (each for each in psutil.Process().children(recursive=True) if each.name() == "gcs_server")
    head = Head()
    assert head.answers()
    assert [is_alive for _, is_alive in head.nodes().values()] == [True]
    server.suspend()
    try:
        assert not head.answers()
    finally:
        server.resume()
    assert head.answers()


def test_errors_in_the_work_pass_through() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with socket.create_server(("127.0.0.1", 0)) as head, pytest.raises(ZeroDivisionError):
        run(work(), head)


def test_an_interrupt_waits_until_the_work_has_cleaned_up() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            ended.append("checkpoint")

    async def interrupted(head: socket.socket) -> None:
        task = asyncio.create_task(watched(work(), head, []))
        await asyncio.sleep(0.05)
        task.cancel()
        await task

    with socket.create_server(("127.0.0.1", 0), backlog=128) as head, pytest.raises(asyncio.CancelledError):
        asyncio.run(interrupted(head))
    assert ended == ["checkpoint"]

"""Real servers in a thread of the test, and requests to them."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

import uvicorn

from rltf.grader.asynchronous import AsyncGrader
from rltf.problems.types import Problem
from rltf.sandbox.jobs import End, Job, RunLimits, RunResult
from rltf.sandbox.verdict import Isolation, Outcome, Verdict
from rltf.serving.app import Bounds, Service
from rltf.serving.backend import Backend
from rltf.serving.command import listen
from rltf.settings import SandboxSettings

LIMITS = SandboxSettings(cpu_s=1.0, wall_s=2.0, program_wall_s=20.0)
SUM = {
    "task_id": "sum",
    "statement": "Add.",
    "tests": [{"stdin": "1 2", "expected": "3"}, {"stdin": "5 6", "expected": "11"}],
}
RIGHT = "print(sum(map(int, input().split())))"
DEADLINE_S = 60.0


@dataclass
class Answered:
    """An answer of a server."""

    status: int
    headers: Message
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass
class Client:
    """Sends requests to a server, each over a connection of its own."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answered:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            response = connection.getresponse()
            return Answered(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answered:
        return self.send("GET", path)

    def post(self, path: str, query: Any) -> Answered:
        return self.send("POST", path, json.dumps(query).encode(), {"Content-Type": "application/json"})


class HeldBackend:
    """Grades nothing by itself: each call waits until the test lets it go."""

    num_workers = 1
    isolation = Isolation.NAMESPACES
    settings = LIMITS

    def __init__(self) -> None:
        self.num_begun = self.num_cancelled = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._may_end = asyncio.Event()
        self.changed = threading.Condition()

    def usable(self, given: Problem) -> Problem:
        return given

    async def grade(self, problem: Problem, program: str, completion_id: str = "0") -> Verdict:
        await self._hold()
        passed = (Outcome.PASSED,) * len(problem.tests)
        return Verdict(problem.task_id, completion_id, Outcome.PASSED, passed, None, self.isolation, 0.0, 0.0, 0)

    async def run(self, program: str, job: Job, limits: RunLimits | None = None) -> RunResult:
        await self._hold()
        return RunResult(End.OK)

    async def _hold(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._note(begun=1)
        try:
            await self._may_end.wait()
        except asyncio.CancelledError:
            self._note(cancelled=1)
            raise

    def _note(self, begun: int = 0, cancelled: int = 0) -> None:
        with self.changed:
            self.num_begun += begun
            self.num_cancelled += cancelled
            self.changed.notify_all()

    def let_go(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._may_end.set)

    def wait_for(self, *, begun: int = 0, cancelled: int = 0) -> None:
        with self.changed:
            assert self.changed.wait_for(
                lambda: self.num_begun >= begun and self.num_cancelled >= cancelled, DEADLINE_S
            ), (self.num_begun, self.num_cancelled)


def request_bytes(path: str, query: Any) -> bytes:
    """A whole request, for a connection that the test itself holds."""
    body = json.dumps(query).encode()
    head = ("Host: test", "Content-Type: application/json", "Connection: close", f"Content-Length: {len(body)}")
    return "\r\n".join([f"POST {path} HTTP/1.1", *head, "", ""]).encode() + body


@contextlib.contextmanager
def running(
    backend: Backend | None = None,
    problems: Sequence[Problem] = (),
    bounds: Bounds | None = None,
    token: str | None = None,
    workers: int = 1,
) -> Iterator[Client]:
    """A server in a thread, with `workers` real sandboxes unless a backend is given."""
    listener = listen("127.0.0.1", 0)
    servers: list[uvicorn.Server] = []
    is_up = threading.Event()

    async def serve() -> None:
        async with contextlib.AsyncExitStack() as stack:
            behind = backend
            if behind is None:
                behind = await stack.enter_async_context(AsyncGrader(workers, settings=LIMITS))
            service = Service(behind, problems, bounds or Bounds(), token)
            servers.append(
                uvicorn.Server(uvicorn.Config(service.app, log_level="warning", timeout_graceful_shutdown=5))
            )
            is_up.set()
            await servers[0].serve([listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="server")
    thread.start()
    try:
        assert is_up.wait(DEADLINE_S)
        yield Client(listener.getsockname()[1])
    finally:
        servers[0].should_exit = True
        thread.join(DEADLINE_S)
        assert not thread.is_alive()

"""A cluster in virtual time: processes whose calls take random times, and that die or freeze at planned calls.

A plan says at which calls a process is killed, and whether that is before the call is carried out or before its answer
arrives. Another plan says at which calls a process freezes: it answers nothing until it is killed.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from ray.exceptions import ActorDiedError, ObjectLostError

from rltf.supervise import Watched

T = TypeVar("T")
RESTART_S = 2.0
LONGEST_CALL_S = 2.0


class _InstantSelector(selectors.SelectSelector):
    """Never sleeps, but moves the loop's clock forward instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("nothing is scheduled: the program would hang")
        self.now += timeout
        return super().select(0)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._selector_ = _InstantSelector()
        super().__init__(self._selector_)

    def time(self) -> float:
        return self._selector_.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]  # generic there
        """At once: time would not wait for another thread."""
        done = self.create_future()
        done.set_result(func(*args))
        return done


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, without waiting for any sleep."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(main)


@dataclass(slots=True, eq=False)
class Process:
    """One life of an actor. The `calls` in progress fail when it dies."""

    name: str
    is_alive: bool = True
    is_frozen: bool = False
    calls: set[asyncio.Future[Any]] = field(default_factory=set)

    def die(self) -> None:
        self.is_alive = False
        for call in list(self.calls):
            if not call.done():
                call.set_exception(ActorDiedError())


@dataclass(frozen=True, slots=True, eq=False)
class Ref:
    """An object in the store. It is lost when the process that owns it dies."""

    value: Any
    owner: Process

    def get(self) -> Any:
        if not self.owner.is_alive:
            raise ObjectLostError("00", None, "")
        return self.value


class Cluster:
    """All processes, by name.

    `kills` maps the number of a call to who dies, and whether that is before the call; `freezes` to who freezes.
    """

    def __init__(
        self, seed: int, kills: dict[int, tuple[str, bool]], freezes: Mapping[int, str] = MappingProxyType({})
    ) -> None:
        self.random = random.Random(seed)
        self.kills = kills
        self.freezes = freezes
        self.num_calls = 0
        self.num_killed = 0
        self.processes: dict[str, Process] = {}
        self.started: list[Process] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.failures: list[BaseException | None] = []

    def start(self, name: str) -> Process:
        self.processes[name] = Process(name)
        self.started.append(self.processes[name])
        return self.processes[name]

    def kill(self, name: str) -> None:
        process = self.processes.get(name)
        if process is not None and process.is_alive:
            self.num_killed += 1
            process.die()

    def watched(self) -> list[Watched]:
        """Every process that lives; a frozen one does not answer."""
        return [
            Watched(f"{process.name} ({number})", partial(_answer, process), process.die)
            for number, process in enumerate(self.started)
            if process.is_alive
        ]

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in the background. If it fails, the simulation fails."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failures.append(task.exception())

    async def delay(self, longest_s: float = LONGEST_CALL_S) -> None:
        """A delay that is usually short and sometimes long."""
        await asyncio.sleep(longest_s * self.random.random() ** 4)

    def event(self) -> tuple[str | None, str | None]:
        """Who dies before the next call is carried out, and who dies after it."""
        self.num_calls += 1
        if (frozen := self.processes.get(self.freezes.get(self.num_calls, ""))) is not None:
            frozen.is_frozen = True
        who, before = self.kills.get(self.num_calls, (None, True))
        return (who, None) if before else (None, who)


async def _answer(process: Process) -> None:
    while process.is_frozen:
        await asyncio.sleep(1.0)


class Handle:
    """An actor handle: `handle.method.remote(...)`. Each call is carried out once, and fails if its process dies."""

    def __init__(self, cluster: Cluster, name: str, actor: Any) -> None:
        self.cluster, self.actor = cluster, actor
        self.process = cluster.start(name)

    def __getattr__(self, method: str) -> Any:
        return _Method(self, method)

    async def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        return await self.attempt(method, arguments)

    async def attempt(self, method: str, arguments: tuple[Any, ...]) -> Any:
        before, after = self.cluster.event()
        if before is not None:
            self.cluster.kill(before)
        process, actor = self.process, self.actor
        await self.cluster.delay()
        if not process.is_alive:
            raise ActorDiedError()
        death: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        process.calls.add(death)
        work = asyncio.ensure_future(_called(getattr(actor, method), arguments))
        try:
            await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
            if not death.done() and after is not None:
                self.cluster.kill(after)
            if process.is_frozen:
                await asyncio.wait([death])
            if death.done():
                raise ActorDiedError() from death.exception()
            value = work.result()
        finally:
            work.cancel()
            process.calls.discard(death)
            death.cancel()
        await self.cluster.delay()
        return value


async def _called(method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """What `method` returns. Stand-ins have coroutines, the real buffer has not."""
    result = method(*arguments)
    return await result if asyncio.iscoroutine(result) else result


class RestartingHandle(Handle):
    """An actor that restarts empty after a death and repeats failed calls. Any call may be carried out twice."""

    def __init__(self, cluster: Cluster, name: str, make: Callable[[Process], Any]) -> None:
        self.make = make
        super().__init__(cluster, name, None)
        self.actor = make(self.process)

    async def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        while True:
            try:
                value = await self.attempt(method, arguments)
                if self.cluster.random.random() < 0.1:
                    value = await self.attempt(method, arguments)
                return value
            except ActorDiedError:
                await asyncio.sleep(RESTART_S)
                if not self.process.is_alive:
                    self.process = self.cluster.start(self.process.name)
                    self.actor = self.make(self.process)


@dataclass(frozen=True, slots=True)
class _Method:
    handle: Handle
    name: str

    def options(self, **_: Any) -> _Method:
        return self

    def remote(self, *arguments: Any) -> asyncio.Future[Any]:
        task = asyncio.ensure_future(self.handle.call(self.name, arguments))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting for it
        return task

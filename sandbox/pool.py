"""Sandbox workers as Ray actors, and the pool that keeps the right number of them busy.

    problems = ray.put({problem.task_id: problem for problem in train})
    pool = SandboxPool(SandboxWorker, settings.sandbox, problems, heartbeat_timeout_s=60)
    await pool.start()
    verdicts = await pool.submit("grade", [("1", source, "0")], num_items=1)
    await pool.close()

Invariants: every submitted call ends with its value or an error. If a worker dies, freezes or misses its deadline, its
calls are repeated on another worker, so a method may run twice, but it is answered once. The number of workers stays
between `min_workers` and `max_workers` and follows the backlog, as far as Ray has room. A worker leaves after it has
had nothing to do for `idle_s`, never with a call under way. A worker that Ray has no room for waits. Ray counts waiting
actors as demand, which tells its autoscaler how many nodes to add.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from rltf.errors import UserError
from rltf.sandbox.worker import HEALTH, SandboxWorker
from rltf.settings import SandboxSettings
from rltf.supervise import Deaths, GaveUpError, Watched, end_frozen, first_line, in_words

logger = logging.getLogger(__name__)

# One call runs and one waits at each worker: no worker idles while its last answer travels.
_CALLS_PER_WORKER = 2
_MAX_LOST_WORKERS = 3
_TICK_S = 1.0
_CLOSE_S = 10.0
_DEADLINE_BASE_S = 120.0


class PoolError(RuntimeError):
    """The pool cannot do what it was asked to do. The message says why, and what helps."""


class CallLostError(PoolError):
    """Several workers died while they ran this call. Other calls may still be answered."""


@dataclass(slots=True, eq=False)
class _Call:
    method: str
    arguments: tuple[Any, ...]
    num_items: int
    future: asyncio.Future[Any]
    num_lost_workers: int = 0


@dataclass(slots=True, eq=False)
class _Worker:
    """One actor. `placed` once its process runs, `ready` once its sandbox does, `leaving` once it gets no calls."""

    name: str
    actor: Any
    placed: bool = False
    ready: bool = False
    leaving: bool = False
    calls: set[_Call] = field(default_factory=set)
    idle_since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Current workers, and counts since the start. `backlog`, `num_done` and `num_repeated` count items (programs)."""

    num_workers: int
    num_ready: int
    backlog: int
    num_done: int
    num_repeated: int
    num_deaths: int


class SandboxPool:
    """Calls methods of `worker(problems, settings, *arguments)` actors. Use it from a single asyncio loop."""

    def __init__(
        self,
        worker: type[SandboxWorker],
        settings: SandboxSettings,
        problems: Any,
        *arguments: Any,
        heartbeat_timeout_s: float,
        name: str | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        """`problems` is a reference to a dict from task id to `Problem`. Workers are named `name-0`, `name-1`, ... and
        each requests the custom `resources` from Ray besides its CPUs. One that does not answer for
        `heartbeat_timeout_s`, even while it starts, is killed and replaced.
        """
        self._name = name
        self._num_started = 0
        self._resources = dict(resources or {})
        self._settings = settings
        self._arguments = (problems, settings, *arguments)
        self._heartbeat_timeout_s = heartbeat_timeout_s
        # SPREAD: graders compete for CPU, so put them on different machines if possible.
        self._actor_class = ray.remote(  # type: ignore[call-overload]  # ray leaves concurrency_groups out of it
            num_cpus=settings.num_cpus,
            resources=self._resources,
            scheduling_strategy="SPREAD",
            concurrency_groups={HEALTH: 1},
        )(worker)
        # All workers that are not leaving; and the ready ones with room, by their number of calls, longest idle first.
        # The work per call must not grow with the number of workers.
        self._workers: dict[_Worker, None] = {}
        self._free: tuple[dict[_Worker, None], ...] = tuple({} for _ in range(_CALLS_PER_WORKER))
        self._starting: dict[_Worker, None] = {}
        self._waiting: deque[_Call] = deque()
        self._room = asyncio.Semaphore(settings.max_workers * _CALLS_PER_WORKER * 2)
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self._deaths = Deaths("sandbox workers")
        self._failure: Exception | None = None
        self._backlog = 0
        self._num_done = self._num_repeated = self._num_deaths = 0

    async def start(self) -> None:
        """Start the minimum number of workers. Raises PoolError, GaveUpError or UserError if they fail."""
        self._spawn(self._maintain())
        self._spawn(end_frozen(self._watched, self._heartbeat_timeout_s))
        deadline = time.monotonic() + self._settings.start_timeout_s
        while sum(worker.ready for worker in self._workers) < self._settings.min_workers:
            if self._failure is not None:
                raise self._failure
            if time.monotonic() > deadline:
                kind = "".join(f" on a node that offers `{name}`," for name in self._resources)
                num_cpus: float = ray.cluster_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
                raise PoolError(
                    f"fewer than {self._settings.min_workers} sandbox workers started within "
                    f"{self._settings.start_timeout_s:g} s; each asks for {self._settings.num_cpus:g} CPUs{kind} "
                    f"of the {num_cpus:g} in the cluster: lower sandbox.min_workers or sandbox.num_cpus"
                )
            await asyncio.sleep(0.02)

    async def submit(self, method: str, *arguments: Any, num_items: int = 1) -> Any:
        """The value of `worker.method(*arguments)` from some worker. Waits while too many calls are under way.

        `num_items` is the number of programs that the call grades. The backlog counts them, and the deadline grows with
        them. Raises what the method raises, `PoolError` if the call keeps killing workers, and `GaveUpError` if none of
        them starts.
        """
        call = _Call(method, arguments, num_items, asyncio.get_running_loop().create_future())
        self._backlog += num_items
        self._changed.set()
        try:
            async with self._room:
                if self._failure is not None:
                    raise self._failure
                self._waiting.append(call)
                self._changed.set()
                return await call.future
        finally:
            self._backlog -= num_items

    def stats(self) -> PoolStats:
        """How many workers there are, and what they have done."""
        return PoolStats(
            num_workers=len(self._workers),
            num_ready=sum(worker.ready for worker in self._workers),
            backlog=self._backlog,
            num_done=self._num_done,
            num_repeated=self._num_repeated,
            num_deaths=self._num_deaths,
        )

    async def close(self) -> None:
        """End all workers, and cancel the calls that are not answered yet."""
        self._is_closing = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for call in [*self._waiting, *(call for worker in self._workers for call in worker.calls)]:
            call.future.cancel()
        await asyncio.gather(*(self._end(worker) for worker in list(self._workers)))

    def _watched(self) -> list[Watched]:
        return [
            Watched(f"sandbox worker {worker.name}", worker.actor.ping.remote, partial(ray.kill, worker.actor))
            for worker in self._workers
            if worker.placed
        ]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _maintain(self) -> None:
        """Adjust the pool's size and assign calls, whenever something has changed and every second."""
        # The flag is checked because in Python 3.11 `wait_for` can lose a cancellation that coincides with the event.
        while not self._is_closing:
            self._resize()
            self._hand_out()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _TICK_S)

    def _resize(self) -> None:
        settings = self._settings
        wanted = math.ceil(self._backlog / settings.backlog_per_worker)
        wanted = min(max(wanted, settings.min_workers), settings.max_workers)
        if self._failure is None:
            for _ in range(wanted - len(self._workers)):
                worker = self._new_worker()
                self._workers[worker] = self._starting[worker] = None
                self._spawn(self._await_ready(worker))
        idle_long = time.monotonic() - settings.idle_s
        # First those that have not started: the nodes that they ask the autoscaler for are no longer needed.
        for idle in (self._starting, self._free[0]):
            while len(self._workers) > wanted and idle:
                worker = next(iter(idle))
                if worker.idle_since > idle_long:
                    break
                self._leave(worker)

    def _new_worker(self) -> _Worker:
        # Never reuse a name: a dead actor's name stays taken for some time.
        name = f"{self._name or 'worker'}-{self._num_started}"
        self._num_started += 1
        options = {} if self._name is None else {"name": name}
        return _Worker(name, self._actor_class.options(**options).remote(*self._arguments))

    def _hand_out(self) -> None:
        """Give waiting calls to the workers with the fewest calls; of these, to the last one busy, so others leave."""
        while self._waiting:
            call = self._waiting[0]
            # A call that lost a worker runs alone, so that it is not blamed twice for what another call did.
            free = self._free[0] if call.num_lost_workers else next(filter(None, self._free), None)
            if not free:
                return
            self._waiting.popleft()
            if call.future.done():  # its caller has stopped waiting
                continue
            worker = next(reversed(free))
            worker.calls.add(call)
            self._place(worker)
            self._spawn(self._make(call, worker))

    def _place(self, worker: _Worker) -> None:
        """Update how much room a worker has, after any change of its state."""
        for free in self._free:
            free.pop(worker, None)
        is_alone = any(call.num_lost_workers for call in worker.calls)
        if worker.ready and not worker.leaving and not is_alone and len(worker.calls) < _CALLS_PER_WORKER:
            self._free[len(worker.calls)][worker] = None

    def _leave(self, worker: _Worker) -> None:
        """End a worker, and give it no more calls."""
        worker.leaving = True
        self._place(worker)
        self._workers.pop(worker, None)
        self._starting.pop(worker, None)
        self._spawn(self._end(worker))

    async def _await_ready(self, worker: _Worker) -> None:
        try:
            await self._await_room(worker)
            worker.placed = True
            await worker.actor.start.remote()
        except RayError as error:
            if worker.leaving:  # no longer needed
                return
            self._leave(worker)
            logger.warning("sandbox worker %s did not start, starting another: %s", worker.name, first_line(error))
            self._note_failed_start(error)
        else:
            self._deaths.progressed()
            self._starting.pop(worker, None)
            worker.ready, worker.idle_since = True, time.monotonic()
            self._place(worker)
        self._changed.set()

    async def _await_room(self, worker: _Worker) -> None:
        """Wait until the worker's process runs, however long: if Ray has no room for it, its autoscaler adds nodes."""
        began = time.monotonic()
        ping = asyncio.ensure_future(_value(worker.actor.ping.remote()))
        try:
            while not (await asyncio.wait([ping], timeout=self._settings.start_timeout_s))[0]:
                waited_s = time.monotonic() - began
                logger.warning(
                    "still waiting for sandbox worker %s after %.0f s: is there room?", worker.name, waited_s
                )
            ping.result()
        finally:
            ping.cancel()

    def _note_failed_start(self, error: RayError) -> None:
        """Give up if no worker is left and another one would not start either. As long as one works, keep trying."""
        if any(worker.ready for worker in self._workers):
            return
        if isinstance(error, UserError):
            self._fail(error)
        try:
            self._deaths.note(error)
        except GaveUpError as failure:
            self._fail(failure)

    async def _make(self, call: _Call, worker: _Worker) -> None:
        """Make one call, and answer it or queue it again."""
        # Calls queue up at the worker, so the deadline covers the ones ahead of this one too.
        num_items = sum(other.num_items for other in worker.calls)
        deadline_s = _DEADLINE_BASE_S + 3 * self._settings.program_wall_s * num_items
        try:
            reference = getattr(worker.actor, call.method).remote(*call.arguments)
            value = await asyncio.wait_for(_value(reference), deadline_s)
        except RayTaskError as error:  # first: it is also an instance of the type that the method raised
            self._settle(worker, call)
            if not call.future.done():
                call.future.set_exception(error)
        except (RayError, TimeoutError) as error:  # the worker died, or its value was lost with a node
            self._lose(worker, call, error)
        else:
            self._settle(worker, call)
            self._num_done += call.num_items
            if not call.future.done():
                call.future.set_result(value)

    def _settle(self, worker: _Worker, call: _Call) -> None:
        worker.calls.discard(call)
        worker.idle_since = time.monotonic()
        self._place(worker)
        self._changed.set()

    def _lose(self, worker: _Worker, call: _Call, error: Exception) -> None:
        """A worker is gone, or has been silent for too long: end it, and repeat its calls elsewhere."""
        if not worker.leaving:
            self._num_deaths += 1
            logger.warning(
                "sandbox worker %s is gone (%s): repeating its %d calls and starting a new one",
                worker.name,
                first_line(error),
                len(worker.calls),
            )
            self._leave(worker)
        worker.calls.discard(call)
        call.num_lost_workers += 1
        if call.num_lost_workers >= _MAX_LOST_WORKERS:
            if not call.future.done():
                lost = CallLostError(
                    f"{call.num_lost_workers} sandbox workers died while they ran {call.method}; the last time: "
                    f"{in_words(error)}"
                )
                call.future.set_exception(lost)
        elif not call.future.done():
            self._num_repeated += call.num_items
            self._waiting.appendleft(call)
        self._changed.set()

    async def _end(self, worker: _Worker) -> None:
        if worker.ready:
            with contextlib.suppress(RayError, TimeoutError):
                await asyncio.wait_for(_value(worker.actor.close.remote()), _CLOSE_S)
        ray.kill(worker.actor)

    def _fail(self, failure: Exception) -> None:
        """No worker will start anymore: give every call, waiting or to come, the reason."""
        self._failure = failure
        for call in self._waiting:
            if not call.future.done():
                call.future.set_exception(failure)
        self._waiting.clear()


async def _value(reference: Any) -> Any:
    return await reference

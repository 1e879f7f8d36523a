"""Sandbox workers as Ray actors, and the pool that keeps the right number of them busy.

    problems = ray.put({problem.task_id: problem for problem in train})
    pool = SandboxPool(SandboxWorker, settings.sandbox, problems)
    await pool.start()
    verdicts = await pool.submit("grade", [("1", source, "0")], num_items=1)
    await pool.close()

Invariants: every submitted call ends, with its value or an error; a call whose worker died or missed its deadline is
made again on another worker, so a method may run twice but is answered once; workers stand between `min_workers` and
`max_workers`, as many as the backlog asks for and Ray has room for; one leaves when it has had nothing to do for
`idle_s`, never with a call under way. A worker that Ray has no room for yet waits, and as Ray counts waiting actors as
demand, it is by these that the autoscaler knows how many nodes to add.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from errors import UserError
from problems.types import Problem
from sandbox.limits import Limits
from sandbox.sandbox import Sandbox
from sandbox.verdict import Isolation, Verdict
from settings import SandboxSettings

logger = logging.getLogger(__name__)

# One call runs and one waits at each worker: no worker idles while its last answer travels.
_CALLS_PER_WORKER = 2
_MAX_ATTEMPTS = 3
_MAX_FAILED_STARTS = 5
_TICK_S = 1.0
_CLOSE_S = 10.0
_DEADLINE_BASE_S = 120.0


class PoolError(RuntimeError):
    """The pool cannot do what it was asked to; the message says why, and what would help."""


class CallLostError(PoolError):
    """One call took several workers with it; others may be answered all the same."""


class SandboxWorker:
    """A sandbox with the problems it grades, made an actor by the pool. Subclasses add methods for the pool to call."""

    sandbox: Sandbox

    def __init__(self, problems: Mapping[str, Problem], settings: SandboxSettings) -> None:
        self.problems = problems
        self._settings = settings

    def __repr__(self) -> str:
        """What Ray puts before each line of this actor's log, and before its methods in the dashboard."""
        return ray.get_runtime_context().get_actor_name() or type(self).__name__

    def start(self) -> None:
        """Start the sandbox; the first call of every worker.

        Raises `UserError` where the machine gives less than the settings require. (Raised by the constructor, it
        would reach the pool as text.)
        """
        self.sandbox = Sandbox(Limits.of(self._settings), Isolation(self._settings.min_isolation))

    @property
    def isolation(self) -> Isolation:
        """The level under which this worker runs programs."""
        return self.sandbox.isolation

    def grade(self, work: Sequence[tuple[str, str, str]]) -> list[Verdict]:
        """The verdicts of (task id, program, completion id) rows, in order."""
        return [self.sandbox.grade(self.problems[task_id], program, name) for task_id, program, name in work]

    def close(self) -> None:
        """End the sandbox with all that belongs to it."""
        self.sandbox.close()


@dataclass(slots=True, eq=False)
class _Call:
    method: str
    arguments: tuple[Any, ...]
    num_items: int
    future: asyncio.Future[Any]
    attempts: int = 0


@dataclass(slots=True, eq=False)
class _Worker:
    """One actor. `ready` once it answered; `leaving` when it gets no more calls."""

    name: str
    actor: Any
    ready: bool = False
    leaving: bool = False
    calls: set[_Call] = field(default_factory=set)
    idle_since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Workers now and counts since the start; `backlog`, `num_done` and `num_repeated` count items (programs)."""

    num_workers: int
    num_ready: int
    backlog: int
    num_done: int
    num_repeated: int
    num_deaths: int


class SandboxPool:
    """Calls methods of `worker(problems, settings, *arguments)` actors. To be used from one asyncio loop."""

    def __init__(
        self,
        worker: type[SandboxWorker],
        settings: SandboxSettings,
        problems: Any,
        *arguments: Any,
        name: str | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        """`problems` is a reference to a dict from task id to `Problem`; workers are called `name-0`, `name-1`, ... and
        each asks Ray for the custom `resources` besides its CPUs.
        """
        self._name = name
        self._num_started = 0
        self._resources = dict(resources or {})
        self._settings = settings
        self._arguments = (problems, settings, *arguments)
        # SPREAD: graders compete for CPU, so they belong on different machines where there are any.
        self._actor_class = ray.remote(
            num_cpus=settings.num_cpus, resources=self._resources, scheduling_strategy="SPREAD"
        )(worker)
        # Workers that get calls, and the ready ones with room by the number of their calls, longest idle first: what is
        # asked at every call must not cost more with a thousand workers than with one.
        self._workers: dict[_Worker, None] = {}
        self._free: tuple[dict[_Worker, None], ...] = tuple({} for _ in range(_CALLS_PER_WORKER))
        self._starting: dict[_Worker, None] = {}
        self._waiting: deque[_Call] = deque()
        self._room = asyncio.Semaphore(settings.max_workers * _CALLS_PER_WORKER * 2)
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self._failed_starts = 0
        self._failure: Exception | None = None
        self._backlog = 0
        self._num_done = self._num_repeated = self._num_deaths = 0

    async def start(self) -> None:
        """Bring up the minimum of workers. Raises `PoolError`, or `UserError`, where they do not come."""
        self._spawn(self._maintain())
        deadline = time.monotonic() + self._settings.start_timeout_s
        while sum(worker.ready for worker in self._workers) < self._settings.min_workers:
            if self._failure is not None:
                raise self._failure
            if time.monotonic() > deadline:
                kind = "".join(f" on a node that offers `{name}`," for name in self._resources)
                num_cpus: float = ray.cluster_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
                raise PoolError(
                    f"fewer than {self._settings.min_workers} sandbox workers came up within "
                    f"{self._settings.start_timeout_s:g} s; each asks for {self._settings.num_cpus:g} CPUs{kind} "
                    f"of the {num_cpus:g} in the cluster: lower sandbox.min_workers or sandbox.num_cpus"
                )
            await asyncio.sleep(0.02)

    async def submit(self, method: str, *arguments: Any, num_items: int = 1) -> Any:
        """The value of `worker.method(*arguments)` of some worker; waits for room while many calls are under way.

        `num_items` is how many programs the call grades: it measures the backlog, and the deadline grows with it.
        Raises what the method raises, and `PoolError` where workers keep dying of the call or cannot be started.
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
        """How many workers there are, and what they do."""
        return PoolStats(
            num_workers=len(self._workers),
            num_ready=sum(worker.ready for worker in self._workers),
            backlog=self._backlog,
            num_done=self._num_done,
            num_repeated=self._num_repeated,
            num_deaths=self._num_deaths,
        )

    async def close(self) -> None:
        """End all workers; calls that are not answered yet are cancelled."""
        self._is_closing = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for call in [*self._waiting, *(call for worker in self._workers for call in worker.calls)]:
            call.future.cancel()
        await asyncio.gather(*(self._end(worker) for worker in list(self._workers)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _maintain(self) -> None:
        """Keep the pool's size and hand out calls, whenever something changed and every second."""
        # Asked for by name: in Python 3.11 `wait_for` can lose a cancellation that meets the event.
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
        # First those that have not come: what they ask the autoscaler for is not needed any more.
        for idle in (self._starting, self._free[0]):
            while len(self._workers) > wanted and idle:
                worker = next(iter(idle))
                if worker.idle_since > idle_long:
                    break
                self._leave(worker)

    def _new_worker(self) -> _Worker:
        # No name comes twice: a dead actor's is free again only some time after its death.
        name = f"{self._name or 'worker'}-{self._num_started}"
        self._num_started += 1
        options = {} if self._name is None else {"name": name}
        return _Worker(name, self._actor_class.options(**options).remote(*self._arguments))

    def _hand_out(self) -> None:
        """Give waiting calls to the workers with the fewest, of these to the last one busy: the others may leave."""
        while self._waiting:
            free = next((free for free in self._free if free), None)
            if free is None:
                return
            call = self._waiting.popleft()
            if call.future.done():  # its caller waits no more
                continue
            worker = next(reversed(free))
            worker.calls.add(call)
            self._place(worker)
            self._spawn(self._make(call, worker))

    def _place(self, worker: _Worker) -> None:
        """Note how much room a worker has, after any change of its state."""
        for free in self._free:
            free.pop(worker, None)
        if worker.ready and not worker.leaving and len(worker.calls) < _CALLS_PER_WORKER:
            self._free[len(worker.calls)][worker] = None

    def _leave(self, worker: _Worker) -> None:
        """Give a worker no more calls, and end it."""
        worker.leaving = True
        self._place(worker)
        self._workers.pop(worker, None)
        self._starting.pop(worker, None)
        self._spawn(self._end(worker))

    async def _await_ready(self, worker: _Worker) -> None:
        began = time.monotonic()
        start = asyncio.ensure_future(_value(worker.actor.start.remote()))
        try:
            # Never given up: a worker that Ray has no room for is what asks its autoscaler for more machines.
            while not (await asyncio.wait([start], timeout=self._settings.start_timeout_s))[0]:
                waited_s = time.monotonic() - began
                logger.warning("sandbox worker %s is waited for since %.0f s: is there room?", worker.name, waited_s)
            start.result()
        except RayError as error:
            if worker.leaving:  # not needed any more
                return
            self._leave(worker)
            others_work = any(other.ready for other in self._workers)
            # A node that is lost takes all with it that were starting there; that says nothing against the next ones.
            is_node = isinstance(error, RayActorError) and not error.actor_init_failed
            if not is_node or not others_work:
                self._failed_starts += 1
            logger.warning("sandbox worker %s did not start, another one does: %s", worker.name, _first_line(error))
            if isinstance(error, UserError) and not others_work:
                self._fail(error)
            elif self._failed_starts >= _MAX_FAILED_STARTS:
                self._fail(PoolError(f"{self._failed_starts} sandbox workers in a row did not start: {error}"))
        else:
            self._failed_starts = 0
            self._starting.pop(worker, None)
            worker.ready, worker.idle_since = True, time.monotonic()
            self._place(worker)
        finally:
            start.cancel()
        self._changed.set()

    async def _make(self, call: _Call, worker: _Worker) -> None:
        """Make one call, and see that it is answered or made again."""
        call.attempts += 1
        # Calls queue at the worker: the deadline covers the ones before it.
        num_items = sum(other.num_items for other in worker.calls)
        deadline_s = _DEADLINE_BASE_S + 3 * self._settings.program_wall_s * num_items
        try:
            reference = getattr(worker.actor, call.method).remote(*call.arguments)
            value = await asyncio.wait_for(_value(reference), deadline_s)
        except RayTaskError as error:  # first: it is also of the type that the method raised
            self._settle(worker, call)
            if not call.future.done():
                call.future.set_exception(error)
        except (RayError, TimeoutError) as error:  # it died, or the value did with the node that it lay on
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
        """A worker is gone, or silent for too long: end it, and make its call again elsewhere."""
        worker.calls.discard(call)
        if not worker.leaving:
            self._num_deaths += 1
            logger.warning(
                "sandbox worker %s is gone (%s): the %d calls at it are made again, and a new one starts",
                worker.name,
                _first_line(error),
                1 + len(worker.calls),
            )
            self._leave(worker)
        if call.attempts >= _MAX_ATTEMPTS:
            if not call.future.done():
                call.future.set_exception(
                    CallLostError(f"{call.attempts} sandbox workers were lost while running {call.method}: {error}")
                )
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
        """Nothing will come up any more: every call, waiting or to come, gets to know why."""
        self._failure = failure
        for call in self._waiting:
            if not call.future.done():
                call.future.set_exception(failure)
        self._waiting.clear()


async def _value(reference: Any) -> Any:
    return await reference


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

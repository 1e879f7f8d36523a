"""Several sandboxes that work through the cases of a test module at once, while each test waits for its own case."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from rltf.sandbox.sandbox import Sandbox

# A case: `function(sandbox, *arguments)`, as (function, *arguments).
Case = tuple[Any, ...]

# Many cases sleep until a limit ends them, so it pays to have more sandboxes than cores.
_NUM_SANDBOXES = 2 * len(os.sched_getaffinity(0))


class Crew:
    """Runs cases in order, each in the first sandbox that is free."""

    def __init__(self, sandboxes: Sequence[Sandbox], cases: Sequence[Case]) -> None:
        self._results: dict[tuple[int, ...], Future[None]] = {_key(case): Future() for case in cases}
        self._cases: queue.SimpleQueue[Case] = queue.SimpleQueue()
        for case in cases:
            self._cases.put(case)
        # Daemons: a comparison that never ends must fail its test, but not keep the whole run from ending.
        self._threads = [threading.Thread(target=self._work, args=(sandbox,), daemon=True) for sandbox in sandboxes]
        for thread in self._threads:
            thread.start()

    def _work(self, sandbox: Sandbox) -> None:
        while True:
            try:
                case = self._cases.get_nowait()
            except queue.Empty:
                return
            function, *arguments = case
            try:
                self._results[_key(case)].set_result(function(sandbox, *arguments))
            except BaseException as error:  # noqa: BLE001 - the test that waits for the case raises it
                self._results[_key(case)].set_exception(error)

    def wait_for(self, *case: Any) -> None:
        """Wait until a case has run. Raises what it raised."""
        self._results[_key(case)].result()

    def join(self) -> None:
        """Wait until the sandboxes are idle."""
        for thread in self._threads:
            thread.join(60)


def _key(case: Case) -> tuple[int, ...]:
    return tuple(map(id, case))


@contextmanager
def crew_of(make: Callable[[], Sandbox], cases: Sequence[Case]) -> Iterator[Crew]:
    """A crew that lasts as long as the context, with as many sandboxes as are useful."""
    with ExitStack() as stack:
        sandboxes = [stack.enter_context(make()) for _ in range(min(_NUM_SANDBOXES, len(cases)))]
        crew = Crew(sandboxes, cases)
        stack.callback(crew.join)
        yield crew


def selected(request: pytest.FixtureRequest, *names: str, test: str | None = None, **fixed: Any) -> list[Case]:
    """The parameters `names` of every selected test of this module (or of its function `test`) that has them.

    Only tests whose other parameters include `fixed` count.
    """
    found = []
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.path == request.path and test in (None, item.originalname):
            given = item.callspec.params if hasattr(item, "callspec") else {}
            if given.keys() >= {*names, *fixed} and all(given[name] == value for name, value in fixed.items()):
                found.append(tuple(given[name] for name in names))
    return found

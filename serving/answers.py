"""Answers by request id, so that a client can repeat a request whose answer it has lost."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from rltf.serving.exchange import RefusedError

_OVERHEAD_BYTES = 512


class Answers:
    """The answers that are in the making, and the last ones that were given, `max_bytes` in all.

    An answer that failed is forgotten, so a repeated request starts anew. `on_repeat` is called for every request that
    has come before.
    """

    def __init__(self, max_bytes: int, on_repeat: Callable[[], None]) -> None:
        self._max_bytes = max_bytes
        self._on_repeat = on_repeat
        self._num_bytes = 0
        self._making: dict[str, tuple[bytes, asyncio.Task[bytes]]] = {}
        self._given: OrderedDict[str, tuple[bytes, bytes]] = OrderedDict()

    async def get(self, request_id: str, digest: bytes, make: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """The answer to a request. `make` makes it, unless the same request has come before.

        The answer is completed even if this call is cancelled. `digest` stands for the request's content. Raises what
        `make` raises, and `RefusedError` if the id belongs to a request with other content.
        """
        known = self._given.get(request_id) or self._making.get(request_id)
        if known is None:
            task = asyncio.create_task(make())
            self._making[request_id] = digest, task
            task.add_done_callback(lambda done: self._keep(request_id, digest, done))
            return await asyncio.shield(task)
        its_digest, answer = known
        if its_digest != digest:
            raise RefusedError(409, f"request_id {request_id!r} belongs to another request; use a new id for each")
        self._on_repeat()
        return answer if isinstance(answer, bytes) else await asyncio.shield(answer)

    async def close(self) -> None:
        """Cancel the answers that are in the making."""
        tasks = [task for _, task in self._making.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _keep(self, request_id: str, digest: bytes, task: asyncio.Task[bytes]) -> None:
        del self._making[request_id]
        if task.cancelled() or task.exception() is not None:
            return
        self._given[request_id] = digest, task.result()
        self._num_bytes += len(task.result()) + _OVERHEAD_BYTES
        while self._num_bytes > self._max_bytes:
            _, (_, oldest) = self._given.popitem(last=False)
            self._num_bytes -= len(oldest) + _OVERHEAD_BYTES

"""One exchange with a client: its request read within limits, its answer in JSON, its disappearance noticed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")

READ_S = 60.0
CLIENT_GONE = 499
"""The status that proxies log for a client that has gone. Nobody receives it."""
_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json\b", re.IGNORECASE)


class RefusedError(Exception):
    """A request that is not answered as it asks: the status, the reason in words, and headers."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response in JSON."""
    return Response(as_json(content), status, headers, "application/json")


def as_json(content: Any) -> bytes:
    """JSON in ASCII, which can hold whatever a program wrote, half of a surrogate pair included."""
    return json.dumps(content, separators=(",", ":")).encode()


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a request.

    Raises RefusedError if it is not JSON by its header, larger than `max_bytes`, or takes longer than `READ_S` seconds.
    """
    # A web page can send anything but JSON to a server on the reader's machine without asking the server first.
    if not _JSON.match(request.headers.get("content-type", "")):
        raise RefusedError(415, "expected the header `Content-Type: application/json`")
    too_large = RefusedError(413, f"the body is larger than {max_bytes} bytes; send fewer programs in a request")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    parts: list[bytes] = []
    num_bytes = 0
    try:
        async with asyncio.timeout(READ_S):
            async for part in request.stream():
                num_bytes += len(part)
                if num_bytes > max_bytes:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise RefusedError(408, f"the body was not complete after {READ_S:g} s") from None
    except ClientDisconnect:
        raise RefusedError(CLIENT_GONE, "the client has gone before its request was complete") from None
    return b"".join(parts)


def parse(model: type[M], body: bytes) -> M:
    """The request in a body. Raises `RefusedError` that names the first field that is wrong."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise RefusedError(422, f"{place}: {message}" if place else message) from None


async def unless_gone(request: Request, work: Awaitable[R], deadline_s: float) -> R:
    """The result of `work`, which is cancelled after `deadline_s` seconds, or as soon as the client has gone.

    Raises RefusedError if either happens.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({task, gone}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise RefusedError(CLIENT_GONE, "the client has gone before its answer was ready")
        raise past(deadline_s)
    finally:
        task.cancel()
        gone.cancel()


def past(deadline_s: float) -> RefusedError:
    """The refusal of a request that has taken `deadline_s` seconds."""
    return RefusedError(504, f"no answer within {deadline_s:g} s; send fewer programs, or allow more time")


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

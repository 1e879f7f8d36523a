"""The server's endpoints, and what holds for each of them: token, size, number of programs, deadline, metrics."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from rltf.problems.extraction import extract_program
from rltf.problems.types import Problem
from rltf.sandbox.jobs import StdinJob
from rltf.sandbox.verdict import Verdict
from rltf.serving import sandbox_fusion
from rltf.serving.answers import Answers
from rltf.serving.backend import Backend
from rltf.serving.exchange import RefusedError, answer, as_json, parse, past, read_body, unless_gone
from rltf.serving.grading import DEADLINE_S, GradeRequest, Task, tasks_of
from rltf.serving.known_problems import KnownProblems
from rltf.serving.metrics import Metrics

logger = logging.getLogger(__name__)

_KEPT_BYTES = 256 << 20
_LATER = {"Retry-After": "1"}


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a server takes on: programs under way, and bytes of a request."""

    max_pending: int = 4096
    max_body_bytes: int = 64 << 20


class Service:
    """One server. `app` is its ASGI application; without a `token`, any client may use it."""

    def __init__(
        self, backend: Backend, preloaded: Sequence[Problem], bounds: Bounds, token: str | None = None
    ) -> None:
        self._backend = backend
        self._problems = KnownProblems(preloaded, backend.usable)
        self._bounds = bounds
        self._token = token
        self._num_pending = 0
        self._metrics = Metrics(backend.num_workers, lambda: self._num_pending)
        self._answers = Answers(_KEPT_BYTES, self._metrics.repeated.inc)
        self.app = Starlette(
            routes=[
                self._route("POST", "/v1/grade", self._grade),
                self._route("POST", "/run_code", self._run_code),
                self._route("POST", "/submit", self._submit),
                self._route("GET", "/metrics", self._show_metrics),
                Route("/health", self._show_health),
                Route("/v1/ping", _ping),
            ],
            exception_handlers={HTTPException: _not_found},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        await self._answers.close()

    def _route(self, method: str, path: str, handle: Callable[[Request], Awaitable[Response]]) -> Route:
        async def endpoint(request: Request) -> Response:
            started = time.monotonic()
            try:
                self._check_token(request)
                response = await handle(request)
            except RefusedError as refusal:
                response = answer({"detail": str(refusal)}, refusal.status, refusal.headers)
            except asyncio.CancelledError:  # the server ends, and the time of its last requests is over
                response = answer({"detail": "the server is ending; try again later"}, 503, _LATER)
            except Exception:  # a request's border: a fault of ours is a 500, never a verdict
                logger.exception("%s failed", path)
                response = answer({"detail": "the server failed; its log says why"}, 500)
            self._metrics.count_request(path, response.status_code, time.monotonic() - started)
            return response

        return Route(path, endpoint, methods=[method])

    def _check_token(self, request: Request) -> None:
        if self._token is None:
            return
        given = _token_in(request.headers.get("authorization", ""))
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode()):
            raise RefusedError(
                401,
                "expected the header `Authorization: Bearer TOKEN`",
                {"WWW-Authenticate": 'Bearer, Basic realm="rltf"'},
            )

    @contextlib.contextmanager
    def _room_for(self, num_programs: int) -> Iterator[None]:
        """Count programs as under way. Raises `RefusedError` if that would be too many."""
        most = self._bounds.max_pending
        if num_programs > most:
            raise RefusedError(413, f"{num_programs} programs in a request; send at most {most}")
        if self._num_pending + num_programs > most:
            reason = f"{self._num_pending} of at most {most} programs are under way; try again later"
            raise RefusedError(429, reason, _LATER)
        self._num_pending += num_programs
        try:
            yield
        finally:
            self._num_pending -= num_programs

    async def _grade(self, request: Request) -> Response:
        body = await read_body(request, self._bounds.max_body_bytes)
        query, digest = await asyncio.to_thread(lambda: (parse(GradeRequest, body), hashlib.sha256(body).digest()))
        if query.request_id is None:
            content = await unless_gone(request, self._graded(query), query.deadline_s)
        else:
            # Finished even if the client goes: it comes back with the same id.
            kept = self._answers.get(query.request_id, digest, lambda: self._graded(query))
            content = await unless_gone(request, kept, query.deadline_s)
        return Response(content, media_type="application/json")

    async def _graded(self, query: GradeRequest) -> bytes:
        with self._room_for(len(query.texts)):
            try:
                async with asyncio.timeout(query.deadline_s):
                    tasks = await asyncio.to_thread(tasks_of, query, self._problems)
                    verdicts = await self._verdicts(tasks)
            except TimeoutError:
                raise past(query.deadline_s) from None
        rows = [task.row(verdict) for task, verdict in zip(tasks, verdicts, strict=True)]
        return as_json({"request_id": query.request_id, "verdicts": rows})

    async def _verdicts(self, tasks: Sequence[Task]) -> list[Verdict]:
        calls = (self._backend.grade(task.problem, task.program, str(n)) for n, task in enumerate(tasks))
        verdicts = await asyncio.gather(*calls)
        for verdict in verdicts:
            self._metrics.programs.labels(verdict.outcome.value).inc()
        return verdicts

    async def _run_code(self, request: Request) -> Response:
        query = parse(sandbox_fusion.RunCodeRequest, await read_body(request, self._bounds.max_body_bytes))
        if query.unsupported is not None:
            return answer(sandbox_fusion.sandbox_error(query.unsupported))
        limits = query.limits(self._backend.settings)
        job = StdinJob((query.stdin or "").encode())
        with self._room_for(1):
            result = await unless_gone(request, self._backend.run(query.code, job, limits), DEADLINE_S)
        self._metrics.runs.labels(result.end.value).inc()
        return answer(sandbox_fusion.run_code_answer(result))

    async def _submit(self, request: Request) -> Response:
        query = parse(sandbox_fusion.SubmitRequest, await read_body(request, self._bounds.max_body_bytes))
        with self._room_for(1):
            problem, span = await asyncio.to_thread(self._submitted, query)
            task = Task(problem, query.completion[slice(*span)])
            (verdict,) = await unless_gone(request, self._verdicts([task]), DEADLINE_S)
        return answer(sandbox_fusion.submit_answer(query, problem, span, verdict))

    def _submitted(self, query: sandbox_fusion.SubmitRequest) -> tuple[Problem, tuple[int, int]]:
        problem = query.problem(self._problems, self._backend.settings)
        return problem, extract_program(problem, query.completion)

    async def _show_health(self, _: Request) -> Response:
        return answer(
            {
                "ready": True,
                "isolation": self._backend.isolation.value,
                "workers": self._backend.num_workers,
                "pending": self._num_pending,
                "max_pending": self._bounds.max_pending,
                "problems": self._problems.num_preloaded,
            }
        )

    async def _show_metrics(self, _: Request) -> Response:
        return PlainTextResponse(self._metrics.text(), media_type="text/plain; version=0.0.4")


async def _ping(_: Request) -> Response:
    """What SandboxFusion's clients ask for to see whether the server is there."""
    return answer("pong")


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return answer({"detail": f"{request.method} {request.url.path}: {error.detail}"}, error.status_code, error.headers)


def _token_in(authorization: str) -> str:
    """The token in a header. Clients that know only an address send it as `http://NAME:TOKEN@HOST`, which is Basic."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
    return ""

"""`rltf serve`: start the server, and end it when it is asked to."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from rltf.entry import SIGNALS
from rltf.errors import UserError
from rltf.files import read_text
from rltf.grader.asynchronous import AsyncGrader
from rltf.problems.spec import load_each
from rltf.problems.types import Problem, describe_rejected
from rltf.sandbox.admission import reason_to_refuse
from rltf.sandbox.command import add_grading_options, limits_of, positive, run_logged
from rltf.serving.app import Bounds, Service
from rltf.settings import MIB, SandboxSettings

if TYPE_CHECKING:
    from rltf.serving.cluster import ClusterGrader

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "GRADER_TOKEN"
_MIN_TOKEN = 16
_SWITCH_S = 0.0005
_BACKLOG = 2048
_MAX_PORT = 65535


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal, and return the exit status; 2 means that the server cannot start as asked."""
    return run_logged(_serve, _parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rltf serve", description="Grade programs for clients over HTTP.")
    bounds = Bounds()
    add = parser.add_argument
    host = "address to listen on; all but this machine's own need a token (default: %(default)s)"
    add("--host", default="127.0.0.1", help=host)
    add("--port", type=_port, default=8600, help="port to listen on; 0 chooses a free one (default: %(default)s)")
    token = f"file with the token that clients send (default: ${TOKEN_VARIABLE}, if it is set)"
    add("--token-file", type=Path, metavar="FILE", help=token)
    most = "programs that may wait or run at a time; more are answered with 429 (default: %(default)s)"
    add("--max-pending", type=positive, default=bounds.max_pending, metavar="N", help=most)
    size = "largest request in MiB; a larger one is answered with 413 (default: %(default)s)"
    add("--max-body", type=positive, default=bounds.max_body_bytes // MIB, metavar="MIB", help=size)
    drain = "seconds that requests get to end in after SIGTERM (default: %(default)s)"
    add("--drain-s", type=positive, default=60, metavar="N", help=drain)
    cluster = "run programs on the Ray cluster at this address (auto: the one that this machine belongs to), in "
    add("--cluster.address", dest="cluster", metavar="HOST:PORT", help=cluster + "up to --workers sandboxes")
    add_grading_options(parser, several=True, required=False)
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > _MAX_PORT:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {_MAX_PORT}, got {text!r}")
    return int(text)


def _serve(options: argparse.Namespace) -> None:
    settings = limits_of(options)
    token = read_token(options.token_file)
    if token is None and not is_loopback(options.host):
        raise UserError(
            f"--host {options.host}: other machines can reach this address, so clients need a token; put one of "
            f"{_MIN_TOKEN} or more characters into a file and add --token-file FILE, or set {TOKEN_VARIABLE}"
        )
    problems = _load(options.problems or (), settings)
    with listen(options.host, options.port) as listener:
        if options.cluster is None:
            grader = AsyncGrader(
                options.workers, max_pending=options.max_pending, min_isolation=options.min_isolation, settings=settings
            )
            asyncio.run(_run(options, grader, problems, token, listener))
            return
        from rltf.controller.ray_session import ray_running  # takes seconds to import
        from rltf.serving.cluster import ClusterGrader, join_settings

        size = {"min_workers": 1, "max_workers": options.workers}
        settings = settings.model_copy(update=size | {"min_isolation": options.min_isolation.value})
        cluster = join_settings(options.cluster)
        with ray_running(cluster):
            asyncio.run(_run(options, ClusterGrader(settings, cluster.heartbeat_timeout_s), problems, token, listener))


async def _run(
    options: argparse.Namespace,
    starting: AsyncGrader | ClusterGrader,
    problems: Sequence[Problem],
    token: str | None,
    listener: socket.socket,
) -> None:
    allow_connections()
    # The loop and the sandboxes' threads share an interpreter, and each waits at most this long for the other.
    sys.setswitchinterval(_SWITCH_S)
    async with starting as grader:
        service = Service(grader, problems, Bounds(options.max_pending, options.max_body * MIB), token)
        config = uvicorn.Config(
            service.app,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=options.drain_s,
        )
        server = Server(config)
        address = "http://{}:{}".format(*_bracketed(listener.getsockname()))
        print(f"serving on {address}: {grader.num_workers} sandboxes, isolation {grader.isolation.value}", flush=True)
        await server.serve([listener])


class Server(uvicorn.Server):
    """A server that lets its requests end after the first signal, and does not wait for them after a second."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Heed signals in the loop, and do not raise them again afterwards: to end is what they ask for."""
        loop = asyncio.get_running_loop()
        heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        for number in heeded:
            loop.add_signal_handler(number, self._end)
        try:
            yield
        finally:
            for number in heeded:
                loop.remove_signal_handler(number)

    def _end(self) -> None:
        logger.info("ending: no new requests, those under way get %s s", self.config.timeout_graceful_shutdown)
        self.force_exit = self.should_exit
        self.should_exit = True


def allow_connections() -> None:
    """Raise this process's limit on open files, of which each connection is one, as far as it may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def read_token(file: Path | None) -> str | None:
    """The token in a file, or else in the environment. Raises `UserError` for one that is too short."""
    if file is not None:
        try:
            token = read_text(file).strip()
        except OSError as error:
            raise UserError(f"--token-file {file}: cannot be read: {error.strerror}") from error
    elif TOKEN_VARIABLE in os.environ:
        token = os.environ[TOKEN_VARIABLE].strip()
    else:
        return None
    if len(token) < _MIN_TOKEN or not token.isascii() or len(token.split()) != 1:
        place = f"--token-file {file}" if file is not None else TOKEN_VARIABLE
        raise UserError(f"{place}: expected a word of at least {_MIN_TOKEN} ASCII characters (`openssl rand -hex 32`)")
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address. Raises `UserError` if it cannot."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: cannot listen there: {error}; choose another") from error
    # Inherited by connections. The kernel would otherwise hold an answer's body back for 40 ms, until the client has
    # acknowledged its head; asyncio sets this only for sockets that are made otherwise.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _bracketed(address: tuple[str, int]) -> tuple[str, int]:
    host, port = address[:2]
    return f"[{host}]" if ":" in host else host, port


def _load(specs: Sequence[str], settings: SandboxSettings) -> list[Problem]:
    found = load_each(specs, reason_to_refuse(settings))
    for spec, loaded in found:
        if loaded.rejected:
            logger.warning("%s: %d unusable rows:\n%s", spec, len(loaded.rejected), describe_rejected(loaded.rejected))
    return [problem for _, loaded in found for problem in loaded.problems]

"""Starting or joining Ray, and leaving nothing of it behind.

Ray has a folder for each session, with its sockets, logs and spilled objects. The driver locks that of a Ray that it
started, and removes it in the end. If the driver is killed, or if Ray's logs may explain a failure, the next driver
removes it. The same goes for a folder that Ray's processes get as TMPDIR: they are killed at the end of a session, and
leave temporary files.
"""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TextIO
from unittest.mock import patch

import psutil
import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import services
from ray._raylet import persist_port  # type: ignore[attr-defined]

from rltf.controller.head import Head, accepts
from rltf.entry import Interrupted, catch_signals, signals_ignored, skip_exit_handlers
from rltf.errors import UserError
from rltf.settings import ClusterSettings
from rltf.supervise import first_line

logger = logging.getLogger(__name__)

_LOCK = "rltf-driver.lock"
_TEMPORARY = "rltf-ray-"
_END_S = 10.0
_AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
START_S = 180
# On a busy machine, Python processes of Ray take a minute to import what they need. With Ray's own patience, 5 of 5
# starts failed on 2 cores under a load of 20. Ray reads these variables in the driver and in its daemons.
PATIENCE: Mapping[str, int] = {
    "RAY_gcs_server_port_wait_time_s": START_S,  # the driver waits for the control store (30 s)
    "RAY_py_gcs_connect_timeout_s": START_S,  # Ray's Python processes connect to it (30 s)
    "RAY_raylet_start_wait_time_s": START_S,  # the driver waits for the node's daemon to register (60 s)
    "RAY_agent_register_timeout_ms": 1000 * START_S,  # the daemon waits for its agents, and ends without them (30 s)
    "RAY_worker_register_timeout_seconds": START_S,  # the daemon waits for workers, and starts others (60 s)
}


@contextlib.contextmanager
def ray_running(cluster: ClusterSettings) -> Iterator[str]:
    """Start Ray here, or join the cluster at `cluster.address`; end or leave it afterwards.

    Yields the address of the dashboard, or an empty string if there is none. Raises UserError if there is no such
    cluster, and RuntimeError if Ray does not start.
    """
    head: Head | None = None
    if cluster.address != "local":
        address = _find_head(cluster.address)
        try:
            dashboard = _joined(address)
            head = Head()
            yield dashboard
        finally:
            with signals_ignored():
                if head is None or head.answers():
                    ray.shutdown()
                else:  # that would wait for the head without a deadline, and so would the end of the process
                    skip_exit_handlers()
        return
    _sweep()
    children, sessions = _children(), _sessions()
    failed = False
    with contextlib.ExitStack() as locks:
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
        temporary.chmod(0o711)
        locks.enter_context(_locked(temporary / _LOCK))
        try:
            # RAY_TMPDIR keeps the folders of sessions where users and Prometheus expect them.
            with patch.dict(os.environ, TMPDIR=str(temporary), RAY_TMPDIR=str(_folder().parent)):
                dashboard = _start(cluster, locks)
            head = Head()
            yield dashboard
        except Exception as error:
            failed = not isinstance(error, UserError)
            raise
        finally:
            with signals_ignored():
                daemons = _children() - children
                if head is not None and not head.answers():
                    # Ray's agents outlive their daemon for a while, and are no children of ours then.
                    daemons = _with_descendants(daemons)
                    # Ray would wait for a frozen head without a deadline, but not for a dead one.
                    _end({each for each in daemons if _is_head(each)})
                ray.shutdown()
                _end(daemons | (_children() - children))  # a start that failed leaves daemons behind
                for folder in (temporary, *(() if failed else _sessions() - sessions)):
                    shutil.rmtree(folder, ignore_errors=True)


def _joined(head: str) -> str:
    try:
        return _init(address=head)
    except (ConnectionError, RuntimeError) as error:  # another version of Ray or Python, or another token
        token = "set RAY_AUTH_MODE=token, with the cluster's token in ~/.ray/auth_token"
        raise UserError(
            f"cluster.address: cannot join the cluster at {head}: {first_line(error)}. The versions of Ray and Python "
            f"have to be the same; if the cluster asks for a token, {token}"
        ) from error


def _start(cluster: ClusterSettings, locks: contextlib.ExitStack) -> str:
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, str(value))
    try:
        with patch.object(services, "start_raylet", partial(_start_raylet, services.start_raylet, locks)):
            return _init(
                address="local",
                object_store_memory=cluster.object_store_bytes,
                # None: Ray tries to start it and carries on if it fails. With True, a slow dashboard ends the program.
                include_dashboard=None if cluster.dashboard else False,
            )
    except Exception as error:  # Ray raises bare exceptions here
        load, num_cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
        raise RuntimeError(
            f"Ray did not start: {error} (load of this machine: {load:.0f}, on {num_cores} cores; Ray's logs: "
            f"{_folder()}/session_latest/logs)"
        ) from error


def _start_raylet(start: Callable[..., Any], locks: contextlib.ExitStack, *arguments: Any, **options: Any) -> Any:
    """Lock the folder of the session, and start the node's daemon with ports for its agents that are chosen here.

    If the agents choose them, the daemon waits 15 s for each, whatever the environment says, and dies.
    """
    with contextlib.ExitStack() as held:
        servers = [held.enter_context(socket.create_server(("", 0))) for _ in _AGENT_PORTS]
        options |= {name: server.getsockname()[1] for name, server in zip(_AGENT_PORTS, servers, strict=True)}
    given = inspect.signature(start).bind(*arguments, **options).arguments
    locks.enter_context(_locked(Path(given["session_dir"]) / _LOCK))
    for name in _AGENT_PORTS:
        persist_port(given["session_dir"], given["node_id"], name, given[name])
    return start(*arguments, **options)


def _init(**options: Any) -> str:
    # Ray's daemons and workers inherit what is blocked. If a terminal is closed, it tells all its processes, and the
    # learner is still needed then, for the checkpoint.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        context = ray.init(configure_logging=True, logging_level=logging.WARNING, log_to_driver=False, **options)
    except SystemExit as error:  # from the handler of SIGTERM that Ray has installed in place of ours
        raise Interrupted(signal.SIGTERM) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        catch_signals()
    return str(context.dashboard_url or "")


def _find_head(address: str) -> str:
    """HOST:PORT of the head. Checked before Ray does, which tries for two minutes and then ends the process."""
    cure = (
        "Start a cluster (`ray up cluster.yaml`, or `ray start --head`) and run the command on its head node, or start "
        "Ray here with --cluster.address local"
    )
    try:
        found = services.canonicalize_bootstrap_address(address)
    except ConnectionError as error:
        raise UserError(f"cluster.address {address}: no Ray cluster is running on this machine. {cure}") from error
    if found is None or not accepts(found):
        raise UserError(f"cluster.address {address}: the head at {found} does not answer. {cure}")
    return found


def _folder() -> Path:
    return Path(get_default_ray_temp_dir())  # type: ignore[no-untyped-call]


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children())


def _sessions() -> set[Path]:
    """The folders of Ray's sessions that this process started: their names end with its id."""
    return set(_folder().glob(f"session_*_{os.getpid()}"))


def _locked(path: Path) -> TextIO:
    """A new file that is locked until it is closed, or this process ends."""
    file = path.with_suffix(".new").open("w")  # it has its name only once it is locked, so nobody finds it unlocked
    fcntl.flock(file, fcntl.LOCK_EX)
    path.with_suffix(".new").rename(path)
    return file


def _sweep() -> None:
    """Remove the folders of sessions whose drivers have ended."""
    temporary = Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*/{_LOCK}")
    for path in (*_folder().glob(f"session_*/{_LOCK}"), *temporary):
        with contextlib.suppress(OSError), path.open("r+") as lock:  # another user's, or locked
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)


def _with_descendants(processes: set[psutil.Process]) -> set[psutil.Process]:
    """The processes, and what those of them that still run have started."""
    found = set(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= set(process.children(recursive=True))
    return found


def _is_head(process: psutil.Process) -> bool:
    try:
        return process.name() == "gcs_server"
    except psutil.NoSuchProcess:
        return False


def _end(processes: set[psutil.Process]) -> None:
    """Kill processes and everything that they started."""
    doomed = _with_descendants(processes)
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(doomed, timeout=_END_S)

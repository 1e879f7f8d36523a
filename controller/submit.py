"""Submitting a run to a cluster as a Ray job, from a laptop, with the working tree as it is here.

    python launch.py --config configs/mbpp.yaml --cluster.address ray://HOST:10001  # or http://HOST:8265, its dashboard

The working tree travels as a package, without runs, data, tests and documents (.gitignore and .rayignore say what). The
run's folder is ~/rltf/runs/NAME on the head node. What the job prints is shown; the connection may be lost meanwhile,
the job goes on. The loop itself never runs over Ray Client: run folder and references would live here, and the run
would end with the connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import ray
from ray.job_submission import JobStatus, JobSubmissionClient
from rich.console import Console

from rltf.controller.head import accepts
from rltf.errors import UserError
from rltf.settings_sources import ENV_PREFIX, load_settings

ROOT = Path(__file__).parents[2]
# Of the user that Ray runs as on the head: a package's own folder ends with its job.
HOME = "$HOME/rltf"


def submit(address: str, arguments: Sequence[str]) -> int:
    """Run launch.py with `arguments` on the cluster at `address`, follow its output, and return the exit status.

    Raises UserError for unusable settings, and if nothing answers, before any node starts.
    """
    if not (ROOT / "launch.py").is_file():
        raise UserError(
            f"cluster.address {address}: a job is sent with its source, and this is an installed package; submit from "
            "a clone of the repository, or run on the head itself with --cluster.address auto"
        )
    command, name = entrypoint(arguments)
    console = Console()
    logging.getLogger("ray").setLevel(logging.WARNING)  # else each file that stays behind is a line
    dashboard = _dashboard(address)
    try:
        client = JobSubmissionClient(dashboard)
    except (ConnectionError, RuntimeError) as error:
        raise UserError(
            f"cluster.address {address}: its dashboard at {dashboard} does not answer here ({error}). Forward it (`ray "
            "dashboard cluster.yaml`) and give --cluster.address http://localhost:8265"
        ) from error
    try:
        job_id = client.submit_job(
            entrypoint=command,
            submission_id=f"{name}-{time.strftime('%Y%m%d-%H%M%S')}",
            runtime_env={
                "working_dir": str(ROOT),
                "env_vars": {key: value for key, value in os.environ.items() if key.startswith(ENV_PREFIX)},
            },
        )
    except RuntimeError as error:
        raise UserError(f"cluster.address {address}: the cluster rejected the job: {error}") from error
    console.out(f"submitted as {job_id}; `ray job logs --address {dashboard} --follow {job_id}` shows it again")
    return asyncio.run(_follow(client, job_id, console))


def entrypoint(arguments: Sequence[str]) -> tuple[str, str]:
    """The shell command of the job, and the name of its run. Raises UserError."""
    command = shlex.join(["python", "launch.py", *arguments, "--cluster.address", "auto"])
    if "--resume" in arguments:  # its folder and settings are on the head, where `runs/NAME` is in ~/rltf too
        folder = "".join(arguments[arguments.index("--resume") + 1 :][:1])
        return command if folder.startswith("/") else f'{command} --resume "{HOME}/"{shlex.quote(folder)}', "resumed"
    name = load_settings([*arguments, "--cluster.address", "auto"])[0].run.name
    folders = f'--run.dir "{HOME}/runs/{name}" --learner.sft.cache_dir "{HOME}/runs/cache"'
    return f"{command} {folders}", name


def _dashboard(address: str) -> str:
    """The dashboard's address, which a Ray Client server knows."""
    scheme, _, head = address.partition("://")
    if scheme in ("http", "https"):
        return address
    if scheme != "ray" or not head.rpartition(":")[2].isdecimal():
        raise UserError(
            f"cluster.address {address}: expected local, auto, HOST:PORT, ray://HOST:10001 or http://HOST:8265"
        )
    if not accepts(head):
        raise UserError(
            f"cluster.address {address}: nothing answers there. The head's Ray Client port is 10001 unless `ray start` "
            "was told another; behind a firewall forward its dashboard and give http://localhost:8265"
        )
    try:
        with ray.init(address, logging_level=logging.WARNING) as context:
            return f"http://{context.dashboard_url}"
    except (ConnectionError, RuntimeError) as error:  # another version of Ray or Python, or no Ray at all
        raise UserError(f"cluster.address {address}: {error}") from error


async def _follow(client: JobSubmissionClient, job_id: str, console: Console) -> int:
    async for lines in client.tail_job_logs(job_id):
        console.out(lines, end="", highlight=False)
    while not (status := client.get_job_status(job_id)).is_terminal():
        await asyncio.sleep(1)
    console.out(f"{job_id}: {status}")
    return 0 if status == JobStatus.SUCCEEDED else 1

"""Have a cluster run launch.py as a Ray job, with the program as it stands here: `make submit ADDRESS=... ARGS='...'`.

    PYTHONPATH=. python scripts/submit.py http://localhost:8265 [arguments of launch.py]

The working tree travels as a package, without runs, data, tests and documents (.gitignore and .rayignore say what). The
run's folder is ~/rltf/runs/NAME on the head node. What the job prints is shown; the connection may be lost meanwhile,
the job goes on. Exit status: 0 when the job finished, 2 for unusable settings or address, 1 otherwise.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from settings_sources import SettingsError, load_settings

ROOT = Path(__file__).parents[1]
# Relative to the home of the user that Ray runs as on the head: there a package's own folder ends with its job.
RUNS = "$HOME/rltf/runs"


def main(arguments: Sequence[str]) -> int:
    """Submit, follow the output, and return the exit status."""
    if not arguments or not arguments[0].startswith(("http://", "https://")):
        print("submit: name the cluster's dashboard first, as http://HOST:8265 (ADDRESS=... of `make submit`)")
        return 2
    address, *job = arguments
    try:
        command, name = entrypoint(job)
        client = JobSubmissionClient(address)
    except (SettingsError, ConnectionError) as error:
        print(f"submit: {error}")
        return 2
    job_id = client.submit_job(
        entrypoint=command,
        submission_id=f"{name}-{time.strftime('%Y%m%d-%H%M%S')}",
        runtime_env={"working_dir": str(ROOT)},
    )
    print(f"submitted as {job_id}; `ray job logs --address {address} --follow {job_id}` shows it again", flush=True)
    return asyncio.run(_follow(client, job_id))


def entrypoint(job: Sequence[str]) -> tuple[str, str]:
    """The shell command of the job, and the name of its run. Raises SettingsError, so that no node starts in vain."""
    command = ["python", "launch.py", *job, "--cluster.address", "auto"]
    if "--resume" in job:  # its folder and settings are on the head
        return shlex.join(command), "resumed"
    name = load_settings([*job, "--cluster.address", "auto"])[0].run.name
    folders = f'--run.dir "{RUNS}/{name}" --learner.warm_start.cache_dir "{RUNS}/cache"'
    return f"{shlex.join(command)} {folders}", name


async def _follow(client: JobSubmissionClient, job_id: str) -> int:
    async for lines in client.tail_job_logs(job_id):
        print(lines, end="", flush=True)
    while not (status := client.get_job_status(job_id)).is_terminal():
        await asyncio.sleep(1)
    print(f"submit: {job_id}: {status}")
    return 0 if status == JobStatus.SUCCEEDED else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

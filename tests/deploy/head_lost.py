"""Scenario: the head of a cluster dies while a job runs, or hangs if there is a file `freeze` in the folder.

python -m tests.deploy.head_lost OUTPUT.json FOLDER
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.jobs import ROOT, small_job

DEADLINE_S = 240.0


def main(output: Path, folder: Path) -> None:
    """Start a cluster and a job, kill or freeze the head's process, and write how the job ended."""
    ray = str(Path(sys.prefix) / "bin" / "ray")
    subprocess.run([ray, "start", "--head", "--num-cpus=4", "--include-dashboard=false"], check=True)
    more = ["--run.num_steps", "1000", "--generator.engine", "transformers", "--cluster.address", "auto"]
    command = [sys.executable, "launch.py", *small_job(folder, "job", *more, sft_steps=0)]
    job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = folder / "job" / "metrics.jsonl"
    deadline = time.monotonic() + DEADLINE_S
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        if job.poll() is not None or time.monotonic() > deadline:
            job.kill()
            raise SystemExit(f"the job did not reach its second update:\n{job.communicate()[0]}")
        time.sleep(0.2)
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "gcs_server":
            process.send_signal(signal.SIGSTOP if (folder / "freeze").exists() else signal.SIGKILL)
    lost = time.monotonic()
    said, _ = job.communicate(timeout=DEADLINE_S)
    seen = {"said": said, "status": job.returncode, "seconds": time.monotonic() - lost}
    output.write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

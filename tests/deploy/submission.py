"""Scenario: a laptop submits a job to a cluster through the head's Ray Client port.

python -m tests.deploy.submission OUTPUT.json FOLDER
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.jobs import ROOT, small_job

AGENTS_S = 120.0


def main(output: Path, folder: Path) -> None:
    """Start a cluster, submit a job as soon as it accepts one, and write what the laptop saw."""
    binaries = Path(sys.prefix) / "bin"
    os.environ |= {"HOME": str(folder / "home"), "PATH": f"{binaries}:{os.environ['PATH']}"}
    (folder / "home").mkdir()
    subprocess.run([binaries / "ray", "start", "--head", "--num-cpus=4", "--ray-client-server-port=9401"], check=True)
    arguments = small_job(folder, "job", "--generator.engine", "transformers", sft_steps=0)
    command = [sys.executable, "launch.py", *arguments, "--cluster.address", "ray://127.0.0.1:9401"]
    deadline = time.monotonic() + AGENTS_S
    while True:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            break
        time.sleep(2)
    resume = [sys.executable, "launch.py", "--resume", "runs/job", "--cluster.address", "http://127.0.0.1:8265"]
    environment = os.environ | {"RLTF_RUN__NUM_STEPS": "5"}
    again = subprocess.run(resume, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    files = sorted(path.name for path in (folder / "home" / "rltf" / "runs" / "job").glob("*"))
    said, again_said = done.stdout + done.stderr, again.stdout + again.stderr
    output.write_text(json.dumps({"said": said, "status": done.returncode, "files": files, "again": again_said}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

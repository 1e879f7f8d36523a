"""Run scenarios that need their own `ray start`, isolated from any other Ray on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# The scenario gets its own process tree, network and /tmp/ray. Its cluster ends with it.
_ALONE = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"]


def run_alone(module: str, folder: Path, timeout_s: float) -> dict[str, Any]:
    """Run `python -m MODULE folder/seen.json folder`; returns what it writes to the file, or skips the test."""
    if subprocess.run([*_ALONE, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("an isolated cluster needs namespaces, and they need root")
    (folder / "ray").mkdir()
    script = (
        f"ip link set lo up && mkdir -p /tmp/ray && mount --bind {folder}/ray /tmp/ray && "
        f"exec {sys.executable} -m {module} {folder}/seen.json {folder}"
    )
    done = subprocess.run(
        [*_ALONE, "sh", "-c", script],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    seen: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return seen

"""Small real jobs for tests: the starter job with only a few updates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

SMALL = {
    "run.num_steps": "4",
    "problems.train": "starter:train?references=no[:24]",
    "problems.supervised": "starter:train?references=yes[:64]",
    "problems.evaluation": "starter:test[:6]",
    "generator.num_generations": "4",
    "learner.batch_size": "16",
    "learner.supervised_batch_size": "8",
    "learner.sft.batch_size": "16",
    "learner.optim.decay_steps": "0",
    "checkpoint.every": "2",
    "buffer.capacity": "128",
    "buffer.refresh_every": "2",
    "evaluation.every": "2",
    "evaluation.num_samples": "2",
    "cluster.dashboard": "false",
}


def small_job(runs: Path, name: str, *more: str, sft_steps: int = 8) -> list[str]:
    """The arguments of a small starter job. Its run folder is `runs/name`, and its cache `runs/cache`."""
    settings = SMALL | {
        "learner.sft.num_steps": str(sft_steps),
        "learner.sft.cache_dir": str(runs / "cache"),
        "run.name": name,
        "run.dir": str(runs / name),
    }
    return [*(word for key, value in settings.items() for word in (f"--{key}", value)), *more]


def python(*arguments: str, timeout_s: float = 540.0) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with `arguments` in a separate process."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python launch.py` with `arguments`."""
    return python("launch.py", *arguments)

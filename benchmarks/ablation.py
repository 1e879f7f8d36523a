"""The ablation: RLTF's terms, its rivals and sampling schemes, each over several seeds, each run a real `launch.py`.

    make ablation                                 # RLTF's terms and variants; continues where it was stopped
    make ablation ROWS='rltf grpo dapo'           # the presets of that name
    make ablation ROWS='rltf-same grpo-same'      # with the same reward for all, coarse and adaptive

A run is a folder `ROW-SEED`. A run with its last evaluation is done, and any other is started again. All rows of a seed
share the initial weights and supervised fine-tuning. `python -m scripts.ablation_tables` makes tables and a figure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rltf.settings_sources import load_settings
from scripts.ablation_tables import OFFLINE, RIVALS, ROWS, SAME, TERMS, is_finished

CONFIG = "configs/ablation.yaml"
RUN_S = 3600.0
# A run keeps about two cores busy: one with generator and learner, one with sandboxes and driver.
CORES_PER_RUN = 2


SAME_REWARD = (
    "--rewards.outcome", "coarse", "--rewards.coarse_weight", "1", "--rewards.adaptive_weight", "1",
    "--rewards.adaptive_scope", "ran", "--rewards.fine_weight", "0",
)  # fmt: skip


def arguments_of(row: str) -> list[str]:
    """How the runs of a row differ from `configs/ablation.yaml`."""
    settings, _ = load_settings(["--config", CONFIG])
    algorithm = row.removesuffix(SAME)
    if row != algorithm or algorithm in RIVALS:
        return ["--algorithm", algorithm, *(SAME_REWARD if row != algorithm else ())]
    off = {term: [f"--rewards.{term}_weight", "0"] for term in ("coarse", "fine", "adaptive")}
    return {
        # It needs no samples, so its sampled batch is small; its supervised batches are the same as in other rows.
        "sl": ["--learner.loss.rl_weight", "0", "--learner.batch_size", "8", "--evaluation.initial", "true"],
        "coarse": off["fine"] + off["adaptive"],
        "coarse-fine": off["adaptive"],
        "rltf": [],
        "siblings": ["--rewards.localize", "siblings"],
        "static": ["--rewards.static_weight", "1"],
        # The generators never get new weights: every sample comes from the fine-tuned model.
        OFFLINE: ["--buffer.refresh_every", str(settings.run.num_steps)],
        "rltf-paper": ["--algorithm", "rltf-paper"],
        "rltf-code": ["--algorithm", "rltf-code"],
    }[row]


def make_run(folder: Path, row: str, seed: int, *, dry: bool = False) -> None:
    """Make one run unless it is done. Prints its output and raises CalledProcessError if it fails."""
    if is_finished(folder):
        return
    command = ["launch.py", "--config", CONFIG, "--run.dir", str(folder), "--run.seed", str(seed)]
    command += ["--run.name", folder.name.replace("+", "p"), *arguments_of(row)]
    print(f"{folder.name}: {' '.join(command)}", flush=True)
    if dry:
        return
    shutil.rmtree(folder, ignore_errors=True)
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=RUN_S)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
        done.check_returncode()
    print(f"{folder.name}: done", flush=True)


def main() -> None:
    """Make all missing runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"), help="folder for the runs")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(TERMS), help="rows of the table to run")
    parser.add_argument(
        "--jobs", type=int, default=max(1, (os.cpu_count() or 1) // CORES_PER_RUN), help="runs at the same time"
    )
    parser.add_argument("--dry-run", action="store_true", help="only print the command of each missing run")
    wanted = parser.parse_args()
    for seed in range(wanted.seeds):
        # The first run of a seed does the fine-tuning; the others take its result from the cache.
        first, *others = wanted.rows
        make_run(wanted.output / f"{first}-{seed}", first, seed, dry=wanted.dry_run)
        with ThreadPoolExecutor(wanted.jobs) as pool:
            runs = [
                pool.submit(make_run, wanted.output / f"{row}-{seed}", row, seed, dry=wanted.dry_run) for row in others
            ]
            for run in runs:
                run.result()


if __name__ == "__main__":
    main()

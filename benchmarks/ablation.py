"""The ablation: RLTF's terms, its rivals and sampling schemes, each over several seeds, each run a real `launch.py`.

    make ablation                                 # RLTF's terms and variants; continues where it was stopped
    make ablation ROWS='rltf grpo dapo'           # the presets of that name
    make ablation ROWS='rltf-same grpo-same'      # with the same reward for all, coarse and adaptive
    PYTHONPATH=. python -m benchmarks.ablation --tune --rows rltf grpo    # which learning rate suits each row?

A run is a folder `ROW-SEED`. A run with its last evaluation is done, and any other is started again. All rows of a seed
share the initial weights and supervised fine-tuning. For `coderl`, each seed first gets `critic-SEED`, which learns
from programs of the fine-tuned model. `python -m scripts.ablation_tables` makes tables and a figure.

Objectives without a supervised term get the lower of two learning rates: at the rate of `rltf`, most of them forget
what SFT taught. `--tune` shows it, with a run at each rate on a seed that the table does not have.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rltf.files import read_steps
from rltf.settings import Algorithm
from rltf.settings_sources import load_settings
from scripts.ablation_tables import OFFLINE, RIVALS, ROWS, SAME, TERMS, is_finished

CONFIG = "configs/ablation.yaml"
RUN_S = 3600.0
# A run keeps about two cores busy: one with generator and learner, one with sandboxes and driver.
CORES_PER_RUN = 2

# One update that changes nothing, after SFT: its checkpoint is the model that all rows of a seed start from.
START = (
    "--run.num_steps", "1", "--learner.batch_size", "8", "--learner.optim.learning_rate", "0",
    "--problems.evaluation", "[]",
)  # fmt: skip
# CodeRL's number of programs. The rate is for a model of this size, as in `benchmarks.self_repair`.
NUM_GRADED = "20"
CRITIC = ("--learning-rate", "5e-4", "--num-epochs", "1")
# The learning rate of `configs/ablation.yaml`, which is for `rltf`, and a lower one.
RATES = ("8e-4", "2.5e-4")
TUNING_SEED = 9
SAME_REWARD = (
    "--rewards.outcome", "coarse", "--rewards.coarse_weight", "1", "--rewards.adaptive_weight", "1",
    "--rewards.adaptive_scope", "ran", "--rewards.fine_weight", "0",
)  # fmt: skip


def arguments_of(row: str, critic: Path) -> list[str]:
    """How the runs of a row differ from `configs/ablation.yaml`, but for the learning rate.

    `critic` is for rows that need one.
    """
    settings, _ = load_settings(["--config", CONFIG])
    algorithm = algorithm_of(row)
    if row != algorithm or algorithm in RIVALS:
        of_critic = ("--learner.advantage.critic", str(critic)) if needs_critic(row) else ()
        return ["--algorithm", algorithm, *(SAME_REWARD if row != algorithm else ()), *of_critic]
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


def algorithm_of(row: str) -> str:
    """The row without its choice of reward."""
    return row.removesuffix(SAME)


def rate_of(arguments: Sequence[str]) -> str:
    """The learning rate of a run with these arguments."""
    settings, _ = load_settings(["--config", CONFIG, *arguments])
    return RATES[0] if settings.learner.loss.supervised_weight else RATES[1]


def needs_critic(row: str) -> bool:
    """Whether the runs of a row need a critic."""
    return algorithm_of(row) == Algorithm.CODERL


def run_command(name: str, *command: str, dry: bool) -> None:
    """Run a command of Python, or only print it. Raises CalledProcessError if it fails."""
    print(f"{name}: {' '.join(command)}", flush=True)
    if dry:
        return
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=RUN_S)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
        done.check_returncode()
    print(f"{name}: done", flush=True)


def launch(folder: Path, seed: int, *more: str, dry: bool) -> None:
    """Run `launch.py` from its start. Raises as `run_command`."""
    if not dry:
        shutil.rmtree(folder, ignore_errors=True)
    about = ("--run.dir", str(folder), "--run.seed", str(seed), "--run.name", folder.name.replace("+", "p"))
    run_command(folder.name, "launch.py", "--config", CONFIG, *about, *more, dry=dry)


def make_run(folder: Path, row: str, seed: int, rate: str | None = None, *, dry: bool = False) -> None:
    """Make one run, at its row's learning rate or at `rate`, unless it is done. Raises as `run_command`."""
    if not is_finished(folder):
        arguments = arguments_of(row, folder.parent / f"critic-{seed}")
        launch(folder, seed, *arguments, "--learner.optim.learning_rate", rate or rate_of(arguments), dry=dry)


def make_critic(output: Path, seed: int, *, dry: bool = False) -> None:
    """Make the critic of a seed from what there is. Raises as `run_command`.

    It learns from the outcomes of programs that the fine-tuned model writes for the training problems.
    """
    start, graded, critic = (output / f"{name}-{seed}" for name in ("start", "graded", "critic"))
    if critic.is_dir():
        return
    settings, _ = load_settings(["--config", CONFIG])
    generator, sandbox = settings.generator, settings.sandbox
    model = start / "checkpoints" / "step-1"
    about = ("--model", str(model), "--seed", str(seed), "--max-length", str(settings.model.max_model_len))
    if not model.is_dir():
        launch(start, seed, *START, dry=dry)
    if not (graded / "results.json").is_file():
        sampling = (
            "--num-samples", NUM_GRADED, "--temperature", f"{generator.temperature}", "--top-p", f"{generator.top_p}",
            "--max-tokens", f"{generator.max_tokens}", "--dtype", settings.model.dtype,
        )  # fmt: skip
        limits = [
            f"--sandbox.{name}={value}"
            for name, value in sandbox.model_dump(include={"cpu_s", "wall_s", "memory_bytes"}).items()
        ]
        options = (*about, *sampling, *limits, "--problems", *settings.problems.train, "--output", str(graded))
        run_command(graded.name, "-m", "rltf.cli", "evaluate", *options, dry=dry)
    problems = dict.fromkeys((*settings.problems.train, *settings.problems.supervised))
    options = (*about, *CRITIC, "--samples", str(graded), "--problems", *problems, "--output", str(critic))
    run_command(critic.name, "-m", "rltf.cli", "critic", *options, dry=dry)


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
    parser.add_argument("--tune", action="store_true", help=f"compare the learning rates {', '.join(RATES)} instead")
    wanted = parser.parse_args()
    if wanted.tune:
        named = {f"{row}-{rate}": (row, rate) for row in wanted.rows for rate in RATES}
        make_seed(wanted.output / "rates", named, TUNING_SEED, wanted.jobs, dry=wanted.dry_run)
        return
    for seed in range(wanted.seeds):
        make_seed(wanted.output, {row: (row, None) for row in wanted.rows}, seed, wanted.jobs, dry=wanted.dry_run)


def make_seed(output: Path, runs: Mapping[str, tuple[str, str | None]], seed: int, num_jobs: int, *, dry: bool) -> None:
    """Make the missing runs of a seed, each a row and its learning rate by name, and print what they reach."""
    if any(needs_critic(row) for row, _ in runs.values()):
        make_critic(output, seed, dry=dry)

    def make(name: str) -> None:
        folder = output / f"{name}-{seed}"
        row, rate = runs[name]
        make_run(folder, row, seed, rate, dry=dry)
        if not dry:
            last = read_steps(folder / "evaluations.jsonl")[-1]
            print(f"{folder.name}: held-out pass@1 {100 * last['pass@1']['all']:.1f} %", flush=True)

    # The first run of a seed does the fine-tuning; the others take its result from the cache.
    first, *others = runs
    make(first)
    with ThreadPoolExecutor(num_jobs) as pool:
        list(pool.map(make, others))


if __name__ == "__main__":
    main()

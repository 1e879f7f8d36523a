"""The ablation: RLTF's terms, its rivals and sampling schemes, each over several seeds, each run a real `launch.py`.

    make ablation                                 # RLTF's terms and variants; continues where it was stopped
    make ablation ROWS='rltf grpo dapo'           # the presets of that name
    make ablation ROWS='rltf-same grpo-same'      # with the same reward for all, coarse and adaptive
    PYTHONPATH=. python -m benchmarks.ablation --tune --rows rltf grpo    # which learning rate suits each row?
    PYTHONPATH=. python -m benchmarks.ablation --config FILE --rows rltf grpo --run.num_steps 30   # of another job

A run is a folder `ROW-SEED`. A run with its last evaluation is done, and any other is started again. All rows of a seed
share the initial weights and supervised fine-tuning. Options other than these are settings of all runs. For `coderl`,
each seed first gets `critic-SEED`, which learns from programs of the fine-tuned model.
`python -m scripts.ablation_tables` makes tables and a figure.

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
from dataclasses import dataclass
from pathlib import Path

from rltf.files import read_steps
from rltf.settings import Algorithm, Settings
from rltf.settings_sources import load_settings
from scripts.ablation_tables import OFFLINE, RIVALS, ROWS, SAME, TERMS, is_finished

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
# The lower learning rate, as a fraction of the config's, which is for `rltf`.
LOWER = 0.3125
TUNING_SEED = 9
INITIAL = "--evaluation.initial"
SAME_REWARD = (
    "--rewards.outcome", "coarse", "--rewards.coarse_weight", "1", "--rewards.adaptive_weight", "1",
    "--rewards.adaptive_scope", "ran", "--rewards.fine_weight", "0", "--rewards.structure_weight", "0",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Base:
    """What all runs have in common."""

    config: str
    more: tuple[str, ...]

    def load(self, *arguments: str) -> Settings:
        """The settings of a run with these arguments. Raises UserError."""
        return load_settings(["--config", self.config, *self.more, *arguments])[0]

    def rates(self) -> tuple[str, str]:
        """The learning rate of the config, and the lower one."""
        rate = self.load().learner.optim.learning_rate
        return f"{rate:g}", f"{LOWER * rate:g}"


def arguments_of(base: Base, row: str, critic: Path) -> list[str]:
    """How the runs of a row differ from the config, but for the learning rate.

    `critic` is for rows that need one.
    """
    algorithm = algorithm_of(row)
    if row != algorithm or algorithm in RIVALS:
        of_critic = ["--learner.advantage.critic", str(critic)] if needs_critic(row) else []
        chosen = ["--algorithm", algorithm, *of_critic]
        # The config may set the weight of the supervised term for `rltf`.
        weight = f"{load_settings(chosen)[0].learner.loss.supervised_weight:g}"
        chosen += ["--learner.loss.supervised_weight", weight]
        if row != algorithm:
            return [*chosen, *SAME_REWARD]
        # Its reward compares programs with references, so it also samples the problems that have some.
        needs_references = algorithm == Algorithm.PPOCODER
        return [*chosen, *(["--problems.train", *all_problems(base.load())] if needs_references else ())]
    off = {term: [f"--rewards.{term}_weight", "0"] for term in ("coarse", "fine", "adaptive")}
    return {
        # It needs no samples, so its sampled batch is small; its supervised batches are the same as in other rows.
        "sl": ["--learner.loss.rl_weight", "0", "--learner.batch_size", "8"],
        "coarse": off["fine"] + off["adaptive"],
        "coarse-fine": off["adaptive"],
        "rltf": [],
        "siblings": ["--rewards.localize", "siblings"],
        "static": ["--rewards.static_weight", "1"],
        # The generators never get new weights: every sample comes from the fine-tuned model.
        OFFLINE: ["--buffer.refresh_every", str(base.load().run.num_steps)],
        "rltf-paper": ["--algorithm", "rltf-paper"],
        "rltf-code": ["--algorithm", "rltf-code"],
    }[row]


def all_problems(settings: Settings) -> list[str]:
    """The problems of samples and of the supervised term."""
    return list(dict.fromkeys((*settings.problems.train, *settings.problems.supervised)))


def algorithm_of(row: str) -> str:
    """The row without its choice of reward."""
    return row.removesuffix(SAME)


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


def launch(base: Base, folder: Path, seed: int, *more: str, dry: bool) -> None:
    """Run `launch.py` from its start. Raises as `run_command`."""
    if not dry:
        shutil.rmtree(folder, ignore_errors=True)
    about = ("--run.dir", str(folder), "--run.seed", str(seed), "--run.name", folder.name.replace("+", "p"))
    run_command(folder.name, "launch.py", "--config", base.config, *base.more, *about, *more, dry=dry)


def make_run(base: Base, folder: Path, row: str, seed: int, *more: str, dry: bool = False) -> None:
    """Make one run, unless it is done. Raises as `run_command`.

    Objectives without a supervised term get the lower learning rate, unless `more` has another.
    """
    if not is_finished(folder):
        arguments = arguments_of(base, row, folder.parent / f"critic-{seed}")
        rate, lower = base.rates()
        if not base.load(*arguments).learner.loss.supervised_weight:
            rate = lower
        launch(base, folder, seed, *arguments, "--learner.optim.learning_rate", rate, *more, dry=dry)


def make_critic(base: Base, output: Path, seed: int, *, dry: bool = False) -> None:
    """Make the critic of a seed from what there is. Raises as `run_command`.

    It learns from the outcomes of programs that the fine-tuned model writes for the training problems.
    """
    start, graded, critic = (output / f"{name}-{seed}" for name in ("start", "graded", "critic"))
    if critic.is_dir():
        return
    settings = base.load()
    generator, sandbox = settings.generator, settings.sandbox
    model = start / "checkpoints" / "step-1"
    about = ("--model", str(model), "--seed", str(seed), "--max-length", str(settings.model.max_model_len))
    if not model.is_dir():
        launch(base, start, seed, *START, dry=dry)
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
    options = (*about, *CRITIC, "--samples", str(graded), "--problems", *all_problems(settings))
    run_command(critic.name, "-m", "rltf.cli", "critic", *options, "--output", str(critic), dry=dry)


def main() -> None:
    """Make all missing runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", default="configs/ablation.yaml", help="the job that all rows vary")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"), help="folder for the runs")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(TERMS), help="rows of the table to run")
    parser.add_argument(
        "--jobs", type=int, default=max(1, (os.cpu_count() or 1) // CORES_PER_RUN), help="runs at the same time"
    )
    parser.add_argument("--dry-run", action="store_true", help="only print the command of each missing run")
    parser.add_argument("--tune", action="store_true", help="compare the two learning rates instead")
    wanted, more = parser.parse_known_args()
    base = Base(wanted.config, tuple(more))
    if wanted.tune:
        tuned = {
            f"{row}-{rate}": (row, ("--learner.optim.learning_rate", rate))
            for row in wanted.rows
            for rate in base.rates()
        }
        make_seed(base, wanted.output / "rates", tuned, TUNING_SEED, wanted.jobs, dry=wanted.dry_run)
        return
    for seed in range(wanted.seeds):
        runs = {row: (row, ()) for row in wanted.rows}
        make_seed(base, wanted.output, runs, seed, wanted.jobs, dry=wanted.dry_run)


def make_seed(
    base: Base, output: Path, runs: Mapping[str, tuple[str, Sequence[str]]], seed: int, num_jobs: int, *, dry: bool
) -> None:
    """Make the missing runs of a seed, each a row and more arguments by name, and print what they reach."""
    if any(needs_critic(row) for row, _ in runs.values()):
        make_critic(base, output, seed, dry=dry)

    def make(name: str, initial: str = "false") -> None:
        folder = output / f"{name}-{seed}"
        row, options = runs[name]
        make_run(base, folder, row, seed, *options, INITIAL, initial, dry=dry)
        if not dry:
            last = read_steps(folder / "evaluations.jsonl")[-1]
            print(f"{folder.name}: held-out pass@1 {100 * last['pass@1']['all']:.1f} %", flush=True)

    # The first run of a seed does the fine-tuning and measures its result; the others take it from the cache.
    first, *others = runs
    make(first, "true")
    with ThreadPoolExecutor(num_jobs) as pool:
        list(pool.map(make, others))


if __name__ == "__main__":
    main()

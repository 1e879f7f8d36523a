"""Training over turns on the starter benchmark's pitfalls: before, after one-turn training, and after it over turns.

    python -m benchmarks.self_repair --output runs/self-repair [--seeds N] [--jobs critic]

The tiny model learns reference programs first (the policy), then to repair its own failing programs beside them (the
start). From there, `launch.py` trains it by GRPO with one turn and over three turns, over several seeds. Every model is
evaluated with `rltf evaluate --turns 3`, which also says what as many attempts without feedback are worth. Prints a
JSON object per model, and tables in Markdown. What is already in the folder is kept, so the same command continues.
`--jobs critic` trains a model that only repairs, and a critic, and evaluates critic sampling.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import numpy as np

from rltf.evaluation.store import read_samples
from rltf.files import read_json
from rltf.reporting.comparisons import Passes, interval
from rltf.sandbox.verdict import Outcome

CONFIG = "configs/ablation.yaml"
TRAIN, TEST = "starter:pitfalls-train", "starter:pitfalls-test"
MAX_LENGTH, MAX_TURNS = "512", 3
START, ONE_TURN, OVER_TURNS = "start", "GRPO with one turn", "GRPO over three turns"
TRAINING = {ONE_TURN: 1, OVER_TURNS: MAX_TURNS}
NUM_UPDATES = "48"
# GRPO has no supervised term: references of first answers would make the model forget to repair.
SETTINGS = (
    *("--algorithm", "grpo", "--learner.optim.learning_rate", "3e-4", "--learner.optim.decay_steps", NUM_UPDATES),
    *("--run.num_steps", NUM_UPDATES, "--checkpoint.every", NUM_UPDATES),
)
SAMPLING = (
    "--temperature", "1.0", "--top-p", "1.0", "--max-tokens", "128", "--max-length", MAX_LENGTH, "--dtype", "float32",
)  # fmt: skip


LEARNING = ("--learning-rate", "5e-4")


def rltf(*arguments: str) -> None:
    """Run a command of `rltf`. Raises CalledProcessError if it fails."""
    print("rltf", *arguments, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "rltf.cli", *arguments], check=True, stdout=sys.stderr)


def train(folder: Path, model: Path | None, seed: int, *more: str) -> None:
    """One run of `launch.py`, unless it has a checkpoint. Without a `model`, it fine-tunes the tiny one first."""
    if any((folder / "checkpoints").glob("step-*")):
        return
    shutil.rmtree(folder, ignore_errors=True)
    start = () if model is None else ("--model.name", str(model), "--learner.sft.num_steps", "0")
    rltf(
        *("train", "--config", CONFIG, "--run.dir", str(folder), "--run.name", folder.name, "--run.seed", str(seed)),
        *("--model.max_model_len", MAX_LENGTH, "--problems.evaluation", "[]", "--evaluation.initial", "false"),
        *("--learner.sft.cache_dir", str(folder.parent / "cache"), *start, *more),
    )


def make_policy(output: Path) -> Path:
    """The policy, and its programs for the training problems in `output`/graded."""
    if not any((output / "cache").glob("sft-*")):
        train(output / "warm-up", None, 0, "--run.num_steps", "1")
    (policy,) = (output / "cache").glob("sft-*")
    graded = output / "graded"
    if not (graded / "results.json").exists():
        samples = ("--num-samples", "8", "--output", str(graded))
        rltf("evaluate", "--model", str(policy), "--problems", TRAIN, *SAMPLING, *samples)
    return policy


def train_repair(policy: Path, output: Path, *options: str) -> Path:
    """A model that learned to repair the policy's programs."""
    if not output.exists():
        learned_from = ("--samples", str(output.parent / "graded"), "--problems", TRAIN, "--output", str(output))
        rltf("train-repair", "--model", str(policy), "--max-length", MAX_LENGTH, *learned_from, *options)
    return output


def evaluated(model: Path, output: Path) -> Path:
    """The evaluation of a model over three turns."""
    if not (output / "results.json").exists():
        turns = ("--turns", str(MAX_TURNS), "--num-samples", "6", "--output", str(output))
        rltf("evaluate", "--model", str(model), "--problems", TEST, *SAMPLING, *turns)
    return output


def critic_sampling(output: Path, policy: Path) -> None:
    """A critic of the policy, a model that only repairs, and the populations of critic sampling."""
    repair, critic = train_repair(policy, output / "repair", *LEARNING), output / "critic"
    if not critic.exists():
        learned_from = ("--samples", str(output / "graded"), "--problems", TRAIN, "--output", str(critic))
        learning = (*LEARNING, "--max-length", MAX_LENGTH, "--num-epochs", "1")
        rltf("critic", "--model", str(policy), *learning, *learned_from)
    models = ("--model", str(policy), "--critic", str(critic), "--repair", str(repair))
    options = ("--num-samples", "6", "--k", "1", "5", "--output", str(output / "critic-sampling"))
    command = [sys.executable, "benchmarks/bench_critic_sampling.py", *models, *options, *SAMPLING]
    subprocess.run(command, check=True)


def table(found: Mapping[str, Sequence[Path]]) -> str:
    """Pass@1 after each turn, and of as many attempts without feedback, and differences; evaluations by model."""
    lines = [
        "| model | turn 1 | turn 2 | turn 3 | 3 attempts | tokens of 3 turns | of 3 attempts |",
        "|---|---|---|---|---|---|---|",
    ]
    passes = {
        name: [passes_after(folders, turn) for turn in range(1, MAX_TURNS + 1)] for name, folders in found.items()
    }
    for name, folders in found.items():
        turns = [read_json(folder / "results.json")["turns"] for folder in folders]
        attempts = [one[-1]["resampled"] for one in turns]
        repairs = mean(sum(turn["completion_tokens"] for turn in one) for one in turns)
        rates = [str(interval(one)) for one in passes[name]]
        plain = f"{100 * mean(one['pass@1'] for one in attempts):.1f}"
        tokens = f"{repairs:,.0f} | {mean(one['completion_tokens'] for one in attempts):,.0f}"
        lines.append(f"| {name} | {' | '.join(rates)} | {plain} | {tokens} |")
    over, once = passes[OVER_TURNS], passes[ONE_TURN]
    start = passes[START]
    differences = {
        f"{OVER_TURNS}: turn 3 - turn 1": over[-1] - over[0],
        **{f"{OVER_TURNS} - {START}, turn {number + 1}": over[number] - start[number] for number in (0, MAX_TURNS - 1)},
        f"{ONE_TURN} - {START}, turn 1": once[0] - start[0],
        f"{OVER_TURNS} - {ONE_TURN}, turn {MAX_TURNS}": over[-1] - once[-1],
    }
    lines += ["", "| difference | points |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {interval(values)} |" for name, values in differences.items())])


def passes_after(folders: Sequence[Path], turn: int) -> Passes:
    """The share of the dialogues of each problem that pass if they end after `turn` [seeds, problems]."""
    seeds = []
    for folder in folders:
        passed: defaultdict[str, list[bool]] = defaultdict(list)
        for row in read_samples(folder):
            passed[row["task_id"]].append(row["turns"][:turn][-1]["outcome"] == Outcome.PASSED)
        seeds.append([mean(passed[task_id]) for task_id in sorted(passed)])
    return np.array(seeds)


def main() -> None:
    """Make what is missing, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/self-repair"), help="folder for everything")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds of each kind of training")
    parser.add_argument("--jobs", choices=("turns", "critic"), default="turns", help="what to measure")
    options = parser.parse_args()
    output = options.output.resolve()
    policy = make_policy(output)
    if options.jobs == "critic":
        critic_sampling(output, policy)
        return
    start = train_repair(policy, output / "start", "--first-answers", "--learning-rate", "1e-3", "--num-steps", "240")
    found = {"policy": [evaluated(policy, output / "evaluated-policy")]}
    found[START] = [evaluated(start, output / "evaluated-start")]
    for name, turns in TRAINING.items():
        found[name] = []
        for seed in range(options.seeds):
            run = output / f"turns-{turns}-{seed}"
            train(run, start, seed, *SETTINGS, "--generator.max_turns", str(turns))
            found[name].append(evaluated(run / "checkpoints" / f"step-{NUM_UPDATES}", output / f"evaluated-{run.name}"))
    for name, folders in found.items():
        for seed, folder in enumerate(folders):
            turns = read_json(folder / "results.json")["turns"]
            print(json.dumps({"benchmark": "self-repair", "model": name, "seed": seed, "turns": turns}))
    print(table(found))


if __name__ == "__main__":
    main()

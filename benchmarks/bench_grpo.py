"""A whole job compared with TRL's GRPO trainer, with the same model, prompts, reward and number of samples per update.

    python benchmarks/bench_grpo.py --model DIR --problems SPEC [--updates N]

Prints one JSON object per system, then the ratio: samples per second of wall time, from the end of the first update to
the end of the last. Both systems use all cores of this machine, compute in the same type, and draw groups of eight
samples of at most 160 tokens for four problems per update. The reward is the share of tests that pass, in the same
sandbox; neither side has a supervised term. TRL samples with transformers' `generate`, because its vLLM modes need a
GPU. It is installed from `benchmarks/requirements-peers.txt`. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rltf.settings import CACHE_DIR, Dtype, ModelSettings

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "runs" / "peers"
GROUP_SIZE, NUM_GROUPS = 8, 4
BATCH_SIZE = GROUP_SIZE * NUM_GROUPS
MAX_TOKENS, MAX_LENGTH = 160, 640
TEMPERATURE = 0.8
LEARNING_RATE = 1e-5
TARGET = 3.0


def main() -> None:
    """Run both systems, one after the other, each in processes of its own."""
    parser = argparse.ArgumentParser(description="Compare a whole job with TRL's GRPO trainer.")
    parser.add_argument("--model", required=True, help="model folder, GGUF file or Hub id of a chat model")
    parser.add_argument("--problems", required=True, metavar="SPEC")
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--trl", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trl:
        run_trl(options.model, options.problems, options.updates)
        return
    speeds = {}
    for system, measure in (("TRL", measure_trl), ("ours", measure_ours)):
        load = os.getloadavg()[0]
        speeds[system] = measure(options.model, options.problems, options.updates)
        row = {"benchmark": "grpo", "system": system, "updates": options.updates, "load_before": round(load, 2)}
        print(json.dumps({**row, "samples_per_s": round(speeds[system], 3)}), flush=True)
    ratio = speeds["ours"] / speeds["TRL"]
    print(json.dumps({"benchmark": "grpo", "ratio": round(ratio, 2), "target": TARGET, "met": ratio >= TARGET}))


def measure_ours(model: str, spec: str, updates: int) -> float:
    """Samples per second of a job that overlaps sampling, grading and updates."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "run.dir": f"{folder}/run",
            "run.num_steps": updates,
            "model.name": model,
            "problems.train": spec,
            "problems.evaluation": "[]",
            "generator.num_generations": GROUP_SIZE,
            "generator.max_tokens": MAX_TOKENS,
            "generator.temperature": TEMPERATURE,
            "learner.batch_size": BATCH_SIZE,
            "learner.sft.num_steps": 0,
            "learner.optim.learning_rate": LEARNING_RATE,
            "learner.loss.supervised_weight": 0,
            "cluster.dashboard": "false",
        }
        words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
        command = [sys.executable, "launch.py", "--config", "configs/mbpp_smollm2.yaml", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        rows = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    return float(sum(row["num_samples"] for row in rows[1:]) / sum(row["elapsed_s"] for row in rows[1:]))


def measure_trl(model: str, spec: str, updates: int) -> float:
    """Samples per second of TRL's trainer."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{PEERS}"}
    words = ["--trl", "--model", model, "--problems", spec, "--updates", str(updates)]
    done = subprocess.run([sys.executable, __file__, *words], env=environment, stdout=subprocess.PIPE, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def run_trl(name: str, spec: str, updates: int) -> None:
    """Train with TRL in this process, and print the samples per second."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback

    from rltf.actors.prompting import Prompter
    from rltf.learner.model_source import model_folder
    from rltf.problems import load
    from rltf.problems.prompts import render_prompt
    from rltf.sandbox.grading import Graders
    from rltf.sandbox.verdict import Isolation
    from rltf.settings import SandboxSettings

    trl: Any = importlib.import_module("trl")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    folder = model_folder(name, (), CACHE_DIR, seed=0)
    problems = {problem.task_id: problem for problem in load(spec).problems}
    settings = ModelSettings(name=name, max_model_len=MAX_LENGTH, chat_template="on")
    prompter = Prompter(folder, problems, settings, ())
    rows = [
        {"prompt": render_prompt(problem, prompter.form, prompter.tokenizer), "task_id": task_id}
        for task_id, problem in problems.items()
    ]
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            ends.append(time.monotonic())

    with Graders(1, SandboxSettings(), Isolation.NAMESPACES) as graders, tempfile.TemporaryDirectory() as output:

        def share_passed(completions: Sequence[str], task_id: Sequence[str], **_: Any) -> list[float]:
            shares = []
            for completion, problem_id in zip(completions, task_id, strict=True):
                start, end = prompter.program_span(problem_id, completion)
                verdict = graders.grade(problems[problem_id], completion[start:end], "")
                shares.append(verdict.pass_ratio)
            return shares

        trainer = trl.GRPOTrainer(
            str(folder), share_passed, _trl_config(trl, output, updates), Dataset.from_list(rows), callbacks=[Clock()]
        )
        trainer.train()
    print((updates - 1) * BATCH_SIZE / (ends[-1] - ends[0]))


def _trl_config(trl: Any, folder: str, updates: int) -> Any:
    return trl.GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=Dtype.of_this_cpu() is Dtype.BFLOAT16,
        per_device_train_batch_size=GROUP_SIZE,
        gradient_accumulation_steps=NUM_GROUPS,
        num_generations=GROUP_SIZE,
        max_completion_length=MAX_TOKENS,
        temperature=TEMPERATURE,
        top_p=1.0,
        top_k=0,
        learning_rate=LEARNING_RATE,
        max_steps=updates,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )


if __name__ == "__main__":
    main()

"""A whole job compared with TRL's GRPO trainer, and sampling alone with transformers' `generate`.

    python benchmarks/bench_grpo.py --model DIR --problems SPEC [--updates N]

Sampling: tokens per second of the vLLM engine and of `generate`, and of the engine in float32, for eight completions of
each of eight prompts, all at the same time. Then whole jobs: samples per second of wall time over N updates. Ours makes
more, and the first and last ones do not count: until then it samples ahead, and at the end it samples no more. Prints
one JSON object per system, and the ratios.

All systems use all cores of this machine, and all but one compute in the type that suits it. Both jobs train with GRPO
and its KL term, on the same model and prompts. A sample earns 1 if it passes all tests in the same sandbox, else 0. An
update has groups of eight samples of at most 160 tokens for four problems. TRL samples with transformers' `generate`,
because its vLLM modes need a GPU. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rltf.problems import Problem, load
from rltf.settings import CACHE_DIR, GIB, Dtype, GeneratorSettings, ModelSettings
from rltf.transport.model_folder import end_token_ids

if TYPE_CHECKING:
    from rltf.actors.prompting import Prompter

ROOT = Path(__file__).parent.parent
GROUP_SIZE, NUM_GROUPS = 8, 4
BATCH_SIZE = GROUP_SIZE * NUM_GROUPS
NUM_PROMPTS = 8
MAX_TOKENS, MAX_LENGTH = 160, 640
# As many updates as the samples may be stale, and the one that they wait for.
MARGIN = 3
TEMPERATURE = 0.8
LEARNING_RATE = 1e-5
KL_COEF = 0.04


def main() -> None:
    """Run all systems, one after the other, each in processes of its own."""
    parser = argparse.ArgumentParser(description="Compare with TRL's GRPO trainer and with transformers' generate.")
    parser.add_argument("--model", required=True, help="model folder, GGUF file or Hub id of a chat model")
    parser.add_argument("--problems", required=True, metavar="SPEC")
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        print(PARTS[options.part](options.model, options.problems, options.updates))
        return
    compare("sampling", "tokens_per_s", options, {"generate": in_process, "engine": in_process})
    compare("type", "tokens_per_s", options, {"float32": in_process, "engine": in_process})
    compare("grpo", "samples_per_s", options, {"trl": in_process, "ours": measure_ours})


def compare(
    benchmark: str, unit: str, options: argparse.Namespace, systems: dict[str, Callable[[str, str, int, str], float]]
) -> None:
    """Measure two systems, the second of them ours as it is used, and print their speeds and the ratio."""
    speeds = []
    for system, measure in systems.items():
        load = os.getloadavg()[0]
        speeds.append(measure(options.model, options.problems, options.updates, system))
        row = {"benchmark": benchmark, "system": system, "load_before": round(load, 2)}
        print(json.dumps(row | {unit: round(speeds[-1], 3)}), flush=True)
    print(json.dumps({"benchmark": benchmark, "ratio": round(speeds[1] / speeds[0], 2)}), flush=True)


def in_process(model: str, spec: str, updates: int, part: str) -> float:
    """What a part of this program prints, run in a process of its own."""
    num_threads = str(len(os.sched_getaffinity(0)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": num_threads}
    words = ["--part", part, "--model", model, "--problems", spec, "--updates", str(updates)]
    done = subprocess.run([sys.executable, __file__, *words], env=environment, stdout=subprocess.PIPE, check=True)
    return float(done.stdout.splitlines()[-1])


def measure_ours(model: str, spec: str, updates: int, _: str) -> float:
    """Samples per second of a job that overlaps sampling, grading and updates, in its steady state."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "algorithm": "grpo",
            "run.dir": f"{folder}/run",
            "run.num_steps": MARGIN + updates + MARGIN,
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
            "learner.loss.kl_loss_coef": KL_COEF,
            "cluster.dashboard": "false",
        }
        words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
        command = [sys.executable, "launch.py", "--config", "configs/mbpp_smollm2.yaml", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        rows = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    counted = rows[MARGIN:-MARGIN]
    return float(sum(row["num_samples"] for row in counted) / sum(row["elapsed_s"] for row in counted))


def run_trl(name: str, spec: str, updates: int) -> float:
    """Samples per second of TRL's trainer, in this process. Its first update is not counted."""
    from datasets import Dataset
    from transformers import TrainerCallback

    from rltf.problems.prompts import render_prompt
    from rltf.sandbox.grading import Graders
    from rltf.sandbox.verdict import Isolation, Outcome
    from rltf.settings import SandboxSettings

    trl: Any = importlib.import_module("trl")
    folder, problems, prompter = prepared(name, spec)
    rows = [
        {"prompt": render_prompt(problem, prompter.form, prompter.tokenizer), "task_id": task_id}
        for task_id, problem in problems.items()
    ]
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            ends.append(time.monotonic())

    with Graders(1, SandboxSettings(), Isolation.NAMESPACES) as graders, tempfile.TemporaryDirectory() as output:

        def reward(completions: Sequence[str], task_id: Sequence[str], **_: Any) -> list[float]:
            rewards = []
            for completion, problem_id in zip(completions, task_id, strict=True):
                start, end = prompter.program_span(problem_id, completion)
                verdict = graders.grade(problems[problem_id], completion[start:end], "")
                rewards.append(float(verdict.outcome is Outcome.PASSED))
            return rewards

        trainer = trl.GRPOTrainer(
            str(folder),
            reward,
            _trl_config(trl, output, updates + 1),
            Dataset.from_list(rows),
            callbacks=[Clock()],
        )
        trainer.train()
    return updates * BATCH_SIZE / (ends[-1] - ends[0])


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
        beta=KL_COEF,
        loss_type="grpo",
        max_steps=updates,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )


def run_generate(name: str, spec: str, _: int) -> float:
    """Sampled tokens per second of transformers' `generate`, which gets all prompts as one padded batch."""
    import torch
    from transformers import AutoModelForCausalLM

    folder, problems, prompter = prepared(name, spec)
    dtype = torch.bfloat16 if Dtype.of_this_cpu() is Dtype.BFLOAT16 else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    prompts = [prompter.encode(task_id) for task_id in itertools.islice(problems, NUM_PROMPTS)]
    ends = torch.tensor(end_token_ids(folder, prompter.tokenizer, chat=True))
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    def sample(max_tokens: int) -> int:
        output = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=0,
            top_p=1.0,
            num_return_sequences=GROUP_SIZE,
            max_new_tokens=max_tokens,
            eos_token_id=ends.tolist(),
            pad_token_id=int(ends[0]),
        )
        is_end = torch.isin(output[:, longest:], ends).int()
        return int((is_end.cumsum(-1) - is_end == 0).sum())

    return tokens_per_s(sample)


def run_engine(name: str, spec: str, _: int, dtype: Dtype | None = None) -> float:
    """Sampled tokens per second of the engine that generators have, with log-probabilities."""
    from rltf.actors.engine import SamplingRequest, build_engine
    from rltf.actors.messages import RolloutRequest

    folder, problems, prompter = prepared(name, spec)
    generator = GeneratorSettings(num_gpus=0, max_num_seqs=NUM_PROMPTS * GROUP_SIZE, kv_cache_bytes=GIB)
    model = ModelSettings(name=name, max_model_len=MAX_LENGTH, dtype=dtype or Dtype.of_this_cpu())
    engine = build_engine(folder, model, generator, end_token_ids(folder, prompter.tokenizer, chat=True), seed=0)

    def sample(max_tokens: int) -> int:
        for index, task_id in enumerate(itertools.islice(problems, NUM_PROMPTS)):
            rollout_id = f"{max_tokens}/{index}"
            request = RolloutRequest(rollout_id, task_id, GROUP_SIZE, False, TEMPERATURE, 1.0, max_tokens, index)
            engine.add_request(SamplingRequest(request, prompter.encode(task_id)))
        num_tokens = 0
        while engine.num_unfinished:
            num_tokens += sum(len(sample.token_ids) for done in engine.step() for sample in done.samples)
        return num_tokens

    speed = tokens_per_s(sample)
    engine.close()
    return speed


def prepared(name: str, spec: str) -> tuple[Path, dict[str, Problem], Prompter]:
    """The folder of the model, the problems by task id, and what makes prompts of them."""
    import torch

    from rltf.actors.prompting import Prompter
    from rltf.learner.model_source import model_folder

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    folder = model_folder(name, (), CACHE_DIR, seed=0)
    problems = {problem.task_id: problem for problem in load(spec).problems}
    settings = ModelSettings(name=name, max_model_len=MAX_LENGTH, chat_template="on")
    return folder, problems, Prompter(folder, problems, settings, ())


def tokens_per_s(sample: Callable[[int], int]) -> float:
    """Tokens per second of `sample(max_tokens)`, which returns how many it sampled, after a short warm-up."""
    sample(8)
    began = time.perf_counter()
    return sample(MAX_TOKENS) / (time.perf_counter() - began)


PARTS: dict[str, Callable[[str, str, int], float]] = {
    "trl": run_trl,
    "generate": run_generate,
    "engine": run_engine,
    "float32": partial(run_engine, dtype=Dtype.FLOAT32),
}


if __name__ == "__main__":
    main()

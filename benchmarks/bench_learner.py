"""Compares the speed of a policy update with transformers' Trainer and TRL's GRPO loss step on the same sequences.

    python benchmarks/bench_learner.py [--gpu]

Prints one JSON object per case: prompt and completion tokens per CPU second on one thread, and the peak resident memory
of the process. CPU time does not depend on other load, and a single thread never waits. With `--gpu`, the model has
half a billion parameters, there are more sequences, and both sides compute in bfloat16 with float32 weights. The
results are then tokens per second of wall time, and the peak memory of tensors on the GPU.

`supervised` trains on one reference program per prompt, `grpo` on groups of eight samples per prompt. Lengths are like
those of APPS: prompts around 400 tokens, programs around 150, both with a long tail. The peers are installed from
`benchmarks/requirements-peers.txt`; without them, their cases are skipped.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PEERS = Path(__file__).parent.parent / "runs" / "peers"
GROUP_SIZE = 8
MICRO_BATCH = 8
"""Sequences per forward pass of the peers, which have no limit in tokens."""
NUM_STEPS = 3
"""Measured updates, after one for warm-up."""
TARGET = 1.5
VOCABULARY = 8000
"""Number of different token ids drawn; every model here has more."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The workload for one kind of machine."""

    gpu: bool
    num_groups: int
    shape: dict[str, int]
    """Configuration of a Llama."""
    num_steps: int = NUM_STEPS

    @property
    def num_sequences(self) -> int:
        """Sequences per update."""
        return self.num_groups * GROUP_SIZE

    @property
    def unit(self) -> str:
        """The unit of speed."""
        return "tokens_per_s" if self.gpu else "tokens_per_cpu_s"

    def now(self) -> float:
        """Seconds of this process's CPU time, or of wall time on a GPU."""
        if not self.gpu:
            return time.process_time()
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()

    def peak_bytes(self) -> int:
        """Peak memory of this process: resident memory, or tensors on the GPU."""
        if not self.gpu:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        import torch

        return torch.cuda.max_memory_allocated()


SMALL = Scale(
    gpu=False,
    num_groups=3,
    shape={
        "vocab_size": 8192,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
)
"""4.5 M parameters."""
LARGE = Scale(
    gpu=True,
    num_groups=16,
    shape={
        "vocab_size": 32768,
        "hidden_size": 1280,
        "intermediate_size": 3456,
        "num_hidden_layers": 24,
        "num_attention_heads": 20,
        "num_key_value_heads": 20,
    },
)
"""0.52 B parameters."""

Sequences = list[tuple[np.ndarray[Any, np.dtype[np.int32]], np.ndarray[Any, np.dtype[np.int32]]]]


def draw_sequences(scale: Scale, *, shared_prompts: bool) -> Sequences:
    """Pairs (prompt, completion), either in groups of eight with the same prompt or each with its own."""
    random = np.random.default_rng(0)

    def ids(median: int, low: int, high: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        length = int(np.clip(random.lognormal(np.log(median), 0.5), low, high))
        return random.integers(10, VOCABULARY, length, dtype=np.int32)

    count = scale.num_sequences
    num_prompts = scale.num_groups if shared_prompts else count
    prompts = [ids(400, 100, 800) for _ in range(num_prompts)]
    return [(prompts[i * num_prompts // count], ids(150, 20, 512)) for i in range(count)]


def build_model(folder: Path, scale: Scale) -> None:
    """Write a random Llama with a tokenizer that is loaded but not used."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)
    config: Any = LlamaConfig
    model: Any = LlamaForCausalLM
    model(config(**scale.shape, max_position_embeddings=2048, tie_word_embeddings=True)).save_pretrained(folder)


def measure(scale: Scale, step: Callable[[], object]) -> float:
    """Median seconds of a step, without the first one."""
    step()
    seconds = []
    for _ in range(scale.num_steps):
        start = scale.now()
        step()
        seconds.append(scale.now() - start)
    return statistics.median(seconds)


def our_update(model: Path, scale: Scale, kind: str, **fields: Any) -> tuple[Any, Any]:
    """This project's learner with `fields` of its settings, and the arguments of `prepare_with` for an update."""
    from rltf.learner.data import Experience, TokenSequence
    from rltf.learner.learner import Learner
    from rltf.rewards import Granularity
    from rltf.sandbox.verdict import Outcome
    from rltf.settings import Dtype, LearnerSettings, ModelSettings, OptimSettings, Settings

    defaults: dict[str, Any] = {"micro_batch_tokens": 8192, "row_tokens": 1024}
    settings = LearnerSettings(
        num_gpus=float(scale.gpu), optim=OptimSettings(learning_rate=1e-5), **(defaults | fields)
    )
    dtype = Dtype.BFLOAT16 if scale.gpu else Dtype.FLOAT32
    whole = Settings().model_copy(update={"model": ModelSettings(dtype=dtype), "learner": settings})
    learner = Learner(model, whole)
    sequences = draw_sequences(scale, shared_prompts=kind == "grpo")
    references, experiences = [], []
    for index, (prompt, completion) in enumerate(sequences):
        if kind == "supervised":
            references.append(TokenSequence(prompt, completion))
        else:
            advantages = np.full((len(Granularity), len(completion)), 1.0 if index % 2 else -1.0, np.float32)
            logprobs = np.full(len(completion), -np.log(VOCABULARY), np.float32)
            sample = Experience("t", str(index), prompt, completion, logprobs, advantages, 0, 0.0, Outcome.FAILED)
            experiences.append(sample)
    return learner, (experiences, references)


def run_ours(model: Path, scale: Scale, kind: str) -> float:
    """This project's update, including packing."""
    learner, data = our_update(model, scale, kind)
    return measure(scale, lambda: learner.update(learner.prepare_with(*data)))


def run_trainer(model: Path, scale: Scale) -> float:
    """The loop of `transformers.Trainer` with padded batches, timed from step to step."""
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        TrainerCallback,
        TrainingArguments,
    )

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(scale.now())

    sequences = draw_sequences(scale, shared_prompts=False)
    rows = [
        {"input_ids": [*prompt.tolist(), *ids.tolist()], "labels": [-100] * len(prompt) + ids.tolist()}
        for prompt, ids in sequences
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=not scale.gpu,
            bf16=scale.gpu,
            max_steps=scale.num_steps + 1,
            per_device_train_batch_size=MICRO_BATCH,
            gradient_accumulation_steps=len(rows) // MICRO_BATCH,
            learning_rate=1e-5,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(model)
        trainer_class: Any = importlib.import_module("transformers").Trainer
        trainer_class(
            model=AutoModelForCausalLM.from_pretrained(model),
            args=arguments,
            train_dataset=rows,
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            callbacks=[Clock()],
        ).train()
    return float(np.median(np.diff(marks)))


def run_trl(folder: Path, scale: Scale) -> float:
    """TRL's GRPO loss, gradient and optimizer step, on a batch padded like TRL's generation step does."""
    import torch
    from datasets import Dataset

    trl: Any = importlib.import_module("trl")
    sequences = draw_sequences(scale, shared_prompts=True)
    with tempfile.TemporaryDirectory() as output_dir:
        config = trl.GRPOConfig(
            output_dir=output_dir,
            use_cpu=not scale.gpu,
            bf16=scale.gpu,
            model_init_kwargs={"dtype": "float32"},
            per_device_train_batch_size=MICRO_BATCH,
            gradient_accumulation_steps=len(sequences) // MICRO_BATCH,
            num_generations=GROUP_SIZE,
            max_completion_length=512,
            learning_rate=1e-5,
            gradient_checkpointing=False,
            report_to="none",
        )
        trainer = trl.GRPOTrainer(
            model=str(folder),
            args=config,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            train_dataset=Dataset.from_list([{"prompt": "w2"}] * GROUP_SIZE),
        )
        trainer.create_optimizer()
        model = trainer.accelerator.prepare_model(trainer.model.train())  # makes it compute in bfloat16
        trainer.current_gradient_accumulation_steps = config.gradient_accumulation_steps
        batches = list(_trl_batches(sequences))

        def step() -> None:
            for batch in batches:
                batch = {name: value.to(trainer.accelerator.device) for name, value in batch.items()}
                trainer.accelerator.backward(trainer.compute_loss(model, batch))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()

        return measure(scale, step)


def _trl_batches(sequences: Sequences) -> Sequence[dict[str, Any]]:
    """Shuffled micro-batches, padded to the longest prompt (left) and completion (right) of the batch."""
    import torch

    longest_prompt = max(len(prompt) for prompt, _ in sequences)
    longest = max(len(ids) for _, ids in sequences)
    count = len(sequences)
    rows = {name: torch.zeros(count, longest_prompt, dtype=torch.long) for name in ("prompt_ids", "prompt_mask")}
    rows |= {name: torch.zeros(count, longest, dtype=torch.long) for name in ("completion_ids", "completion_mask")}
    order = np.random.default_rng(1).permutation(count)
    for row, index in enumerate(order):
        prompt, ids = sequences[index]
        rows["prompt_ids"][row, -len(prompt) :] = torch.from_numpy(prompt)
        rows["prompt_mask"][row, -len(prompt) :] = 1
        rows["completion_ids"][row, : len(ids)] = torch.from_numpy(ids)
        rows["completion_mask"][row, : len(ids)] = 1
    rows["advantages"] = torch.from_numpy(np.where(order % 2 == 1, 1.0, -1.0).astype(np.float32))
    rows["old_per_token_logps"] = torch.full((count, longest), -float(np.log(VOCABULARY)))
    num_items = rows["completion_mask"].sum()
    starts = range(0, count, MICRO_BATCH)
    return [
        {name: value[start : start + MICRO_BATCH] for name, value in rows.items()} | {"num_items_in_batch": num_items}
        for start in starts
    ]


CASES: dict[tuple[str, str], Callable[[Path, Scale], float]] = {
    ("supervised", "ours"): lambda model, scale: run_ours(model, scale, "supervised"),
    ("supervised", "transformers Trainer"): run_trainer,
    ("grpo", "ours"): lambda model, scale: run_ours(model, scale, "grpo"),
    ("grpo", "TRL"): run_trl,
}


def run_case(kind: str, system: str, model: Path, scale: Scale) -> None:
    """Measure one case in this process, and print it as JSON."""
    import torch

    torch.set_num_threads(1)
    seconds = CASES[kind, system](model, scale)
    sequences = draw_sequences(scale, shared_prompts=kind == "grpo")
    num_tokens = sum(len(prompt) + len(ids) for prompt, ids in sequences)
    case = {"benchmark": "learner", "case": kind, "system": system, "num_tokens": num_tokens}
    print(json.dumps({**case, scale.unit: round(num_tokens / seconds, 1), "peak_bytes": scale.peak_bytes()}))


def main() -> None:
    """Run each case in its own process, then print the ratio to each peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs=3, metavar=("KIND", "SYSTEM", "MODEL"), help=argparse.SUPPRESS)
    parser.add_argument("--gpu", action="store_true", help="measure on a GPU")
    given = parser.parse_args()
    scale = LARGE if given.gpu else SMALL
    if given.case:
        run_case(given.case[0], given.case[1], Path(given.case[2]), scale)
        return
    have_peers = importlib.util.find_spec("trl") is not None or PEERS.is_dir()
    paths = [str(Path(__file__).parent.parent), str(PEERS), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    results: dict[tuple[str, str], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        build_model(Path(folder), scale)
        for kind, system in CASES:
            if system != "ours" and not have_peers:
                print(json.dumps({"benchmark": "learner", "case": kind, "system": system, "skipped": "peers missing"}))
                continue
            command = [sys.executable, __file__, "--case", kind, system, folder, *["--gpu"] * scale.gpu]
            output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
            results[kind, system] = json.loads(output.splitlines()[-1])
            print(json.dumps(results[kind, system]), flush=True)
    for (kind, system), peer in results.items():
        if system != "ours":
            ours = results[kind, "ours"]
            ratio = ours[scale.unit] / peer[scale.unit]
            memory = ours["peak_bytes"] / peer["peak_bytes"]
            row = {"benchmark": "learner", "case": kind, "against": system, "ratio": round(ratio, 2)}
            print(json.dumps({**row, "memory_ratio": round(memory, 2), "target": TARGET, "met": ratio >= TARGET}))


if __name__ == "__main__":
    main()

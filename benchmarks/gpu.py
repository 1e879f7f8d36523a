"""All that only a GPU shows, in 15 minutes on one H200: speed and memory of updates, where their time goes, the
generator's speed, and the tests that need a GPU.

    PYTHONPATH=. python -m benchmarks.gpu [--output runs/gpu] [--only SECTION ...]
    PYTHONPATH=. python -m benchmarks.gpu --tiny      # the same code on a CPU, with a model that says nothing

Appends a JSON object for each case to `results.jsonl` in the output folder, and writes tables to `results.md` after
each section. Sections run in this order, each with a limit in seconds; a case that fails is a row that says why. If no
command may run for 15 minutes, divide them: `--only updates profile peers` takes at most 8.5 minutes, and `--only
generator tests` 6.

- `updates`: {SDPA, FlexAttention} x {plain, compiled} x rows of {1,024, 4,096} tokens, on reference programs
  (`supervised`) and on groups of eight (`grpo`), with the sequences and the model of `bench_learner`.
- `profile`: the time of an update's kernels by kind, by torch.profiler.
- `peers`: the Trainer of transformers and TRL's GRPO step on the same sequences.
- `generator`: the generator actor beside bare `vllm.LLM` with equal settings; the goal is 0.95.
- `tests`: those of gradients on the GPU and of the engines on it.

MFU is `6 * parameters * tokens / seconds / peak`: forward and backward pass of all matrix products but those of
attention, for the tokens that are not padding, of which a shared prompt counts once. `peak` is that of dense bfloat16
in the maker's data sheet. Speeds are in prompt and completion tokens per second, with shared prompts counted each time,
so that ours and the peers' are of the same work.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import bench_learner
from benchmarks.bench_learner import CASES, LARGE, SMALL, Scale, draw_sequences, measure, our_update

BUDGET_S = 840.0
LIMITS_S = {"updates": 300.0, "profile": 80.0, "peers": 120.0, "generator": 160.0, "tests": 180.0}
GENERATOR_GOAL = 0.95
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}
TINY = replace(
    SMALL,
    num_groups=1,
    num_steps=1,
    shape={
        "vocab_size": 8192,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
)
# Names of kernels on a GPU and of operators on a CPU, by kind. The first kind that fits counts.
KINDS = {
    "attention": ("flash", "fmha", "attention", "flex", "softmax"),
    "optimizer": ("adam", "multi_tensor", "foreach"),
    "copies": ("memcpy", "memset", "aten::copy_"),
    "matrix products": ("gemm", "cutlass", "nvjet", "cublas", "::mm", "::addmm", "::bmm"),
}
GPU_TESTS = ("tests/actors/test_gpu_engines.py", "tests/learner/test_gpu_update.py")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Update:
    """A way to compute an update."""

    attention: str
    compiled: bool
    row_tokens: int

    @property
    def fields(self) -> dict[str, Any]:
        """Its settings of the learner."""
        return {
            "attn_implementation": self.attention,
            "torch_compile": self.compiled,
            "row_tokens": self.row_tokens,
        }


UPDATES = [
    Update(attention, compiled, row_tokens)
    for row_tokens in (1024, 4096)
    for compiled in (False, True)
    for attention in ("sdpa", "flex_attention")
]
PROFILED = [UPDATES[0], UPDATES[1], UPDATES[-1]]


def updates(model: Path, scale: Scale, index: int) -> Iterator[Row]:
    """Speed, MFU and memory of `UPDATES[index]`, on both kinds of sequences."""
    way = UPDATES[index]
    for kind in ("supervised", "grpo"):
        row = {"section": "updates", "case": kind, **way.fields}
        if not scale.gpu and way.attention == "flex_attention":
            yield row | {"skipped": "FlexAttention has no backward pass on a CPU"}
        else:
            yield row | _measured(model, scale, way, kind)


def _measured(model: Path, scale: Scale, way: Update, kind: str) -> Row:
    """The numbers of a row. `held_bytes` is what an earlier learner has left on the GPU; it should be next to none."""
    held_bytes = _forget_peak(scale)
    learner, data = our_update(model, scale, kind, **way.fields)
    prepared = learner.prepare_with(*data)
    seconds = measure(scale, lambda: learner.update(learner.prepare_with(*data)))
    num_parameters = sum(value.numel() for value in learner.policy.model.parameters())
    num_real = sum(int((batch.tree >= 0).sum()) for batch in prepared.batches)
    num_computed = sum(batch.num_tokens for batch in prepared.batches)
    mfu = _mfu(6 * num_parameters * num_real / seconds)
    padding = round(1 - num_real / num_computed, 3)
    return _speed(scale, kind, seconds) | {"held_bytes": held_bytes, "mfu": mfu, "padding": padding}


def profiled(model: Path, scale: Scale, index: int) -> Iterator[Row]:
    """Seconds of an update by kind of kernel, after one that is not measured."""
    way = PROFILED[index]
    row = {"section": "profile", "case": "grpo", **way.fields}
    if not scale.gpu and way.attention == "flex_attention":
        yield row | {"skipped": "FlexAttention has no backward pass on a CPU"}
        return
    learner, data = our_update(model, scale, "grpo", **way.fields)
    learner.update(learner.prepare_with(*data))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if scale.gpu else [])]
    with profile(activities=activities) as profiler:
        began = scale.now()
        learner.update(learner.prepare_with(*data))
        seconds = scale.now() - began
    spent: Counter[str] = Counter()
    num_kernels = 0
    for event in profiler.key_averages():
        if event.device_type.name == ("CUDA" if scale.gpu else "CPU"):
            spent[kind_of(event.key)] += event.self_device_time_total if scale.gpu else event.self_cpu_time_total
            num_kernels += event.count
    split = {name: round(microseconds / 1e6, 4) for name, microseconds in spent.most_common()}
    yield row | {"seconds": round(seconds, 4), "num_kernels": num_kernels, "split_s": split}


def kind_of(kernel: str) -> str:
    """The kind of a kernel or operator, by its name."""
    lower = kernel.lower()
    return next((kind for kind, words in KINDS.items() if any(word in lower for word in words)), "elementwise and rest")


def peers(model: Path, scale: Scale, index: int) -> Iterator[Row]:
    """Speed and memory of a peer."""
    kind, system = [case for case in CASES if case[1] != "ours"][index]
    row = {"section": "peers", "case": kind, "system": system}
    if system == "TRL" and importlib.util.find_spec("trl") is None:
        yield row | {"skipped": "trl is not installed"}
        return
    _forget_peak(scale)
    yield row | _speed(scale, kind, CASES[kind, system](model, scale))


def _speed(scale: Scale, kind: str, seconds: float) -> Row:
    sequences = draw_sequences(scale, shared_prompts=kind == "grpo")
    num_tokens = sum(len(prompt) + len(ids) for prompt, ids in sequences)
    return {scale.unit: round(num_tokens / seconds, 1), "peak_bytes": scale.peak_bytes()}


def _forget_peak(scale: Scale) -> int:
    """Start to measure the peak of memory anew, and return what is in use on the GPU now."""
    gc.collect()
    if not scale.gpu:
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _mfu(flops: float) -> float | None:
    """The share of this GPU's peak, or None if that is not known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = next((peak for model, peak in PEAK_FLOPS.items() if model in name), None)
    return None if peak is None else round(flops / peak, 4)


IN_PROCESS: dict[str, tuple[Callable[[Path, Scale, int], Iterator[Row]], int]] = {
    "updates": (updates, len(UPDATES)),
    "profile": (profiled, len(PROFILED)),
    "peers": (peers, sum(system != "ours" for _, system in CASES)),
}


def generator(timeout_s: float) -> Iterator[Row]:
    """The generator's speed divided by that of bare vLLM with its leanest output."""
    command = [sys.executable, "-m", "benchmarks.bench_generator", "--gpu", "--only", "throughput", "--repeats", "3"]
    for found in _rows(command, timeout_s):
        ratio = found.get("ratio")
        yield {
            "section": "generator",
            **found,
            "goal": GENERATOR_GOAL,
            "met": ratio is not None and ratio >= GENERATOR_GOAL,
        }


def gpu_tests(timeout_s: float) -> Iterator[Row]:
    """The result of each file of tests."""
    began = time.monotonic()
    for name in GPU_TESTS:
        left = timeout_s - (time.monotonic() - began)
        command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-rf", name]
        try:
            done = subprocess.run(command, timeout=max(1.0, left), capture_output=True, text=True, check=False)
            result = done.stdout.strip().splitlines()[-1:]
        except subprocess.TimeoutExpired:
            result = [f"did not end within {left:.0f} s"]
        yield {"section": "tests", "case": name, "result": " ".join(result)}


def _rows(command: Sequence[str], timeout_s: float) -> Iterator[Row]:
    """The JSON objects that `command` prints; if it fails, also one that says why."""
    try:
        done = subprocess.run(command, timeout=max(1.0, timeout_s), capture_output=True, text=True, check=False)
        output, failed = done.stdout, done.stderr.strip().splitlines()[-1:] if done.returncode else []
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        failed = [f"did not end within {timeout_s:.0f} s"]
    yield from (json.loads(line) for line in output.splitlines() if line.startswith("{"))
    yield from ({"failed": reason} for reason in failed)


def section_rows(name: str, model: Path, scale: Scale, timeout_s: float) -> Iterator[Row]:
    """The rows of a section. On a GPU, each case has a process of its own, and so a peak of memory of its own."""
    if name not in IN_PROCESS:
        yield from (generator if name == "generator" else gpu_tests)(timeout_s)
        return
    function, count = IN_PROCESS[name]
    end = time.monotonic() + timeout_s
    for index in range(count):
        if not scale.gpu:
            yield from function(model, scale, index)
            continue
        command = [sys.executable, "-m", "benchmarks.gpu", "--case", name, str(index), str(model)]
        for row in _rows(command, end - time.monotonic()):
            yield {"section": name, "case": str(index), **row}


def table(rows: Sequence[Row]) -> str:
    """The rows of each section as a Markdown table."""
    parts = []
    for section in dict.fromkeys(row["section"] for row in rows):
        chosen = [{**row, **row.get("split_s", {})} for row in rows if row["section"] == section]
        columns = [c for c in dict.fromkeys(key for row in chosen for key in row) if c not in ("section", "split_s")]
        lines = [f"## {section}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [f"| {' | '.join(_cell(row.get(column)) for column in columns)} |" for row in chosen]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


def main() -> None:
    """Run the sections, or one case in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="run on a CPU, without the generator and the tests")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="folder of the results")
    parser.add_argument("--only", nargs="+", choices=LIMITS_S, help="sections to run")
    parser.add_argument("--case", nargs=3, metavar=("SECTION", "INDEX", "MODEL"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    scale = TINY if given.tiny else LARGE
    if given.case:
        section, index, model = given.case
        for row in IN_PROCESS[section][0](Path(model), scale, int(index)):
            print(json.dumps(row), flush=True)
        return
    if scale.gpu and not torch.cuda.is_available():
        parser.error("there is no GPU here; --tiny runs on a CPU")
    if given.tiny:
        torch.compiler.set_stance("force_eager")  # building kernels takes minutes
    end = time.monotonic() + BUDGET_S
    given.output.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, (given.output / "results.jsonl").open("a") as results:
        bench_learner.build_model(Path(folder), scale)
        for section in given.only or (IN_PROCESS if given.tiny else LIMITS_S):
            for row in section_rows(section, Path(folder), scale, min(LIMITS_S[section], end - time.monotonic())):
                print(json.dumps(row), flush=True)
                results.write(json.dumps(row) + "\n")
                results.flush()
                rows.append(row)
            (given.output / "results.md").write_text(table(rows))


if __name__ == "__main__":
    main()

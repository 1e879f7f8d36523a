"""Measures how vLLM's packing of weights for oneDNN slows weight updates and speeds up sampling on a CPU.

    PYTHONPATH=. python benchmarks/bench_packing.py [--updates N]

Prints one JSON object with packing and one without, for a Llama of 100 M float32 parameters on one thread, each in its
own process. `update_ratio` is the time of `load_weights` from memory divided by that of copying the same bytes once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NUM_PROMPTS = 4
NUM_SAMPLES = 8
MAX_TOKENS = 60


def main() -> int:
    """Measure both cases, or in a child process the given one."""
    parser = argparse.ArgumentParser(description="Measure the packing of weights.")
    parser.add_argument("--updates", type=int, default=7)
    parser.add_argument("--packs", choices=("yes", "no"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.packs is not None:
        print(json.dumps(measure(options.updates, packs=options.packs == "yes")))
        return 0
    for packs in ("yes", "no"):
        command = [sys.executable, __file__, "--updates", str(options.updates), "--packs", packs]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    return 0


def measure(num_updates: int, *, packs: bool) -> dict[str, object]:
    """Tokens per second of sampling and seconds per update, as medians without the first."""
    import torch
    import vllm._custom_ops as custom_ops
    from transformers import AutoModelForCausalLM

    from benchmarks.bench_generator import ON_CPU, build_model
    from rltf.actors.engine import EngineOptions, SamplingRequest
    from rltf.actors.messages import RolloutRequest
    from rltf.actors.vllm_engine import VllmEngine
    from rltf.settings import MIB

    torch.set_num_threads(1)
    custom_ops._supports_onednn = custom_ops._supports_onednn and packs
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(Path(folder), **ON_CPU.large)
        engine = VllmEngine(model, EngineOptions(ON_CPU.model, ON_CPU.generator(256 * MIB, max_num_seqs=64), (256,)))
        policy = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    copies = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    rates, ratios, seconds = [], [], []
    for version in range(1, num_updates + 2):
        began = time.perf_counter()
        for name, parameter in policy.named_parameters():
            copies[name].copy_(parameter.detach())
        copied = time.perf_counter()
        engine.load_weights(version, list(copies.items()))
        seconds.append(time.perf_counter() - copied)
        ratios.append(seconds[-1] / (copied - began))
    for repeat in range(3):
        began, num_tokens = time.perf_counter(), 0
        for index in range(NUM_PROMPTS):
            request = RolloutRequest(f"{repeat}-{index}", "", NUM_SAMPLES, False, 1.0, 1.0, MAX_TOKENS)
            engine.add_request(SamplingRequest(request, list(range(60))))
        while engine.num_unfinished:
            num_tokens += sum(len(sample.token_ids) for done in engine.step() for sample in done.samples)
        rates.append(num_tokens / (time.perf_counter() - began))
    engine.close()
    return {
        "benchmark": "packing",
        "packs": packs,
        "tokens_per_s": round(statistics.median(rates[1:])),
        "update_s": round(statistics.median(seconds[1:]), 3),
        "update_ratio": round(statistics.median(ratios[1:]), 2),
    }


if __name__ == "__main__":
    sys.exit(main())

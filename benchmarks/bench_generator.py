"""The generator actor's throughput beside bare vLLM's, and a weight update beside copying the same bytes once.

    PYTHONPATH=. python benchmarks/bench_generator.py [--repeats N] [--only throughput|update|transformers]

Prints one JSON object for each case; `ratio` is the figure to compare between machines. Everything runs on CPU, one
thread an engine, models randomly initialised. Throughput: the same prompts through the actor, rollouts with text and
spans in the object store included, and through `vllm.LLM.generate`, once with vLLM's own defaults and once with the
cheapest output that has log-probabilities (no text, flat; `ratio` is over this one). Update: from `update_weights` to
its reply, and the part of it in which sampling stands still, against `torch.Tensor.copy_` of all parameters.
Transformers: the engine for what vLLM does not run, without the actor around it, against transformers' `generate`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from actors.generator import Generator, actor_options
from actors.keeper import start_keeper
from actors.messages import RolloutHandle, RolloutRequest
from actors.weights import publish
from benchmarks.engine_cases import transformers_engine
from problems.types import Problem, StdinTest
from settings import GIB, MIB, GeneratorSettings, ModelSettings

NUM_PROBLEMS = 64
NUM_SAMPLES = 8
MAX_TOKENS = 60
WAIT_S = 600.0
MODEL = ModelSettings(dtype="float32", max_length=512)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases asked for."""
    parser = argparse.ArgumentParser(description="Generator throughput and weight updates.")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each case (default: 3)")
    parser.add_argument("--only", choices=("throughput", "update", "transformers"))
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=2 * GIB, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        for name, case in (("throughput", throughput), ("update", update)):
            if options.only in (None, name):
                print(json.dumps({"case": name} | case(Path(folder), options.repeats)))
        ray.shutdown()
        if options.only in (None, "transformers"):
            for kind in ("decoder_only", "encoder_decoder"):
                result = transformers_engine(Path(folder) / kind, options.repeats, kind == "encoder_decoder")
                print(json.dumps({"case": f"transformers_{kind}"} | result))
    return 0


def throughput(folder: Path, repeats: int) -> dict[str, Any]:
    """Tokens a second of the actor and of bare vLLM, one after the other, `repeats` times after a warm-up."""
    model = build_model(folder / "small", hidden_size=128, intermediate_size=384, num_layers=4)
    settings = GeneratorSettings(num_gpus=0, kv_cache_bytes=512 * MIB)
    problems = {str(i): Problem(str(i), "starter", _statement(i), (StdinTest("", ""),)) for i in range(NUM_PROBLEMS)}
    bare_class: Any = ray.remote(BareVllm).options(num_cpus=1)
    bare = bare_class.remote(model, settings, list(problems.values()))
    actor = _start(model, settings, problems)
    rows = []
    for repeat in range(repeats + 1):
        ours = _sample(actor, problems, repeat)
        lean, plain = (ray.get(bare.sample.remote(lean=lean), timeout=WAIT_S) for lean in (True, False))
        rows.append((ours, lean, plain))
    medians = [statistics.median(column) for column in zip(*rows[1:], strict=True)]
    return {
        "tokens_per_s": round(medians[0]),
        "lean_vllm_tokens_per_s": round(medians[1]),
        "default_vllm_tokens_per_s": round(medians[2]),
        "ratio": round(statistics.median(ours / lean for ours, lean, _ in rows[1:]), 3),
    }


def update(folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds of a weight update of 100 M float32 parameters, and of one copy of as many bytes.

    `pack_s` is what vLLM's packing of weight matrices for oneDNN takes by itself, which every update ends with on CPU.
    """
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # as in the generator

    model = build_model(folder / "large", hidden_size=768, intermediate_size=3072, num_layers=10, vocab_size=8192)
    actor = _start(model, GeneratorSettings(num_gpus=0, max_num_seqs=8, kv_cache_bytes=64 * MIB), {})
    policy = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    copy = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    rows = []
    for version in range(1, repeats + 2):
        began = time.perf_counter()
        for name, parameter in policy.named_parameters():
            copy[name].copy_(parameter.detach())
        copied = time.perf_counter()
        weights = publish(version, policy.named_parameters())
        published = time.perf_counter()
        reply = ray.get(actor.update_weights.remote(weights), timeout=WAIT_S)
        replied = time.perf_counter()
        pack_s = _packing_s(list(copy.values()))
        rows.append((copied - began, published - copied, replied - published, reply.seconds, pack_s))
    medians = [round(statistics.median(column), 3) for column in zip(*rows[1:], strict=True)]
    return {
        "num_bytes": weights.num_bytes,
        **dict(zip(("copy_s", "publish_s", "update_s", "standstill_s", "pack_s"), medians, strict=True)),
        "ratio": round(statistics.median(row[2] / row[0] for row in rows[1:]), 2),
        "pack_ratio": round(statistics.median(row[4] / row[0] for row in rows[1:]), 2),
    }


def _packing_s(parameters: Sequence[torch.Tensor]) -> float:
    from vllm import _custom_ops

    matrices = [parameter for parameter in parameters if parameter.ndim == 2]
    began = time.perf_counter()
    for matrix in matrices:
        _custom_ops.create_onednn_mm(matrix.t(), 32)
    return time.perf_counter() - began


class BareVllm:
    """The same engine settings and prompts without anything of ours."""

    def __init__(self, model: Path, settings: GeneratorSettings, problems: Sequence[Problem]) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
        from vllm import LLM

        self._engine = LLM(
            model=str(model),
            dtype=MODEL.dtype,
            max_model_len=MODEL.max_length,
            max_num_seqs=settings.max_num_seqs,
            kv_cache_memory_bytes=settings.kv_cache_bytes,
            enforce_eager=True,
        )
        self._prompts = [problem.statement + "\n" for problem in problems]

    def sample(self, *, lean: bool) -> float:
        """Tokens a second over all prompts; `lean` leaves out the text and objects for each token."""
        from vllm import SamplingParams

        params = SamplingParams(
            n=NUM_SAMPLES, max_tokens=MAX_TOKENS, logprobs=0, detokenize=not lean, flat_logprobs=lean
        )
        began = time.perf_counter()
        outputs = self._engine.generate(self._prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - began
        return sum(len(sample.token_ids) for output in outputs for sample in output.outputs) / seconds


def build_model(
    folder: Path, *, hidden_size: int, intermediate_size: int, num_layers: int, vocab_size: int = 320
) -> Path:
    """A random Llama with a byte-level tokenizer, whose ids are the first 257 of `vocab_size`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")  # type: ignore[no-untyped-call]
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 32,
        num_key_value_heads=hidden_size // 32,
        head_dim=32,
        max_position_embeddings=MODEL.max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    fast.save_pretrained(folder)
    return folder


def _start(model: Path, settings: GeneratorSettings, problems: dict[str, Problem]) -> Any:
    name = f"generator-{model.name}"
    actor_class: Any = ray.remote(Generator).options(**actor_options(name, settings))
    actor = actor_class.remote(name, model, MODEL, settings, ray.put(problems), start_keeper())
    ray.get(actor.ping.remote(), timeout=WAIT_S)
    return actor


def _sample(actor: Any, problems: dict[str, Problem], repeat: int) -> float:
    """Tokens a second from the first request to the last handle."""
    requests = [
        RolloutRequest(f"{repeat}/{task_id}", task_id, NUM_SAMPLES, False, 1.0, 1.0, MAX_TOKENS) for task_id in problems
    ]
    began = time.perf_counter()
    ray.get(actor.submit.remote(requests), timeout=WAIT_S)
    handles: list[RolloutHandle] = []
    while len(handles) < len(requests):
        handles += ray.get(actor.take.remote(WAIT_S), timeout=WAIT_S)
    return sum(handle.num_tokens for handle in handles) / (time.perf_counter() - began)


def _statement(index: int) -> str:
    return f"Write a function that takes a list and keeps the multiples of {index}"


if __name__ == "__main__":
    sys.exit(main())

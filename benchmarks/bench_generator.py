"""The generator actor's throughput compared with bare vLLM's, and a weight update compared with a copy of its bytes.

    PYTHONPATH=. python benchmarks/bench_generator.py [--gpu] [--repeats N] [--only throughput|update|core|transformers]

Prints one JSON object per case. `ratio` is the figure to compare between machines. Models are randomly initialized.
Everything runs on a CPU in float32 with one thread per engine, or with `--gpu` on one GPU in bfloat16.

Throughput: the same prompts through the actor, including rollouts with text and spans in the object store, and through
`vllm.LLM.generate`, once with vLLM's defaults and once with the cheapest output that has log-probabilities (no text,
flat). `ratio` compares with the latter.

Update: from `update_weights` to its reply, and the part of it in which sampling is paused, compared with one thread's
`torch.Tensor.copy_` of all parameters in host memory. With `--gpu`, for weights from the object store and by CUDA IPC.

Core: vLLM with its core in a process of its own, as generators have it on a GPU, compared with all of it in one
process, as on a CPU. Without the actor.

Transformers: the engine for models that vLLM does not support, without the actor, compared with transformers'
`generate`. Only on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
import torch
from ray.actor import ActorProxy

from benchmarks.engine_cases import core_process, transformers_engine
from rltf.actors.generator import Generator, actor_options
from rltf.actors.messages import RolloutHandle, RolloutRequest
from rltf.problems.types import Problem, StdinTest
from rltf.settings import GIB, MIB, GeneratorSettings, ModelSettings, Settings
from rltf.transport.rollouts import start_rollout_store
from rltf.transport.weights import WeightsHandle, publish

NUM_PROBLEMS = 64
NUM_SAMPLES = 8
WAIT_S = 600.0
VOCABULARY = 8192
MAX_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Scale:
    """What is measured on a kind of machine. Each of two processes gets `num_gpus`."""

    num_gpus: float
    dtype: Literal["float32", "bfloat16"]
    max_tokens: int
    small: dict[str, int]
    large: dict[str, int]

    @property
    def model(self) -> ModelSettings:
        """The settings of every model here."""
        return ModelSettings(dtype=self.dtype, max_model_len=MAX_LENGTH)

    def generator(self, kv_cache_bytes: int, **fields: Any) -> GeneratorSettings:
        """The settings of one generator."""
        return GeneratorSettings(num_gpus=self.num_gpus, kv_cache_bytes=kv_cache_bytes, **fields)


LARGE = {"hidden_size": 768, "intermediate_size": 3072, "num_layers": 10, "head_dim": 32, "vocab_size": VOCABULARY}
"""100 M parameters."""
ON_CPU = Scale(
    num_gpus=0.0,
    dtype="float32",
    max_tokens=60,
    small={"hidden_size": 128, "intermediate_size": 384, "num_layers": 4, "head_dim": 32, "vocab_size": 320},
    large=LARGE,
)
ON_GPU = Scale(
    num_gpus=0.3,
    dtype="bfloat16",
    max_tokens=256,
    small={"hidden_size": 1536, "intermediate_size": 6144, "num_layers": 24, "head_dim": 64, "vocab_size": VOCABULARY},
    large=LARGE | {"head_dim": 64},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the selected cases."""
    parser = argparse.ArgumentParser(description="Generator throughput and weight updates.")
    parser.add_argument("--gpu", action="store_true", help="measure on a GPU")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each case (default: 3)")
    parser.add_argument("--only", choices=("throughput", "update", "core", "transformers"))
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    scale = ON_GPU if options.gpu else ON_CPU
    if options.only not in ("core", "transformers"):
        ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=2 * GIB, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        if options.only in (None, "throughput"):
            print(json.dumps({"case": "throughput"} | throughput(Path(folder), options.repeats, scale)), flush=True)
        if options.only in (None, "update"):
            for way in ("object_store", "ipc") if options.gpu else ("object_store",):
                result = update(Path(folder) / way, options.repeats, scale, way)
                print(json.dumps({"case": "update", "weight_transfer": way} | result), flush=True)
        ray.shutdown()
        if options.only in (None, "core"):
            print(json.dumps({"case": "core"} | core(Path(folder) / "core", options.repeats, scale)), flush=True)
        if options.only in (None, "transformers") and not options.gpu:
            for kind in ("decoder_only", "encoder_decoder"):
                result = transformers_engine(Path(folder) / kind, options.repeats, kind == "encoder_decoder")
                print(json.dumps({"case": f"transformers_{kind}"} | result))
    return 0


def throughput(folder: Path, repeats: int, scale: Scale) -> dict[str, Any]:
    """Tokens per second of the actor and of bare vLLM, in turns, `repeats` times after a warm-up."""
    model = build_model(folder / "small", **scale.small)
    settings = scale.generator(kv_cache_bytes=512 * MIB if not scale.num_gpus else 8 * GIB)
    problems = {str(i): Problem(str(i), "starter", _statement(i), (StdinTest("", ""),)) for i in range(NUM_PROBLEMS)}
    bare_class: Any = ray.remote(BareVllm).options(num_cpus=1, num_gpus=scale.num_gpus)
    bare = bare_class.remote(model, scale, settings, list(problems.values()))
    actor = _start(model, scale, settings, problems)
    rows = []
    for repeat in range(repeats + 1):
        ours = _sample(actor, problems, repeat, scale.max_tokens)
        lean, plain = (ray.get(bare.sample.remote(lean=lean), timeout=WAIT_S) for lean in (True, False))
        rows.append((ours, lean, plain))
    _kill(bare, actor)
    medians = [statistics.median(column) for column in zip(*rows[1:], strict=True)]
    return {
        "tokens_per_s": round(medians[0]),
        "lean_vllm_tokens_per_s": round(medians[1]),
        "default_vllm_tokens_per_s": round(medians[2]),
        "ratio": round(statistics.median(ours / lean for ours, lean, _ in rows[1:]), 3),
    }


def update(folder: Path, repeats: int, scale: Scale, weight_transfer: str) -> dict[str, Any]:
    """Seconds of a weight update of 100 M parameters, and of one copy of as many bytes.

    `pack_s` is the time vLLM takes to pack weight matrices for oneDNN, with which every update on a CPU ends.
    """
    model = build_model(folder, **scale.large)
    settings = scale.generator(kv_cache_bytes=64 * MIB, max_num_seqs=8, weight_transfer=weight_transfer)
    actor = _start(model, scale, settings, {})
    publisher_class: Any = ray.remote(Publisher).options(num_cpus=1, num_gpus=scale.num_gpus, max_concurrency=2)
    publisher = publisher_class.remote(model, scale, weight_transfer)
    rows, paused_before_s = [], 0.0
    for version in range(1, repeats + 2):
        copy_s, pack_s = ray.get(publisher.yardsticks.remote(), timeout=WAIT_S)
        began = time.perf_counter()
        weights = ray.get(publisher.publish.remote(version), timeout=WAIT_S)
        published = time.perf_counter()
        ray.get(actor.update_weights.remote(weights), timeout=WAIT_S)
        replied = time.perf_counter()
        paused_s = ray.get(actor.stats.remote(), timeout=WAIT_S).updating_s
        rows.append((copy_s, published - began, replied - published, paused_s - paused_before_s, pack_s))
        paused_before_s = paused_s
    _kill(publisher, actor)
    medians = [round(statistics.median(column), 4) for column in zip(*rows[1:], strict=True)]
    return {
        "num_bytes": weights.num_bytes,
        **dict(zip(("copy_s", "publish_s", "update_s", "standstill_s", "pack_s"), medians, strict=True)),
        "ratio": round(statistics.median(row[2] / row[0] for row in rows[1:]), 2),
        "pack_ratio": round(statistics.median(row[4] / row[0] for row in rows[1:]), 2),
    }


def core(folder: Path, repeats: int, scale: Scale) -> dict[str, Any]:
    """Tokens per second of vLLM with and without a core process; see `benchmarks.engine_cases.core_process`."""
    model = build_model(folder, **scale.small | {"vocab_size": VOCABULARY})
    settings = scale.generator(kv_cache_bytes=512 * MIB if not scale.num_gpus else 8 * GIB)
    return core_process(model, repeats, scale.model, settings, NUM_PROBLEMS)


class Publisher:
    """The policy, in a process of its own, like the learner."""

    def __init__(self, model: Path, scale: Scale, weight_transfer: str) -> None:
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)  # as in the generator
        load: Any = AutoModelForCausalLM.from_pretrained
        self._host = load(model, dtype=scale.dtype)
        self._policy = load(model, dtype=scale.dtype).to("cuda") if scale.num_gpus else self._host
        self._publish: Callable[..., WeightsHandle] = publish
        if weight_transfer != "object_store":
            from rltf.transport.transfer import WeightSender, init_info

            self._sender = WeightSender(lambda: init_info(weight_transfer))
            self._publish = self._sender.publish
        self._copy = [parameter.detach().clone() for parameter in self._host.parameters()]

    def yardsticks(self) -> tuple[float, float]:
        """Seconds of one copy of all parameters in host memory, and of packing them for oneDNN (0 on a GPU)."""
        began = time.perf_counter()
        for copy, parameter in zip(self._copy, self._host.parameters(), strict=True):
            copy.copy_(parameter.detach())
        copied = time.perf_counter() - began
        return copied, 0.0 if self._policy is not self._host else _packing_s(self._copy)

    def publish(self, version: int) -> WeightsHandle:
        """The policy's weights as `version`."""
        return self._publish(version, self._policy.named_parameters())

    def send(self, generator: Any, name: str) -> int:
        """See `transport.transfer.WeightSender.send`."""
        return self._sender.send(generator, name)


def _packing_s(parameters: Sequence[torch.Tensor]) -> float:
    from vllm import _custom_ops

    matrices = [parameter for parameter in parameters if parameter.ndim == 2]
    began = time.perf_counter()
    for matrix in matrices:
        _custom_ops.create_onednn_mm(matrix.t(), 32)
    return time.perf_counter() - began


class BareVllm:
    """The same engine settings and prompts with vLLM alone."""

    def __init__(self, model: Path, scale: Scale, settings: GeneratorSettings, problems: Sequence[Problem]) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(scale.num_gpus > 0))  # as the generator
        os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
        if not scale.num_gpus:
            os.environ["TORCH_COMPILE_DISABLE"] = "1"
        from vllm import LLM

        from rltf.actors.vllm_engine import CPU_BATCHED_TOKENS, GPU_FREE_SHARE

        self._engine = LLM(
            model=str(model),
            dtype=scale.model.dtype,
            max_model_len=scale.model.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            kv_cache_memory_bytes=settings.kv_cache_bytes,
            gpu_memory_utilization=GPU_FREE_SHARE,
            enforce_eager=not scale.num_gpus,
            # As the generator's; on a GPU, both have vLLM's default.
            max_num_batched_tokens=None if scale.num_gpus else CPU_BATCHED_TOKENS,
        )
        self._max_tokens = scale.max_tokens
        self._prompts = [problem.statement + "\n" for problem in problems]

    def sample(self, *, lean: bool) -> float:
        """Tokens per second over all prompts. `lean` leaves out the text and the objects for each token."""
        from vllm import SamplingParams

        params = SamplingParams(
            n=NUM_SAMPLES, max_tokens=self._max_tokens, logprobs=0, detokenize=not lean, flat_logprobs=lean
        )
        began = time.perf_counter()
        outputs = self._engine.generate(self._prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - began
        return sum(len(sample.token_ids) for output in outputs for sample in output.outputs) / seconds


def build_model(
    folder: Path, *, hidden_size: int, intermediate_size: int, num_layers: int, head_dim: int, vocab_size: int
) -> Path:
    """A random Llama with a byte-level tokenizer, which uses the first 257 ids of `vocab_size`."""
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
        num_attention_heads=hidden_size // head_dim,
        num_key_value_heads=hidden_size // head_dim,
        head_dim=head_dim,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    fast.save_pretrained(folder)
    return folder


def _start(
    model: Path, scale: Scale, settings: GeneratorSettings, problems: dict[str, Problem]
) -> ActorProxy[Generator]:
    name = f"generator-{model.name}"
    actor_class = ray.remote(Generator).options(**actor_options(name, settings))
    whole = Settings().model_copy(update={"model": scale.model, "generator": settings})
    actor = actor_class.remote(name, model, whole, ray.put(problems), start_rollout_store())
    ray.get(actor.ping.remote(), timeout=WAIT_S)
    return actor


def _sample(actor: ActorProxy[Generator], problems: dict[str, Problem], repeat: int, max_tokens: int) -> float:
    """Tokens per second from the first request to the last handle."""
    requests = [
        RolloutRequest(f"{repeat}/{task_id}", task_id, NUM_SAMPLES, False, 1.0, 1.0, max_tokens) for task_id in problems
    ]
    began = time.perf_counter()
    ray.get(actor.submit.remote(requests), timeout=WAIT_S)
    handles: list[RolloutHandle] = []
    while len(handles) < len(requests):
        finished = ray.get(actor.take.remote(WAIT_S), timeout=WAIT_S)
        handles += finished
    seconds = time.perf_counter() - began
    rollouts = ray.get([handle.refs[0] for handle in handles], timeout=WAIT_S)
    return sum(len(completion.token_ids) for rollout in rollouts for completion in rollout.completions) / seconds


def _kill(*actors: Any) -> None:
    for actor in actors:
        ray.kill(actor)


def _statement(index: int) -> str:
    return f"Write a function that takes a list and keeps the multiples of {index}"


if __name__ == "__main__":
    sys.exit(main())

"""vLLM in this process, on CPU or GPU, driven one step at a time.

Weights arrive through vLLM's weight-transfer interface (`actors.vllm_weights`).

With `logprobs_mode` `processed_logprobs`, log-probabilities are those the tokens were drawn with, after temperature and
nucleus. vLLM's default, `raw_logprobs`, ignores the temperature.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rltf.errors import UserError

# Read when vLLM is imported or its engine is built. The core runs in this process, quietly, and sends no statistics.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import numpy as np
import torch

if not torch.cuda.is_available():
    # Otherwise vLLM's sampler compiles small functions at the first batch. That takes seconds and a C++ compiler, and
    # gains nothing here. (TORCH_COMPILE_DISABLE would be too late: other imports have loaded torch's compiler by now.)
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

from vllm import SamplingParams
from vllm.config import WeightTransferConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.outputs import CompletionOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.llm_engine import LLMEngine

from rltf.actors.engine import EngineOptions, FinishedRequest, SampledSequence, SamplingEngine, SamplingRequest
from rltf.actors.messages import RolloutRequest
from rltf.actors.vllm_weights import BACKENDS
from rltf.transport.model_folder import check_model_folder
from rltf.transport.rollouts import FinishReason, VersionSpan
from rltf.transport.weight_receiver import TransferPhase

# vLLM's CPU attention works on multiples of 32 tokens. Small blocks let short prompts share their prefix.
CPU_BLOCK_SIZE = 32
CPU_BATCHED_TOKENS = 2048
# The share of a GPU that must be free for vLLM to start, by default nearly all of it, although the learner may already
# hold a part of the card. It has no other effect here, since `kv_cache_bytes` is given.
GPU_FREE_SHARE = 0.01

_SAMPLES, _GREEDY = "sample", "greedy"


class VllmEngine(SamplingEngine):
    """An in-process `LLMEngine`. Samples and greedy decode of a request are two requests there."""

    def __init__(self, model: Path, options: EngineOptions) -> None:
        """Load `model`, a Hugging Face folder, as weights version 0. Raises UserError if vLLM cannot."""
        config = check_model_folder(model)
        self._options = options
        try:
            # This context decides how many tokens vLLM puts into one step: on a GPU 8,192 or 16,384, as for
            # `vllm.LLM`. Without one, it is 2,048.
            self._engine = LLMEngine.from_engine_args(_engine_args(model, options), UsageContext.LLM_CLASS)
        except ValueError as error:
            if "max_model_len" in str(error):
                raise UserError(
                    f"model.max_model_len {options.model.max_model_len} exceeds the context of model {model}; lower "
                    "model.max_model_len (with evaluate.py --max-length)"
                ) from error
            architectures = ", ".join(config.get("architectures") or ["no architecture"])
            reason = str(error).split(" Supported architectures")[0]  # vLLM goes on to list hundreds
            raise UserError(
                f"model.name: vLLM cannot load {model} ({architectures}): {reason}; "
                "`--generator.engine transformers` runs models that vLLM does not"
            ) from error
        self._engine.set_weight_version("0")
        self._in_flight: dict[str, tuple[RolloutRequest, dict[str, tuple[SampledSequence, ...]]]] = {}

    def add_request(self, request: SamplingRequest) -> None:
        asked = request.rollout
        max_tokens = request.completion_room(self._options.model.max_model_len)
        prompt = {"prompt_token_ids": [*request.prompt_ids, *request.prefix_ids]}
        for kind, n in ((_SAMPLES, asked.num_samples), (_GREEDY, int(asked.greedy))):
            if n == 0:
                continue
            params = SamplingParams(
                n=n,
                temperature=asked.temperature if kind == _SAMPLES else 0.0,
                top_p=asked.top_p if kind == _SAMPLES else 1.0,
                max_tokens=max_tokens,
                seed=asked.seed,
                stop_token_ids=list(self._options.end_token_ids),
                stop=list(self._options.generator.stop),
                logprobs=0,
                flat_logprobs=True,
                detokenize=bool(self._options.generator.stop),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            self._engine.add_request(f"{kind}:{request.request_id}", prompt, params)
        self._in_flight[request.request_id] = asked, {}

    def step(self) -> list[FinishedRequest]:
        finished = []
        for output in self._engine.step():
            kind, _, request_id = output.request_id.partition(":")
            asked, parts = self._in_flight[request_id]
            parts[kind] = tuple(map(_sequence, output.outputs))
            if len(parts) == bool(asked.num_samples) + asked.greedy:
                del self._in_flight[request_id]
                (greedy,) = parts.get(_GREEDY, (None,))
                finished.append(FinishedRequest(request_id, parts.get(_SAMPLES, ()), greedy))
        return finished

    def load_weights(self, version: int, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        rpc = self._engine.collective_rpc
        rpc("start_weight_update")
        rpc("update_weights", kwargs={"update_info": {"named_tensors": named_tensors}})
        self._finish_update(version)

    def receive(self, phase: TransferPhase, payload: Mapping[str, Any]) -> None:
        """Do a phase of an update that the learner sends, with the payload from `transport.transfer.GeneratorClient`.

        Raises WeightsMismatchError if the weights that arrived differ from those that were sent.
        """
        rpc = self._engine.collective_rpc
        if phase is TransferPhase.CONNECT:
            rpc("shutdown_weight_transfer_engine")  # the connection to another learner
            rpc("init_weight_transfer_engine", kwargs={"init_info": payload["init_info"]})
        elif phase is TransferPhase.START:
            rpc("start_weight_update")
            rpc(lambda worker: worker.weight_transfer_engine.expect(payload["version"], payload["checksum"]))
        elif phase is TransferPhase.UPDATE:
            rpc("update_weights", kwargs={"update_info": payload["update_info"]})
        elif phase is TransferPhase.FINISH:
            self._finish_update(payload["version"])

    def _finish_update(self, version: int) -> None:
        self._engine.collective_rpc("finish_weight_update")
        self._engine.set_weight_version(str(version))
        # vLLM refuses to clear the prefix cache while requests are running, unless it may preempt them.
        self._engine.reset_prefix_cache(reset_running_requests=True)

    @property
    def num_unfinished(self) -> int:
        return int(self._engine.get_num_unfinished_requests())

    def close(self) -> None:
        self._engine.engine_core.shutdown()
        del self._engine
        gc.collect()


def _engine_args(model: Path, options: EngineOptions) -> EngineArgs:
    # If vLLM splits the prefill of a seeded request, it rewinds the request's random state, which CPU generators cannot
    # do. So prompts are not split on a CPU, where splitting would gain nothing anyway.
    on_cpu: dict[str, Any] = {
        "block_size": CPU_BLOCK_SIZE,
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(CPU_BATCHED_TOKENS, options.model.max_model_len, options.generator.max_num_seqs),
    }
    return EngineArgs(
        model=str(model),
        dtype=options.model.dtype,
        max_model_len=options.model.max_model_len,
        max_num_seqs=options.generator.max_num_seqs,
        kv_cache_memory_bytes=options.generator.kv_cache_bytes,
        gpu_memory_utilization=GPU_FREE_SHARE,
        seed=options.seed,
        enable_prefix_caching=not options.deterministic,
        skip_tokenizer_init=not options.generator.stop,
        generation_config="vllm",  # the folder's own sampling defaults must not change ours
        distributed_executor_backend="uni",
        logprobs_mode="processed_logprobs",
        weight_transfer_config=WeightTransferConfig(backend=BACKENDS[options.generator.weight_transfer]),
        disable_log_stats=True,
        use_tqdm_on_load=False,
        **(on_cpu if current_platform.is_cpu() else {}),
    )


def _sequence(completion: CompletionOutput) -> SampledSequence:
    spans = tuple(VersionSpan(span.start, span.end, int(span.version)) for span in completion.weight_versions)
    return SampledSequence(
        token_ids=np.asarray(completion.token_ids, dtype=np.int32),
        logprobs=np.asarray(completion.logprobs.logprobs, dtype=np.float32),
        weight_versions=spans,
        # The reason for a stop is the text, or the id of the token if it is not the tokenizer's own end token.
        finish_reason=(
            FinishReason.STOP_STRING
            if isinstance(completion.stop_reason, str)
            else FinishReason(completion.finish_reason)
        ),
    )

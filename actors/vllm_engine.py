"""vLLM in this process, on CPU or GPU, driven one step at a time.

Weights arrive through vLLM's native weight-transfer interface (`actors.vllm_reload`).

`logprobs_mode` is `processed_logprobs`: log-probabilities after temperature and nucleus, those the tokens were drawn
with. (`raw_logprobs`, vLLM's default, ignores the temperature.)
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import UserError

# Read when vLLM is imported or its engine built: the core runs in this process, quietly, and sends no statistics.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import numpy as np
import torch

if not torch.cuda.is_available():
    # vLLM's sampler compiles small functions at the first batch: that takes seconds, and a C++ compiler, for nothing.
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")

from vllm import ModelRegistry, SamplingParams
from vllm.config import WeightTransferConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.outputs import CompletionOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from actors.codegen import CodeGenForCausalLM
from actors.engine import EngineOptions, FinishedRequest, SampledSequence, SamplingRequest, completion_room
from actors.messages import TransferPhase
from actors.model_folder import check_model_folder
from actors.types import FinishReason, VersionSpan
from actors.vllm_reload import BACKENDS

# vLLM's CPU attention works on multiples of 32 tokens; small blocks let short prompts share their prefix.
CPU_BLOCK_SIZE = 32
CPU_BATCHED_TOKENS = 2048
# The share of a GPU that must be free for vLLM to start, by default nearly all of it. It decides of nothing else, since
# `kv_cache_bytes` is given, and the learner may hold a part of the card already.
GPU_FREE_SHARE = 0.01


ModelRegistry.register_model("CodeGenForCausalLM", CodeGenForCausalLM)


@dataclass(slots=True)
class _Group:
    """The outputs of one request that have finished so far."""

    has_samples: bool
    has_greedy: bool
    samples: tuple[SampledSequence, ...] | None = None
    greedy: SampledSequence | None = None

    @property
    def finished(self) -> bool:
        return (not self.has_samples or self.samples is not None) and (not self.has_greedy or self.greedy is not None)


class VllmEngine:
    """A `SamplingEngine` over an in-process `LLMEngine`."""

    def __init__(self, model: Path, options: EngineOptions) -> None:
        """Load `model`, a Hugging Face folder, as weights version 0.

        Raises:
            UserError: the folder is no model, or vLLM does not know its architecture.
        """
        config = check_model_folder(model)
        self._options = options
        try:
            self._engine = LLMEngine.from_engine_args(_engine_args(model, options))
        except ValueError as error:
            if "max_model_len" in str(error):
                raise UserError(
                    f"model.max_model_len {options.max_length} is more than the context of model {model}: lower "
                    "model.max_model_len (with evaluate.py --max-length)"
                ) from error
            architectures = ", ".join(config.get("architectures") or ["no architecture"])
            reason = str(error).split(" Supported architectures")[0]  # vLLM goes on to list some hundreds
            raise UserError(
                f"model.name: vLLM cannot load {model} ({architectures}): {reason}; "
                "`--generator.engine transformers` runs models that vLLM does not"
            ) from error
        self._engine.set_weight_version("0")
        self._groups: dict[str, _Group] = {}

    def add_request(self, request: SamplingRequest) -> None:
        """See `SamplingEngine`."""
        if request.request_id in self._groups:
            raise ValueError(f"request {request.request_id} is already in flight")
        max_tokens = completion_room(request, self._options.max_length)
        prompt = {"prompt_token_ids": list(request.prompt_ids)}
        if request.num_samples:
            params = self._sampling_params(request, max_tokens, n=request.num_samples, temperature=request.temperature)
            self._engine.add_request(f"sample:{request.request_id}", prompt, params)
        if request.greedy:
            params = self._sampling_params(request, max_tokens, n=1, temperature=0.0)
            self._engine.add_request(f"greedy:{request.request_id}", prompt, params)
        self._groups[request.request_id] = _Group(request.num_samples > 0, request.greedy)

    def _sampling_params(
        self, request: SamplingRequest, max_tokens: int, *, n: int, temperature: float
    ) -> SamplingParams:
        return SamplingParams(
            n=n,
            temperature=temperature,
            top_p=request.top_p if temperature > 0 else 1.0,
            max_tokens=max_tokens,
            seed=request.seed,
            stop_token_ids=list(self._options.end_token_ids),
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def step(self) -> list[FinishedRequest]:
        """See `SamplingEngine`."""
        finished = []
        for output in self._engine.step():
            kind, _, request_id = output.request_id.partition(":")
            group = self._groups[request_id]
            sequences = tuple(_sequence(completion) for completion in output.outputs)
            if kind == "sample":
                group.samples = sequences
            else:
                (group.greedy,) = sequences
            if group.finished:
                del self._groups[request_id]
                finished.append(FinishedRequest(request_id, group.samples or (), group.greedy))
        return finished

    def load_weights(self, version: int, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """See `SamplingEngine`."""
        rpc = self._engine.collective_rpc
        rpc("start_weight_update")
        rpc("update_weights", kwargs={"update_info": {"named_tensors": named_tensors}})
        self._finish_update(version)

    def receive(self, phase: TransferPhase, payload: Mapping[str, Any]) -> None:
        """Take part in an update that the learner sends, with what `transport.transfer.GeneratorClient` gives.

        Raises WeightsMismatchError where other weights came than were sent.
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
        # Without the preemption of running requests vLLM refuses to clear the prefix cache while any is running.
        self._engine.reset_prefix_cache(reset_running_requests=True)

    @property
    def num_unfinished(self) -> int:
        """See `SamplingEngine`."""
        return int(self._engine.get_num_unfinished_requests())

    def close(self) -> None:
        """See `SamplingEngine`."""
        self._engine.engine_core.shutdown()
        del self._engine
        gc.collect()


def _engine_args(model: Path, options: EngineOptions) -> EngineArgs:
    cpu: bool = current_platform.is_cpu()
    # vLLM rewinds the random state of seeded requests whose prefill it splits, which CPU generators cannot do; so on
    # CPU no prompt is split (there it would gain nothing either).
    on_cpu: dict[str, Any] = {
        "block_size": CPU_BLOCK_SIZE,
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(CPU_BATCHED_TOKENS, options.max_length, options.max_num_seqs),
    }
    return EngineArgs(
        model=str(model),
        dtype=options.dtype,
        max_model_len=options.max_length,
        max_num_seqs=options.max_num_seqs,
        kv_cache_memory_bytes=options.kv_cache_bytes,
        gpu_memory_utilization=GPU_FREE_SHARE,
        seed=options.seed,
        enable_prefix_caching=not options.deterministic,
        skip_tokenizer_init=True,
        generation_config="vllm",  # the folder's own sampling defaults must not change ours
        distributed_executor_backend="uni",
        logprobs_mode="processed_logprobs",
        weight_transfer_config=WeightTransferConfig(backend=BACKENDS[options.weight_transfer]),
        disable_log_stats=True,
        use_tqdm_on_load=False,
        **(on_cpu if cpu else {}),
    )


def _sequence(completion: CompletionOutput) -> SampledSequence:
    spans = tuple(VersionSpan(span.start, span.end, int(span.version)) for span in completion.weight_versions)
    return SampledSequence(
        token_ids=np.asarray(completion.token_ids, dtype=np.int32),
        logprobs=np.asarray(completion.logprobs.logprobs, dtype=np.float32),
        weight_versions=spans,
        finish_reason=FinishReason(completion.finish_reason),
    )

"""vLLM on CPU or GPU, driven one step at a time.

    on a GPU, or with several workers     this process: requests, results      vLLM's core process: schedule, model
    on a CPU                              all of it in this process

With a core process of its own, vLLM launches the next step while this process makes results of the last one. On a CPU,
the second process would only take cores and memory from the first. `actors.vllm_workers` is what runs in vLLM's
processes. Weights arrive through vLLM's weight-transfer interface (`actors.vllm_weights`).

With `logprobs_mode` `processed_logprobs`, log-probabilities are those the tokens were drawn with, after temperature and
nucleus. vLLM's default, `raw_logprobs`, ignores the temperature.
"""

from __future__ import annotations

import gc
import os
import pickle
import tempfile
import threading
from collections.abc import Iterable, Mapping
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from rltf.errors import UserError

# Read when vLLM is imported or its engine is built. It is quiet and sends no statistics. Whether its core has a process
# of its own is decided below: this variable would also replace the executor on a CPU.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
# Ray has given out the cores. vLLM would pin workers to a NUMA node each, and refuse to start more of them than there
# are nodes.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
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
from vllm.v1.engine.core_client import SyncMPClient
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from rltf.actors.engine import EngineOptions, FinishedRequest, SampledSequence, SamplingEngine, SamplingRequest
from rltf.actors.messages import RolloutRequest
from rltf.actors.shared_bucket import shared
from rltf.actors.shared_names import names_of, remove, remove_orphans
from rltf.actors.vllm_weights import BACKENDS
from rltf.actors.vllm_workers import FAILURES, Failure, OneWorker, SeveralWorkers, WorkerMethods
from rltf.transport.model_folder import check_model_folder
from rltf.transport.rollouts import FinishReason, VersionSpan
from rltf.transport.weight_receiver import TransferPhase
from rltf.transport.weights import pack

# vLLM's CPU attention works on multiples of 32 tokens. Small blocks let short prompts share their prefix.
CPU_BLOCK_SIZE = 32
CPU_BATCHED_TOKENS = 2048
# The share of a GPU that must be free for vLLM to start, by default nearly all of it, although the learner may already
# hold a part of the card. It has no other effect here, since `kv_cache_bytes` is given.
GPU_FREE_SHARE = 0.01

_SAMPLES, _GREEDY = "sample", "greedy"


class VllmEngine(SamplingEngine):
    """A vLLM engine. Samples and greedy decode of a request are two requests there."""

    def __init__(self, model: Path, options: EngineOptions, *, core_process: bool | None = None) -> None:
        """Load `model`, a Hugging Face folder, as weights version 0. Raises UserError if vLLM cannot.

        `core_process` says whether vLLM's core has a process of its own; None: see the module's docstring.
        """
        config = check_model_folder(model)
        self._options = options
        if core_process is None:
            core_process = options.generator.tensor_parallel_size > 1 or not current_platform.is_cpu()
        self._has_core_process = core_process
        try:
            self._engine = self._start(model)
        except ValueError as error:
            raise _user_error(error, model, config, options) from error
        self._engine.set_weight_version("0")
        self._gpu_memory_bytes = self._reserved()
        self._in_flight: dict[str, tuple[RolloutRequest, dict[str, tuple[SampledSequence, ...]]]] = {}

    def _start(self, model: Path) -> LLMEngine:
        # This context decides how many tokens vLLM puts into one step: on a GPU 8,192 or 16,384, as for `vllm.LLM`.
        # Without one, it is 2,048.
        context = UsageContext.LLM_CLASS
        config = _engine_args(model, self._options).create_engine_config(context)
        if not self._has_core_process:
            return LLMEngine(config, UniProcExecutor, log_stats=False, usage_context=context)
        remove_orphans()
        executor = SeveralWorkers if self._options.generator.tensor_parallel_size > 1 else OneWorker
        # The sockets by which the processes find each other. Nothing connects to them later.
        with tempfile.TemporaryDirectory(prefix="vllm-") as sockets:
            os.environ["VLLM_RPC_BASE_PATH"] = sockets
            engine = LLMEngine(config, executor, log_stats=False, usage_context=context, multiprocess_mode=True)
        _tie_to_core(engine.engine_core)
        return engine

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
        if not self.num_unfinished:
            return []  # a core process would be waited for forever
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
        self.receive(TransferPhase.START, {"version": version, "checksum": None})
        if self._has_core_process:
            for bucket in pack(named_tensors):
                with shared(bucket) as where:
                    self.receive(TransferPhase.UPDATE, {"bucket": where})
        else:
            self.receive(TransferPhase.UPDATE, {"update_info": {"named_tensors": named_tensors}})
        self.receive(TransferPhase.FINISH, {"version": version})

    def receive(self, phase: TransferPhase, payload: Mapping[str, Any]) -> None:
        """Do a phase of an update that the learner sends, with the payload from `transport.transfer.GeneratorClient`.

        Raises WeightsMismatchError if the weights that arrived differ from those that were sent.
        """
        if phase is TransferPhase.START and self._has_core_process:
            # A core process makes steps by itself. It makes no more after this call, until it is told to go on.
            self._engine.engine_core.call_utility("pause_scheduler", "keep", False)
        told = pickle.dumps(payload) if self._has_core_process else payload
        failures: list[Failure | None] = self._engine.collective_rpc("update_phase", args=(phase.value, told))
        for name, message in filter(None, failures):
            raise FAILURES[name](message)
        if phase is TransferPhase.FINISH:
            self._engine.set_weight_version(str(payload["version"]))
            # vLLM refuses to clear the prefix cache while requests are running, unless it may preempt them.
            self._engine.reset_prefix_cache(reset_running_requests=True)
            self._gpu_memory_bytes = self._reserved()
            if self._has_core_process:
                self._engine.engine_core.call_utility("resume_scheduler")

    def _reserved(self) -> int:
        return sum(self._engine.collective_rpc("gpu_memory_bytes"))

    @property
    def gpu_memory_bytes(self) -> int:
        return self._gpu_memory_bytes

    @property
    def num_unfinished(self) -> int:
        return int(self._engine.get_num_unfinished_requests())

    def close(self) -> None:
        core = self._engine.engine_core
        names = names_of(core.resources.engine_manager.processes[0].pid) if self._has_core_process else set()
        core.shutdown()
        remove(names)
        del self._engine, core
        gc.collect()


def _tie_to_core(client: SyncMPClient) -> None:
    """Fail whatever waits for vLLM's core process when it ends, and end it when this process exits.

    If the core is killed, vLLM waits forever; and an engine that was not closed would keep this process from exiting.
    """
    (process,) = client.resources.engine_manager.processes
    resources, calls, outputs = client.resources, client.utility_results, client.outputs_queue
    Finalize(None, process.kill, exitpriority=0)

    def watch() -> None:
        wait([process.sentinel])
        resources.engine_dead = True  # refuses further calls
        outputs.put(EngineDeadError())
        for call in list(calls.values()):
            if not call.done():
                call.set_exception(EngineDeadError())

    threading.Thread(target=watch, name="vLLM core", daemon=True).start()


def _user_error(error: ValueError, model: Path, config: Mapping[str, Any], options: EngineOptions) -> UserError:
    if "max_model_len" in str(error):
        return UserError(
            f"model.max_model_len {options.model.max_model_len} exceeds the context of model {model}; lower "
            "model.max_model_len (with evaluate.py --max-length)"
        )
    reason = str(error).split(" Supported architectures")[0]  # vLLM goes on to list hundreds
    if "tensor parallel size" in reason:
        reason = reason.partition("Value error, ")[2].partition(" [type=")[0] or reason  # as pydantic words it
        return UserError(
            f"generator.tensor_parallel_size {options.generator.tensor_parallel_size} does not fit {model}: {reason}"
        )
    architectures = ", ".join(config.get("architectures") or ["no architecture"])
    return UserError(
        f"model.name: vLLM cannot load {model} ({architectures}): {reason}; "
        "`--generator.engine transformers` runs models that vLLM does not"
    )


def _engine_args(model: Path, options: EngineOptions) -> EngineArgs:
    # If vLLM splits the prefill of a seeded request, it rewinds the request's random state, which CPU generators cannot
    # do. So prompts are not split on a CPU, where splitting would gain nothing anyway.
    on_cpu: dict[str, Any] = {
        "block_size": CPU_BLOCK_SIZE,
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(CPU_BATCHED_TOKENS, options.model.max_model_len, options.generator.max_num_seqs),
    }
    num_workers = options.generator.tensor_parallel_size
    return EngineArgs(
        model=str(model),
        dtype=options.model.dtype,
        max_model_len=options.model.max_model_len,
        max_num_seqs=options.generator.max_num_seqs,
        kv_cache_memory_bytes=options.generator.kv_cache_bytes // num_workers,  # of each worker
        gpu_memory_utilization=GPU_FREE_SHARE,
        seed=options.seed,
        enable_prefix_caching=not options.deterministic,
        skip_tokenizer_init=not options.generator.stop,
        generation_config="vllm",  # the folder's own sampling defaults must not change ours
        tensor_parallel_size=num_workers,
        distributed_executor_backend="mp" if num_workers > 1 else "uni",
        worker_extension_cls=f"{WorkerMethods.__module__}.{WorkerMethods.__qualname__}",
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

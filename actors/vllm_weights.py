"""How vLLM takes new weights, by its weight-transfer interface, and how it runs CodeGen.

Weights come from this process (views into Ray's object store), or from the learner's GPU through vLLM's own NCCL and
CUDA IPC engines. vLLM's layer-wise reload handles fused and repacked layers. The engines here add four things: they
load tensors of this process, an update must contain every parameter, it can be checked against a checksum, and a tied
head is repacked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from vllm import ModelRegistry
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models.gpt_j import GPTJForCausalLM

from rltf.settings import WeightTransfer
from rltf.transport.weight_receiver import WeightsMismatchError
from rltf.transport.weights import checksum, to_numpy

NamedTensors = Iterable[tuple[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class _Watched:
    """Takes the model's place while `engine` receives, to see which parameters arrive."""

    model: Any
    engine: WholeModel

    def load_weights(self, named_tensors: NamedTensors) -> set[str]:
        loaded: set[str] = self.model.load_weights(self.engine.watch(named_tensors))
        self.engine.missing -= loaded
        return loaded


class WholeModel:
    """What the engines below add to vLLM's; see the module's docstring. It is the first base of each of them."""

    device: torch.device
    model: Any
    model_config: Any
    parse_update_info: Any
    receive_weights: Any
    missing: set[str]
    version: int
    expected: int | None
    received: int

    def start_weight_update(self) -> None:
        self.missing = {name for name, _ in self.model.named_parameters()}  # a tied parameter has one name before this
        super().start_weight_update()  # type: ignore[misc]

    def expect(self, version: int, crc: int | None) -> None:
        """Weights `version` arrive next. Their checksum must be `crc` unless it is None."""
        self.version, self.expected, self.received = version, crc, 0

    def update_weights(self, update_info: dict[str, Any]) -> None:
        model = self.model
        self.model = _Watched(model, self)
        try:
            if "named_tensors" in update_info:
                self.model.load_weights(update_info["named_tensors"])
            else:
                self.receive_weights(self.parse_update_info(update_info))
        finally:
            self.model = model
        if self.device.type != "cpu":  # vLLM's own method does this on a machine without accelerator too, and fails
            torch.accelerator.synchronize()

    def watch(self, named_tensors: NamedTensors) -> Iterator[tuple[str, torch.Tensor]]:
        """`named_tensors`. If a checksum is expected, they are added to the checksum of what was received."""
        for name, tensor in named_tensors:
            if self.expected is not None:
                self.received = checksum([{name: to_numpy(tensor)}], self.received)
            yield name, tensor

    def finish_weight_update(self) -> None:
        if self.missing:
            raise ValueError(f"weight update without {', '.join(sorted(self.missing))}: send every parameter each time")
        if self.expected is not None and self.received != self.expected:
            raise WeightsMismatchError(
                f"received weights version {self.version} with checksum {self.received:08x}; the learner sent "
                f"{self.expected:08x}"
            )
        super().finish_weight_update()  # type: ignore[misc]
        if self.model_config.hf_text_config.tie_word_embeddings:
            # A tied head receives no tensor of its own. Layer-wise reload therefore keeps what the CPU kernels packed
            # of its old weight.
            for module in self.model.modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)


class WholeNCCLEngine(WholeModel, NCCLWeightTransferEngine):  # type: ignore[misc]
    """From another GPU, by NCCL."""


class WholeIPCEngine(WholeModel, IPCWeightTransferEngine):  # type: ignore[misc]
    """From another process on the same GPU, by CUDA IPC."""


# vLLM's names of these engines, by `generator.weight_transfer`. Either one loads tensors of this process.
BACKENDS = {
    WeightTransfer.OBJECT_STORE: "whole_nccl",
    WeightTransfer.NCCL: "whole_nccl",
    WeightTransfer.IPC: "whole_ipc",
}

WeightTransferEngineFactory.register_engine(BACKENDS[WeightTransfer.NCCL], WholeNCCLEngine)
WeightTransferEngineFactory.register_engine(BACKENDS[WeightTransfer.IPC], WholeIPCEngine)


class CodeGenForCausalLM(GPTJForCausalLM):  # type: ignore[misc]  # vLLM has no types here
    """CodeGen, which vLLM does not have, as GPT-J, which it has: loads CodeGen's weights into vLLM's GPT-J.

    Both are the same network: parallel attention and feed-forward, rotary embedding of the first dimensions of each
    head, a biased output head. CodeGen's attention keeps queries, values and keys in one matrix of four blocks, one for
    each of the devices it was once trained on: block b holds the queries, values and keys, in this order, of the b-th
    quarter of the heads. GPT-J has three matrices. Weights are renamed whenever vLLM loads them, so learner and
    checkpoints only know CodeGen.
    """

    def load_weights(self, weights: NamedTensors) -> set[str]:
        """Load CodeGen's parameters, by their Hugging Face names. Returns vLLM's names of those loaded."""
        loaded: set[str] = super().load_weights(_gptj_weights(weights))
        return loaded


ModelRegistry.register_model("CodeGenForCausalLM", CodeGenForCausalLM)

_FUSED = ".attn.qkv_proj.weight"
_NUM_BLOCKS = 4
# Constants that are stored in checkpoints of 2022.
_BUFFERS = (".attn.causal_mask", ".attn.bias", ".attn.masked_bias")


def _gptj_weights(weights: NamedTensors) -> Iterator[tuple[str, torch.Tensor]]:
    """GPT-J's named parameters from CodeGen's. Only queries, keys and values change."""
    for name, tensor in weights:
        if name.endswith(_FUSED):
            layer, width = name.removesuffix(_FUSED), tensor.shape[1]
            blocks = tensor.reshape(_NUM_BLOCKS, 3, width // _NUM_BLOCKS, width)  # of a fused matrix [3 H, H]
            for part, projection in enumerate("qvk"):
                yield f"{layer}.attn.{projection}_proj.weight", blocks[:, part].reshape(width, width)
        elif not name.endswith(_BUFFERS):
            yield name, tensor

"""New weights for a model that vLLM holds, by its weight-transfer interface: one engine for each way that they come.

From this process (views into Ray's object store), or from the learner's GPU by vLLM's own NCCL and CUDA IPC engines.
vLLM's layer-wise reload handles fused and repacked layers. What all three add to it: an update must bring every
parameter, it can be checked by its checksum, and a tied head is packed anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from actors.messages import WeightsMismatchError
from transport.weights import checksum, to_numpy

NamedTensors = Iterable[tuple[str, torch.Tensor]]


@dataclass
class InProcessInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Nothing to agree on beforehand."""


@dataclass
class InProcessUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """Parameters in checkpoint format, only read."""

    named_tensors: NamedTensors


class InProcessEngine(WeightTransferEngine[InProcessInitInfo, InProcessUpdateInfo]):  # type: ignore[misc]
    """Loads tensors that lie in this process's address space into the model."""

    init_info_cls = InProcessInitInfo
    update_info_cls = InProcessUpdateInfo

    def init_transfer_engine(self, init_info: InProcessInitInfo) -> None:
        """Nothing to connect."""

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: InProcessUpdateInfo) -> None:
        self.model.load_weights(update_info.named_tensors)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True, slots=True)
class _Watched:
    """Stands for the model while `engine` receives, to see what it is given."""

    model: Any
    engine: WholeModel

    def load_weights(self, named_tensors: NamedTensors) -> set[str]:
        loaded: set[str] = self.model.load_weights(self.engine.watch(named_tensors))
        self.engine.missing -= loaded
        return loaded


class WholeModel:
    """What the engines below add to vLLM's; see the module's docstring. Comes before one of these among the bases."""

    device: torch.device
    model: Any
    model_config: Any
    parse_update_info: Any
    missing: set[str]
    version: int
    expected: int | None
    received: int

    def start_weight_update(self) -> None:
        self.missing = {name for name, _ in self.model.named_parameters()}  # those that are tied once, until it starts
        super().start_weight_update()  # type: ignore[misc]
        self.expect(0, None)

    def expect(self, version: int, crc: int | None) -> None:
        """What comes next are weights `version`; with the checksum `crc`, where it is given."""
        self.version, self.expected, self.received = version, crc, 0

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # vLLM's ends with torch.accelerator.synchronize(), which a machine without accelerator refuses.
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: Any) -> None:
        model = self.model
        self.model = _Watched(model, self)
        try:
            super().receive_weights(update_info)  # type: ignore[misc]
        finally:
            self.model = model

    def watch(self, named_tensors: NamedTensors) -> Iterator[tuple[str, torch.Tensor]]:
        """`named_tensors`, counted into the checksum of what was received where one is expected."""
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
            # A tied head receives no tensor of its own, so layer-wise reload leaves alone what the CPU kernels packed
            # of its old weight.
            for module in self.model.modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)


class WholeInProcessEngine(WholeModel, InProcessEngine):
    """From this process."""


class WholeNCCLEngine(WholeModel, NCCLWeightTransferEngine):  # type: ignore[misc]
    """From another GPU, by NCCL."""


class WholeIPCEngine(WholeModel, IPCWeightTransferEngine):  # type: ignore[misc]
    """From another process on the same GPU, by CUDA IPC."""


# vLLM's names of these engines, by `generator.weight_transfer`.
BACKENDS = {"object_store": "whole_in_process", "nccl": "whole_nccl", "ipc": "whole_ipc"}

WeightTransferEngineFactory.register_engine(BACKENDS["object_store"], WholeInProcessEngine)
WeightTransferEngineFactory.register_engine(BACKENDS["nccl"], WholeNCCLEngine)
WeightTransferEngineFactory.register_engine(BACKENDS["ipc"], WholeIPCEngine)

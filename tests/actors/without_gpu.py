"""vLLM's NCCL and IPC engines without a GPU: a TCP store replaces NCCL, and pickled tensors replace IPC handles.

`do_without_gpu` does this in the calling process.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from rltf.settings import ModelSettings
from rltf.transport.weights import WeightsHandle

STALLS, DIES = "stalls", "dies"
PHASE_S = 6.0
"""Deadline of a phase of an update. A phase takes less than a second here."""

_fault = ""


def set_fault(actor: object, fault: str) -> None:
    """Have the calling process stall or die the next time that it receives weights; see `ActorHandle.__ray_call__`."""
    global _fault
    _fault = fault


class StoreCommunicator:
    """A communicator of two ranks. As in NCCL, each waits forever for the other until another thread aborts it."""

    def __init__(self, info: Any, rank: int) -> None:
        from vllm.distributed.utils import StatelessProcessGroup

        group = StatelessProcessGroup.create(info.master_address, info.master_port, rank, info.world_size)
        self.store, self.rank = group.store, rank
        self.num_sent = 0
        self.is_aborted = False

    def broadcast(self, tensor: torch.Tensor, src: int, stream: object = None) -> None:
        self.num_sent += 1
        sent, taken = f"sent {self.num_sent}", f"taken {self.num_sent}"
        if self.rank == src:
            self.store.set(sent, pickle.dumps(tensor))
            self._wait(taken)
            return
        if self.num_sent > 1 and _fault == STALLS:
            self._wait("never")
        if self.num_sent > 1 and _fault == DIES:
            os._exit(1)
        self._wait(sent)
        tensor.copy_(pickle.loads(self.store.get(sent)))
        self.store.set(taken, b"")

    def _wait(self, key: str) -> None:
        while not self.is_aborted and not self.store.check([key]):
            time.sleep(0.001)

    def destroy(self) -> None:
        self.is_aborted = True


class NoStream:
    def synchronize(self) -> None:
        pass


def do_without_gpu() -> None:
    import vllm.distributed.weight_transfer.ipc_engine as ipc_engine
    import vllm.distributed.weight_transfer.nccl_engine as nccl_engine
    import vllm.distributed.weight_transfer.packed_tensor as packed_tensor

    import rltf.transport.transfer

    for module, name, value in (
        (nccl_engine, "worker_init_process_group", lambda info, parallel_config: StoreCommunicator(info, 1)),
        (nccl_engine, "open_trainer_endpoint", lambda info: StoreCommunicator(info, 0)),
        (packed_tensor, "_get_streams", lambda device, count: [NoStream()] * count),
        (torch.cuda, "stream", lambda stream: nullcontext()),
        (torch.accelerator, "current_device_index", lambda: 0),
        (torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="GPU")),
        (torch.cuda, "ipc_collect", lambda: None),
        (ipc_engine, "reduce_tensor", lambda tensor: (None, (*[None] * 7, pickle.dumps(tensor)))),
        (ipc_engine, "rebuild_cuda_tensor", lambda *arguments: pickle.loads(arguments[7])),
        (rltf.transport.transfer, "BUCKET_BYTES", 64 * 1024),  # several packs of a tiny model
        (rltf.transport.transfer, "PHASE_TIMEOUT_S", PHASE_S),
    ):
        setattr(module, name, value)


def arrive(fields: dict[str, Any]) -> ModelSettings:
    do_without_gpu()
    return ModelSettings(**fields)


class ModelHere(ModelSettings):
    """Model settings. Processes that receive them do without a GPU from then on."""

    def __reduce__(self) -> Any:
        return arrive, (self.model_dump(),)


class Forger:
    """Another learner. Sends what it is given, and lies about the checksum if told to."""

    def __init__(self, weight_transfer: str = "nccl") -> None:
        do_without_gpu()
        from rltf.transport.transfer import WeightSender, init_info

        self.sender = WeightSender(partial(init_info, weight_transfer))

    def publish(self, version: int, weights: Mapping[str, torch.Tensor], forge: bool) -> WeightsHandle:
        handle = self.sender.publish(version, weights.items(), verify=True)
        if forge:
            vars(self.sender._snapshot)["checksum"] = 1
        return handle

    def send(self, generator: Any, name: str) -> int:
        return self.sender.send(generator, name)

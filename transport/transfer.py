"""Weights from the learner's GPU to the generators', by vLLM's own transfer engines: NCCL, or CUDA IPC on one GPU.

    learner.publish                 copies the weights aside; the learner trains on
    generator.update_weights ->     learner.send ->     [CONNECT once] START, UPDATE, FINISH at that generator's engine

Generators are served one at a time, each over its own connection: one that dies or stalls does not affect the others,
and one that comes later gets the newest weights. NCCL itself waits forever, so every phase has a deadline here. A
generator that misses it is given up, and its connection is aborted. Importing this module imports vLLM.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import ray
import torch
from ray.actor import ActorProxy
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerInitInfo, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from rltf.settings import WeightTransfer
from rltf.transport.weight_receiver import PHASE_TIMEOUT_S, TransferError, TransferPhase
from rltf.transport.weights import BUCKET_BYTES, WeightsHandle, checksum, to_numpy


@dataclass(frozen=True, eq=False)
class Snapshot(WeightSource):  # type: ignore[misc]
    """A copy of the weights at one publication. `verify` says whether receivers compare their checksum."""

    version: int
    tensors: Mapping[str, torch.Tensor]
    verify: bool

    @cached_property
    def checksum(self) -> int:
        """See `transport.weights.checksum`. Computed on the host, when it is needed."""
        return checksum({name: to_numpy(tensor)} for name, tensor in self.tensors.items())

    def metadata(self) -> list[ParamMeta]:
        """Names, types and shapes, in the order of iteration."""
        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors.items()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self.tensors.items())


class ReceivesWeights(Protocol):
    """An actor that weights are sent to; see `actors.generator.Generator.transfer`."""

    @ray.method
    def transfer(self, phase: TransferPhase, payload: Mapping[str, Any]) -> None: ...


class GeneratorClient:
    """What vLLM's trainer engines call (`VLLMWeightSyncClient`), for one generator actor.

    `version` and `checksum` describe the weights being sent. If `checksum` is None, they are not checked.
    """

    def __init__(self, generator: ActorProxy[ReceivesWeights], name: str) -> None:
        self._generator = generator
        self._name = name
        self._outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._given_up = False
        self.version = 0
        self.checksum: int | None = None

    def run(self, work: Callable[[], Any]) -> Any:
        """The result of `work`, in which vLLM asks for phases. It runs in a thread, abandoned once a phase fails.

        (vLLM first waits for its own end of a copy, and NCCL waits forever for an end that is gone or stalls.) Raises
        what `work` raises, or TransferError for a phase that failed.
        """
        outcomes = self._outcomes

        def run() -> None:
            try:
                outcomes.put(work())
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for the outcome
                outcomes.put(error)

        threading.Thread(target=run, name=f"weights for {self._name}", daemon=True).start()
        phases_s = PHASE_TIMEOUT_S * len(TransferPhase)
        try:
            outcome = outcomes.get(timeout=phases_s)
        except queue.Empty:
            outcome = TransferError(f"weights for {self._name} were not sent within {phases_s:g} s")
        if isinstance(outcome, BaseException):
            self._given_up = True
            raise outcome
        return outcome

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Have the generator open its end of the connection."""
        self._ask(TransferPhase.CONNECT, {"init_info": init_info})

    def start_weight_update(self) -> None:
        """Have the generator pause sampling and prepare to receive."""
        self._ask(TransferPhase.START, {"version": self.version, "checksum": self.checksum})

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Have the generator receive weights."""
        self._ask(TransferPhase.UPDATE, {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Have the generator sample with what it received. vLLM's engines pass no `weight_version`."""
        self._ask(TransferPhase.FINISH, {"version": self.version})

    def _ask(self, phase: TransferPhase, payload: Mapping[str, Any]) -> None:
        if self._given_up:
            raise TransferError(f"{self._name} was given up after an earlier failure")
        try:
            ray.get(self._generator.transfer.remote(phase, payload), timeout=PHASE_TIMEOUT_S)
        except (GetTimeoutError, RayActorError, RayTaskError) as error:
            failure = TransferError(f"{self._name} {_what_it_did(error)} in phase `{phase}` of a weight update")
            failure.__cause__ = error
            self._outcomes.put(failure)
            raise failure from error


def _what_it_did(error: Exception) -> str:
    if isinstance(error, RayTaskError):
        return f"failed ({error.cause})"
    return "died" if isinstance(error, RayActorError) else "did not answer in time"


class WeightSender:
    """Sends the newest published weights to generators that ask. `publish` and `send` may run at the same time.

    `init_info` returns what vLLM needs for a new connection.
    """

    def __init__(self, init_info: Callable[[], TrainerInitInfo]) -> None:
        self._init_info = init_info
        self._snapshot: Snapshot | None = None
        self._publishing = threading.Lock()
        self._connections: dict[str, tuple[GeneratorClient, Any]] = {}  # with vLLM's engine of each

    def publish(
        self, version: int, named_tensors: Iterable[tuple[str, torch.Tensor]], *, verify: bool = False
    ) -> WeightsHandle:
        """Copy tensors as weights `version`, which the calling actor sends; see `transport.weights.publish`.

        There is only this one copy, except while an older one is still being sent.
        """
        with self._publishing:
            self._snapshot = None
            tensors = {
                name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in named_tensors
            }
            if torch.cuda.is_available():
                torch.cuda.current_stream().synchronize()  # other streams will read them
            self._snapshot = Snapshot(version, tensors, verify)
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        return WeightsHandle(version, (), num_bytes, sender=ray.get_runtime_context().current_actor)

    def send(self, generator: ActorProxy[ReceivesWeights], name: str) -> int:
        """Have the actor `generator`, called `name`, sample with the newest published weights. Returns their version.

        The first weights over a connection are always checked by their checksum. Raises TransferError, or what vLLM
        raises, if it fails. The generator may then hold half of the weights.
        """
        with self._publishing:
            snapshot = self._snapshot
        assert snapshot is not None  # whoever asks got a handle from `publish`
        self._release(behind=snapshot.version - 1)
        known = self._connections.pop(name, None)
        client, engine = known or self._connect(GeneratorClient(generator, name), snapshot)
        client.version = snapshot.version
        client.checksum = snapshot.checksum if snapshot.verify or not known else None
        engine.source = snapshot
        try:
            client.run(engine.send_weights)
        except BaseException:  # raised to the caller
            engine.shutdown()  # aborts the communicator that the abandoned thread waits for
            raise
        engine.source = None
        self._connections[name] = client, engine
        return snapshot.version

    def _connect(self, client: GeneratorClient, snapshot: Snapshot) -> tuple[GeneratorClient, Any]:
        init = partial(WeightTransferTrainerFactory.trainer_init, self._init_info(), client=client, source=snapshot)
        return client, client.run(init)

    def _release(self, behind: int) -> None:
        """Close the connections of generators that are gone: those that did not get weights `behind` or newer ones."""
        for name in [name for name, (client, _) in self._connections.items() if client.version < behind]:
            self._connections.pop(name)[1].shutdown()


def init_info(weight_transfer: str, num_workers: int = 1) -> TrainerInitInfo:
    """What vLLM needs for a new connection by `generator.weight_transfer` to a generator with `num_workers`.

    For NCCL, this is a free port. Its ranks are the learner and the generator's workers.
    """
    if weight_transfer == WeightTransfer.IPC:
        return IPCTrainerInitInfo(rank=0)
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = int(probe.getsockname()[1])
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return NCCLTrainerInitInfo(
        master_address=address,
        master_port=port,
        world_size=1 + num_workers,
        packed_buffer_size_bytes=BUCKET_BYTES,
        rank=0,
    )

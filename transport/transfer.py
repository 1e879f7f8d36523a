"""Weights from the learner's GPU to the generators', by vLLM's own transfer engines: NCCL, or CUDA IPC on one GPU.

    learner.publish                 copies the weights aside; the learner trains on
    generator.update_weights ->     learner.send ->     [CONNECT once] START, UPDATE, FINISH at that generator's engine

Generators are served one after the other, each over a connection of its own: one that dies or stalls takes no other
along, and one that comes later gets the newest weights. NCCL itself waits for ever, so each phase has a deadline here;
who misses it is given up, its connection aborted. Importing this module imports vLLM.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerInitInfo, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from actors.messages import PHASE_TIMEOUT_S, TransferError, TransferPhase
from transport.weights import BUCKET_BYTES, WeightsHandle, checksum, to_numpy

NUM_RANKS = 2
"""Of one communicator: the learner and one generator."""


@dataclass(frozen=True, eq=False)
class Snapshot(WeightSource):  # type: ignore[misc]
    """The weights of one publication, apart from those that are trained on; `verify` where they are to be checked."""

    version: int
    tensors: Mapping[str, torch.Tensor]
    verify: bool

    @cached_property
    def checksum(self) -> int:
        """As `transport.weights.checksum`; reckoned on the host, when it is asked for."""
        return checksum({name: to_numpy(tensor)} for name, tensor in self.tensors.items())

    def metadata(self) -> list[ParamMeta]:
        """Names, types and shapes, in the order of iteration."""
        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors.items()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self.tensors.items())


class GeneratorClient:
    """What vLLM's trainer engines call (`VLLMWeightSyncClient`), for one generator actor.

    `version` and `checksum` (none: unchecked) are of the weights that are being sent.
    """

    def __init__(self, generator: Any, name: str) -> None:
        self._generator = generator
        self._name = name
        self._outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._given_up = False
        self.version = 0
        self.checksum: int | None = None

    def run(self, work: Callable[[], Any]) -> Any:
        """The value of `work`, in which vLLM asks for phases: in a thread, left behind when the first of them fails.

        (vLLM waits for its own end of a copy first, and NCCL for an end that is gone, or stands still, for ever.)
        Raises what `work` does, TransferError first of all.
        """
        outcomes = self._outcomes

        def run() -> None:
            try:
                outcomes.put(work())
            except BaseException as error:  # noqa: BLE001 - it is raised where the outcome is waited for
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
        """Have it stand still and make ready."""
        self._ask(TransferPhase.START, {"version": self.version, "checksum": self.checksum})

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Have it receive."""
        self._ask(TransferPhase.UPDATE, {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Have it sample with what came. vLLM's engines give no `weight_version`."""
        self._ask(TransferPhase.FINISH, {"version": self.version})

    def _ask(self, phase: TransferPhase, payload: Mapping[str, Any]) -> None:
        if self._given_up:
            raise TransferError(f"{self._name} was given up")
        try:
            ray.get(self._generator.transfer.remote(phase, payload), timeout=PHASE_TIMEOUT_S)
        except (GetTimeoutError, RayActorError, RayTaskError) as error:
            failure = TransferError(f"{self._name} {_what_it_did(error)} at `{phase}` of a weight update")
            failure.__cause__ = error
            self._outcomes.put(failure)
            raise failure from error


def _what_it_did(error: Exception) -> str:
    if isinstance(error, RayTaskError):
        return f"failed ({error.cause})"
    return "died" if isinstance(error, RayActorError) else "did not answer in time"


@dataclass(frozen=True, slots=True)
class _Connection:
    client: GeneratorClient
    engine: Any
    version: int
    """Of what was sent last."""


class WeightSender:
    """Sends the weights last published to whoever asks. `publish` and `send` may be called at the same time.

    `init_info` gives what vLLM needs for one more connection.
    """

    def __init__(self, init_info: Callable[[], TrainerInitInfo]) -> None:
        self._init_info = init_info
        self._snapshot: Snapshot | None = None
        self._publishing = threading.Lock()
        self._connections: dict[str, _Connection] = {}

    def publish(
        self, version: int, named_tensors: Iterable[tuple[str, torch.Tensor]], *, verify: bool = False
    ) -> WeightsHandle:
        """Copy tensors aside as weights `version`, to be had from the calling actor; see `transport.weights.publish`.

        The copy is the only one, but while an older one is still being sent.
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

    def send(self, generator: Any, name: str) -> int:
        """Have the actor `generator`, of this `name`, sample with the weights last published; returns their version.

        The first over a connection are always checked by their checksum. Raises what prevented it; the generator may
        hold half of them then.
        """
        with self._publishing:
            snapshot = self._snapshot
        assert snapshot is not None  # whoever asks has a handle
        self._release(behind=snapshot.version - 1)
        known = self._connections.pop(name, None)
        client = known.client if known else GeneratorClient(generator, name)
        engine = known.engine if known else client.run(lambda: self._connect(client, snapshot))
        client.version = snapshot.version
        client.checksum = snapshot.checksum if snapshot.verify or not known else None
        engine.source = snapshot
        try:
            client.run(engine.send_weights)
        except BaseException:  # whatever it was goes on to the caller
            engine.shutdown()  # aborts the communicator, for which the thread left behind waits
            raise
        engine.source = None
        self._connections[name] = _Connection(client, engine, snapshot.version)
        return snapshot.version

    def _connect(self, client: GeneratorClient, snapshot: Snapshot) -> Any:
        return WeightTransferTrainerFactory.trainer_init(self._init_info(), client=client, source=snapshot)

    def _release(self, behind: int) -> None:
        """End connections that did not get weights `behind`, or later ones: those of generators that are gone."""
        for name in [name for name, known in self._connections.items() if known.version < behind]:
            self._connections.pop(name).engine.shutdown()


def init_info(weight_transfer: str) -> TrainerInitInfo:
    """What vLLM needs for one more connection by `weight_transfer` (`generator`'s setting): for NCCL a free port."""
    if weight_transfer == "ipc":
        return IPCTrainerInitInfo(rank=0)
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = int(probe.getsockname()[1])
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return NCCLTrainerInitInfo(
        master_address=address,
        master_port=port,
        world_size=NUM_RANKS,
        packed_buffer_size_bytes=BUCKET_BYTES,
        rank=0,
    )

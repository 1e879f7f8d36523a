"""The processes that train one policy together, one per GPU. Each is a *rank*, and all of them make the same calls.

Objects and CPU tensors go over gloo, GPU tensors over NCCL. Rank 0 leads: it alone fetches and packs samples, writes
files and publishes weights. With one rank there is no process group, and every call here returns what it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from rltf.files import write_folder

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process as rank `rank` of `size`. `ALONE` is one without others.

    Usage:
        ranks = Ranks.join(store, rank, size, device=device, timeout_s=300)
        part = ranks.scatter(parts if ranks.leads else None)
        ranks.leave()

    All ranks must make the same calls in the same order. If a rank fails or dies, the calls of the others raise
    RuntimeError, at the latest after the timeout; with NCCL they may hang instead, so end their processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, store: TCPStore, rank: int, size: int, *, device: torch.device, timeout_s: float) -> Ranks:
        """Form the group, through a `store` that all ranks can reach. `timeout_s` limits each call over gloo and NCCL.
        It must be longer than it takes one rank to load the model.

        Raises RuntimeError (`torch.distributed.DistStoreError`) if not all ranks join in time.
        """
        if size > 1:
            backend = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
            timeout = timedelta(seconds=timeout_s)
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        return cls(rank, size)

    def leave(self) -> None:
        """Dissolve the group."""
        if self.size > 1:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def mesh(self, device: torch.device) -> DeviceMesh:
        """All ranks in one dimension, to shard a model on `device` over."""
        return init_device_mesh(device.type, (self.size,))

    def scatter(self, values: Sequence[T] | None) -> T:
        """The value for this rank, of those that rank 0 gives, one per rank. The others give None."""
        if self.size == 1:
            assert values is not None  # this is rank 0
            return values[0]
        received: list[Any] = [None]
        dist.scatter_object_list(received, None if values is None else list(values))
        mine: T = received[0]
        return mine

    def broadcast(self, value: T | None) -> T:
        """The value that rank 0 gives."""
        given = [value]
        if self.size > 1:
            dist.broadcast_object_list(given)
        shared: Any = given[0]
        return shared  # type: ignore[no-any-return]

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of `tensor` over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.SUM)
        return tensor

    def largest(self, tensor: torch.Tensor) -> torch.Tensor:
        """The elementwise maximum of `tensor` over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Enter one rank after the other, for what takes a lot of host memory. No rank leaves before all are done."""
        for _ in range(self.rank):
            self.barrier()
        try:
            yield
        finally:  # so that the others find the same fault
            for _ in range(self.rank, self.size):
                self.barrier()

    def write_folder(self, folder: Path, write: Callable[[Path], None]) -> None:
        """`files.write_folder`, in which all ranks call `write`, with the path on the node of rank 0.

        Raises FileExistsError, on all ranks, if `folder` exists.
        """
        if self.broadcast(folder.exists()):
            raise FileExistsError(f"{folder} exists already")
        if self.leads:
            write_folder(folder, lambda incomplete: write(self.broadcast(incomplete)))
        else:
            write(self.broadcast(None))
        self.barrier()

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))  # over gloo: `dist.barrier` would need a GPU's device id


ALONE = Ranks()
"""One process that trains by itself."""

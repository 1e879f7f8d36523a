"""Publishing the learner's weights, and sending them to the generators through Ray's object store.

The learner packs its parameters into buckets, puts each bucket once, and publishes a `WeightsHandle`. Every generator
reads the buckets from shared memory without a copy and loads them between two engine steps. A bucket maps Hugging Face
parameter names to NumPy arrays, which Ray stores out of band and returns as read-only views. `transport.transfer` sends
weights from GPU to GPU instead.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.actor import ActorProxy

Bucket = dict[str, NDArray[np.generic]]

BUCKET_BYTES = 256 * 1024 * 1024


class SendsWeights(Protocol):
    """An actor that sends its newest weights on request; see `transport.transfer.WeightSender.send`."""

    @ray.method
    def send(self, generator: Any, name: str) -> int: ...


@dataclass(frozen=True, slots=True)
class WeightsHandle:
    """One published version of the policy's weights: a reference to each bucket, and their total size.

    If there is a `checksum`, whoever loads the weights compares with it. If there is a `sender`, the learner actor,
    there are no buckets: it sends these weights, or newer ones, to the generators that ask for them.
    """

    version: int
    refs: tuple[ray.ObjectRef[Bucket], ...]
    num_bytes: int
    checksum: int | None = None
    sender: ActorProxy[SendsWeights] | None = None


def to_numpy(tensor: torch.Tensor) -> NDArray[np.generic]:
    """`tensor` as a contiguous NumPy array, without a copy if it is already contiguous in host memory.

    NumPy has no bfloat16. The bits of such tensors are stored as uint16, a type that no parameter has.

    Raises TypeError if the tensor's own type is uint16, which would be mistaken for bfloat16.
    """
    host = tensor.detach().cpu().contiguous()
    if host.dtype == torch.uint16:
        raise TypeError("uint16 parameters cannot be packed: uint16 stands for bfloat16 here")
    if host.dtype == torch.bfloat16:
        return host.view(torch.uint16).numpy()
    return host.numpy()


def to_tensor(array: NDArray[np.generic]) -> torch.Tensor:
    """The tensor that `to_numpy` packed, as a view of `array`. Do not write to it if `array` is read-only."""
    with warnings.catch_warnings():
        # Arrays from the object store are read-only views, and are only ever copied from.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def pack(named_parameters: Iterable[tuple[str, torch.Tensor]], *, bucket_bytes: int = BUCKET_BYTES) -> Iterator[Bucket]:
    """Group parameters, in order, into buckets of at most `bucket_bytes`. A larger parameter gets its own bucket.

    Contiguous host tensors are not copied, so put the buckets into the object store before the parameters change.

    Raises ValueError if a name occurs twice.
    """
    bucket: Bucket = {}
    names: set[str] = set()
    size_bytes = 0
    for name, parameter in named_parameters:
        if name in names:
            raise ValueError(f"parameter {name!r} was given twice")
        names.add(name)
        array = to_numpy(parameter)
        if bucket and size_bytes + array.nbytes > bucket_bytes:
            yield bucket
            bucket, size_bytes = {}, 0
        bucket[name] = array
        size_bytes += array.nbytes
    if bucket:
        yield bucket


def unpack(buckets: Iterable[Mapping[str, NDArray[np.generic]]]) -> Iterator[tuple[str, torch.Tensor]]:
    """The `(name, tensor)` pairs of `buckets`, in order, as views. Do not write to them."""
    for bucket in buckets:
        for name, array in bucket.items():
            yield name, to_tensor(array)


def publish(
    version: int, named_parameters: Iterable[tuple[str, torch.Tensor]], *, verify: bool = False
) -> WeightsHandle:
    """Put parameters into the object store as weights `version`. The calling process owns them.

    Only one bucket at a time is held. With `verify`, generators compare the checksum when they load them.
    """
    refs: list[ray.ObjectRef[Bucket]] = []
    num_bytes = crc = 0
    for bucket in pack(named_parameters):
        num_bytes += sum(array.nbytes for array in bucket.values())
        crc = checksum([bucket], crc) if verify else 0
        refs.append(ray.put(bucket))
    return WeightsHandle(version, tuple(refs), num_bytes, crc if verify else None)


def checksum(buckets: Iterable[Mapping[str, NDArray[np.generic]]], before: int = 0) -> int:
    """CRC-32 over names and values. It depends on the order of parameters, but not on how they are split into buckets.

    `before` is the checksum of the parameters that came before.
    """
    crc = before
    for bucket in buckets:
        for name, array in bucket.items():
            crc = zlib.crc32(name.encode(), crc)
            crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)
    return crc

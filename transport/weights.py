"""Weights on their way from the learner to the generators: what is published, and the way through Ray's object store.

The learner packs its parameters into buckets, puts each bucket once, and publishes a `WeightsHandle`; every generator
reads the buckets from shared memory without a copy and loads them between two engine steps. A bucket maps Hugging Face
parameter names to NumPy arrays, which Ray stores out of band and hands back as read-only views. The way from GPU to GPU
is `transport.transfer`'s.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

Bucket = dict[str, NDArray[np.generic]]

BUCKET_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class WeightsHandle:
    """One published version of the policy's weights: a reference to each bucket, and the size of all together.

    `checksum` is theirs where it is to be checked by those who load them. Where `sender` is given, the handle of the
    learner actor, there are no buckets: it sends them, or newer ones, to whom it is asked to (`LearnerActor.send`).
    """

    version: int
    refs: tuple[ray.ObjectRef[Bucket], ...]
    num_bytes: int
    checksum: int | None = None
    sender: Any = None


@dataclass(frozen=True, slots=True)
class WeightUpdateReply:
    """A generator's answer to an update: the version it samples from now on, and how long the engine stood still."""

    version: int
    seconds: float


def to_numpy(tensor: torch.Tensor) -> NDArray[np.generic]:
    """`tensor` as a contiguous NumPy array, without a copy where it lies contiguous in host memory.

    NumPy has no bfloat16: such tensors travel as their bits, in uint16, a type no parameter has.

    Raises:
        TypeError: the tensor's own type is uint16, which could not be told from bfloat16.
    """
    host = tensor.detach().cpu().contiguous()
    if host.dtype == torch.uint16:
        raise TypeError("uint16 parameters cannot be packed: that type carries bfloat16 here")
    if host.dtype == torch.bfloat16:
        return host.view(torch.uint16).numpy()
    return host.numpy()


def to_tensor(array: NDArray[np.generic]) -> torch.Tensor:
    """The tensor that `to_numpy` packed, as a view of `array`; must not be written to where `array` is read-only."""
    with warnings.catch_warnings():
        # Arrays from the object store are read-only views; they are only ever copied from.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def pack(named_parameters: Iterable[tuple[str, torch.Tensor]], *, bucket_bytes: int = BUCKET_BYTES) -> list[Bucket]:
    """Group parameters, in order, into buckets of at most `bucket_bytes` (a larger parameter has one to itself).

    Contiguous host tensors are not copied: put the buckets into the object store before the parameters change.

    Raises:
        ValueError: a name occurs twice.
    """
    buckets: list[Bucket] = []
    names: set[str] = set()
    size_bytes = 0
    for name, parameter in named_parameters:
        if name in names:
            raise ValueError(f"parameter {name!r} was given twice")
        names.add(name)
        array = to_numpy(parameter)
        if not buckets or size_bytes + array.nbytes > bucket_bytes:
            buckets.append({})
            size_bytes = 0
        buckets[-1][name] = array
        size_bytes += array.nbytes
    return buckets


def unpack(buckets: Iterable[Mapping[str, NDArray[np.generic]]]) -> Iterator[tuple[str, torch.Tensor]]:
    """The `(name, tensor)` pairs of `buckets`, in order, as views; must not be written to."""
    for bucket in buckets:
        for name, array in bucket.items():
            yield name, to_tensor(array)


def publish(
    version: int, named_parameters: Iterable[tuple[str, torch.Tensor]], *, verify: bool = False
) -> WeightsHandle:
    """Put parameters into the object store, owned by the calling process, as weights `version`.

    With `verify` whoever loads them checks that they are the same.
    """
    buckets = pack(named_parameters)
    num_bytes = sum(array.nbytes for bucket in buckets for array in bucket.values())
    refs = tuple(ray.put(bucket) for bucket in buckets)
    return WeightsHandle(version, refs, num_bytes, checksum(buckets) if verify else None)


def checksum(buckets: Iterable[Mapping[str, NDArray[np.generic]]], before: int = 0) -> int:
    """CRC-32 over names and values; equal for equal parameters in the same order, however they are bucketed.

    `before` is that of what came before.
    """
    crc = before
    for bucket in buckets:
        for name, array in bucket.items():
            crc = zlib.crc32(name.encode(), crc)
            crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)
    return crc

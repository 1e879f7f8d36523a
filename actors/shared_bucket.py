"""A bucket of weights in memory that other processes map: for engines whose workers are processes of their own.

The memory is an anonymous file (memfd). It has no name in any folder, so nothing is left behind however its owner ends,
and the size of /dev/shm does not limit it. Whoever has mapped it keeps it as long as arrays from it are in use.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from rltf.transport.weights import Bucket

# Kernels are faster on aligned data.
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class SharedBucket:
    """Where a bucket is: the path of its file, and for each array its name, type, shape and first byte."""

    path: str
    arrays: tuple[tuple[str, str, tuple[int, ...], int], ...]


@contextmanager
def shared(bucket: Bucket) -> Iterator[SharedBucket]:
    """Copy `bucket` to where processes of the same user on this machine can read it, for as long as the context."""
    file = os.memfd_create("weights")
    try:
        arrays = []
        with open(file, "wb", closefd=False) as writer:
            for name, array in bucket.items():
                start = writer.seek(-(-writer.tell() // _ALIGNMENT) * _ALIGNMENT)
                arrays.append((name, array.dtype.str, array.shape, start))
                writer.write(array.reshape(-1).view(np.uint8).data)
        yield SharedBucket(f"/proc/{os.getpid()}/fd/{file}", tuple(arrays))
    finally:
        os.close(file)


def read(where: SharedBucket) -> Bucket:
    """The bucket, as views. Do not write to them. They stay valid after the context of `shared`."""
    with open(where.path, "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return {name: np.ndarray(shape, np.dtype(dtype), memory, start) for name, dtype, shape, start in where.arrays}

"""What every process that trains sets up: threads, determinism, memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any

import ray
import torch
from transformers.utils.logging import disable_progress_bar

from rltf.settings import Settings

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def prepare_process(settings: Settings) -> None:
    """Set up this process as the settings of the learner say."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    _keep_freed_memory()
    if settings.run.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(1)  # the order of sums depends on it
    elif settings.learner.num_threads is not None:
        torch.set_num_threads(settings.learner.num_threads)


@contextlib.contextmanager
def threads_for_sft(settings: Settings) -> Iterator[None]:
    """Compute with this rank's share of all of the node's cores, since the generators wait."""
    before = torch.get_num_threads()
    share = max(before, _num_cores() // settings.learner.num_workers)
    torch.set_num_threads(1 if settings.run.deterministic else share)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _num_cores() -> int:
    """Cores of this node that Ray may use. A container may have fewer than it sees, and Ray knows its limit."""
    node_id = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    counts = {node["NodeID"]: int(node["Resources"].get("CPU", 0)) for node in nodes}
    return min(counts[node_id], len(os.sched_getaffinity(0)))


def _keep_freed_memory() -> None:
    """Make glibc keep freed blocks for the next micro-batch, which needs blocks of the same sizes.

    By default, tensors are mapped, page-faulted in and unmapped every time, which takes 8 % of an update of a small
    model on a CPU.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # only glibc has it
        library.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the maximum
        library.mallopt(_M_TRIM_THRESHOLD, 1 << 30)

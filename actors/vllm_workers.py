"""What runs in vLLM's own processes: the engine core, and its workers, each with a part of the model.

    generator actor  ──requests, tokens──  engine core  ──steps──  worker 0, worker 1, ...

vLLM starts these processes without anything that the actor has set up. It imports the classes here by their names,
which also makes our weight engines and CodeGen known there (`actors.vllm_weights`). Errors cross as text, so
`update_phase` returns those that the actor has to tell apart.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

import rltf.actors.vllm_weights  # noqa: F401 - registers weight engines and CodeGen
from rltf.actors.shared_bucket import SharedBucket, read
from rltf.actors.shared_names import names_of, remove
from rltf.transport.weight_receiver import TransferPhase, WeightsMismatchError
from rltf.transport.weights import unpack

Failure = tuple[str, str]
"""The name of an error class in `FAILURES`, and its message."""
FAILURES: dict[str, type[Exception]] = {error.__name__: error for error in (WeightsMismatchError, ValueError)}


def end_with_parent() -> None:
    """Have this process end as soon as its parent has, even if it hangs. vLLM's own do not, if the parent is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # vLLM has started this process

    def watch() -> None:
        wait([parent.sentinel])
        remove(names_of(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


class OneWorker(UniProcExecutor):  # type: ignore[misc]  # vLLM has no types here
    """The executor of an engine core in its own process, which is also the only worker."""

    def _init_executor(self) -> None:
        end_with_parent()
        super()._init_executor()


class SeveralWorkers(MultiprocExecutor):  # type: ignore[misc]
    """The executor of an engine core in its own process, with a process for each worker."""

    def _init_executor(self) -> None:
        end_with_parent()
        super()._init_executor()
        self.collective_rpc("settle")


class WorkerMethods:
    """vLLM mixes these methods into its worker class. The actor calls them by name, in all workers at once."""

    def settle(self) -> None:
        """Once the worker has started: end with the core, and leave nothing behind."""
        end_with_parent()
        # On a CPU, workers have mapped these files by now. vLLM would not remove those of workers that are killed.
        for file in Path("/dev/shm").glob(f"{os.environ.get('VLLM_DIST_IDENT', 'no group')}-*"):
            file.unlink(missing_ok=True)

    def gpu_memory_bytes(self) -> int:
        """The memory that this worker has reserved on its GPU."""
        return torch.cuda.memory_reserved()

    def update_phase(self: Any, phase: str, payload: bytes | Mapping[str, Any]) -> Failure | None:
        """Do a phase of a weight update; see `VllmEngine.receive`. From another process, `payload` comes pickled."""
        given = pickle.loads(payload) if isinstance(payload, bytes) else payload
        try:
            if phase == TransferPhase.CONNECT:
                self.shutdown_weight_transfer_engine()  # the connection to another learner
                self.init_weight_transfer_engine(given["init_info"])
            elif phase == TransferPhase.START:
                self.start_weight_update()
                self.weight_transfer_engine.expect(given["version"], given["checksum"])
            elif phase == TransferPhase.UPDATE:
                self.update_weights(given["update_info"] if "update_info" in given else _tensors(given["bucket"]))
            elif phase == TransferPhase.FINISH:
                self.finish_weight_update()
        except tuple(FAILURES.values()) as error:
            return next(name for name, kind in FAILURES.items() if isinstance(error, kind)), str(error)
        return None


def _tensors(bucket: SharedBucket) -> dict[str, Any]:
    return {"named_tensors": unpack([read(bucket)])}

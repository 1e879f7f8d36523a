"""Two processes that train together over gloo, and what the tests of ranks have them do."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

from rltf.errors import UserError
from rltf.files import newest_checkpoint
from rltf.learner.learner import Learner
from rltf.learner.policy import Policy, TokenOutputs
from rltf.learner.ranks import ALONE, Ranks
from rltf.learner.sft import SftProgress, SftReport, run_sft
from rltf.settings import Dtype
from rltf.transport.sharded import whole
from rltf.transport.weights import WeightsHandle
from tests.learner.samples import make_experiences, make_learner, make_references

# Workers are forked from a process that has imported these once.
_PRELOADED = ["peft", "tests.learner.samples", "transformers.models.llama.modeling_llama", "torch.distributed.fsdp"]
ANSWER_S = 300.0
Work = Callable[..., Any]


class Pair:
    """Two ranks. `run` calls a function with the `Ranks` of each process and returns both results."""

    def __init__(self, timeout_s: float = 120.0) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._store = store  # the ranks need it as long as they live
        self._ends: list[Connection] = []
        self.processes = []
        for rank in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, store.port, rank, timeout_s), daemon=True)
            process.start()
            theirs.close()
            self._ends.append(ours)
            self.processes.append(process)

    def run(self, work: Work, *args: Any) -> list[Any]:
        """The results of `work(ranks, *args)` on both. Raises AssertionError with the traceback of one that failed."""
        self.start(work, *args)
        return [self.result(rank) for rank in range(2)]

    def start(self, work: Work, *args: Any) -> None:
        """Have both do `work`."""
        for end in self._ends:
            end.send((work, args))

    def result(self, rank: int) -> Any:
        """What one of them returned. Raises EOFError if it died."""
        assert self._ends[rank].poll(ANSWER_S), f"rank {rank} does not answer"
        failed, result = self._ends[rank].recv()
        assert not failed, result
        return result

    def close(self) -> None:
        """Have both leave the group and end."""
        for end in self._ends:
            end.send(None)
        for process in self.processes:
            process.join()
            assert process.exitcode == 0

    def kill(self) -> None:
        """End both, whatever they do."""
        for process in self.processes:
            process.kill()
            process.join()


def _serve(end: Connection, port: int, rank: int, timeout_s: float) -> None:
    torch.set_num_threads(1)
    ranks = Ranks.join(TCPStore("127.0.0.1", port), rank, 2, device=torch.device("cpu"), timeout_s=timeout_s)
    while (task := end.recv()) is not None:
        work, args = task
        try:
            end.send((False, work(ranks, *args)))
        except Exception:  # noqa: BLE001 - told to the test
            end.send((True, traceback.format_exc()))
    ranks.leave()


@dataclass(frozen=True, slots=True)
class Trained:
    """Three updates: the statistics and the gradients of each, and the weights at the end."""

    stats: list[dict[str, float]]
    gradients: list[list[NDArray[np.float32]]]
    weights: dict[str, NDArray[np.float32]]


def new_learner(ranks: Ranks, model: Path, fields: dict[str, Any]) -> Learner:
    """A learner with reference programs."""
    learner = make_learner(model, ranks=ranks, **fields)
    learner.set_references(make_references(0))
    return learner


def train(ranks: Ranks, model: Path, fields: dict[str, Any], num_samples: int | None = None) -> Trained:
    """Make three updates of a new learner."""
    return updates(new_learner(ranks, model, fields), range(3), num_samples)


def updates(learner: Learner, indices: Iterable[int], num_samples: int | None = None) -> Trained:
    """Make updates, each with the samples of its index, or with the first `num_samples` of them."""
    stats, gradients = [], []
    for index in indices:
        prepared = learner.prepare(make_experiences(index)[:num_samples]) if learner.ranks.leads else None
        update = learner.update(prepared)
        stats.append({name: float(getattr(update, name)) for name in update.__slots__})
        gradients.append([_array(p.grad) for p in learner.policy.trained_parameters().values() if p.grad is not None])
        learner.keep_as_old()
    return Trained(stats, gradients, weights(learner))


def publish(ranks: Ranks, model: Path, fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is published after an update, in float32 and in order, and the weights of the model."""
    learner = new_learner(ranks, model, fields)
    updates(learner, [0])
    published: dict[str, Any] = {}

    def take(version: int, named: Iterable[tuple[str, torch.Tensor]], *, verify: bool) -> WeightsHandle:
        published.update((name, _array(tensor.float())) for name, tensor in named)
        return WeightsHandle(version, (), 1)

    assert learner.publish(by=take) == WeightsHandle(1, (), 1 if ranks.leads else 0)
    return published, {name: _array(value) for name, value in learner.policy.parameters()}


def save(ranks: Ranks, model: Path, fields: dict[str, Any], folder: Path) -> tuple[Trained, Trained]:
    """Make updates 0 and 1, write a checkpoint, and make updates 2 and 3."""
    learner = new_learner(ranks, model, fields)
    updates(learner, range(2))
    learner.save_checkpoint(folder)
    return updates(learner, [2]), updates(learner, [3])


def resume(ranks: Ranks, model: Path, fields: dict[str, Any], folder: Path) -> Trained:
    """Continue from the newest checkpoint with another update, and write a checkpoint after it."""
    learner = new_learner(ranks, model, fields)
    path = newest_checkpoint(folder)
    assert path is not None
    learner.resume(path)
    trained = updates(learner, [learner.step])
    learner.save_checkpoint(folder)
    return trained


def weights(learner: Learner) -> dict[str, NDArray[np.float32]]:
    """What is trained, whole."""
    return {name: _array(value) for name, value in learner.policy.trained_parameters().items()}


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return whole(tensor.detach()).clone().numpy()


def fine_tune(
    ranks: Ranks, model: Path, cache_dir: Path, stop: int | None = None
) -> tuple[SftReport, dict[str, NDArray[np.float32]]]:
    """Fine-tune a new learner. With `stop`, a first attempt is interrupted after as many updates."""
    sft = {"num_steps": 4, "batch_size": 4, "evaluate_every": 2, "learning_rate": 1e-3, "warmup_steps": 1}

    def interrupt(progress: SftProgress) -> None:
        if progress.step == stop:
            raise InterruptedError

    with contextlib.ExitStack() as stack:
        if stop is not None:
            stack.enter_context(pytest.MonkeyPatch.context()).setattr("rltf.learner.sft.STORE_EVERY_S", 0.0)
            learner = make_learner(model, ranks=ranks, sft=sft | {"cache_dir": cache_dir})
            with contextlib.suppress(InterruptedError):
                run_sft(learner, make_references(0, 12), seed=0, report=interrupt)
        learner = make_learner(model, ranks=ranks, sft=sft | {"cache_dir": cache_dir})
        return run_sft(learner, make_references(0, 12), seed=0), weights(learner)


def refuse_infinite_gradient(ranks: Ranks, model: Path) -> None:
    """Make an update in which one sample, and so only one rank, has an infinite gradient; then one without it."""
    learner = new_learner(ranks, model, {"micro_batch_tokens": 128, "rollout_is_threshold": 1e30})
    before, experiences = weights(learner), make_experiences(0)
    experiences[0] = replace(experiences[0], logprobs=np.full_like(experiences[0].logprobs, -1e4))
    with pytest.raises(FloatingPointError, match="step 1: the gradient norm is"):
        learner.update(learner.prepare(experiences) if ranks.leads else None)
    for name, value in weights(learner).items():
        np.testing.assert_array_equal(value, before[name])
    updates(learner, [1])


def load_without_layers(ranks: Ranks, model: Path) -> None:
    """Load a model of a kind whose layers transformers does not name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.LlamaForCausalLM._no_split_modules", None)
        patch.setattr("transformers.LlamaModel._no_split_modules", None)
        with pytest.raises(UserError, match=r"can only be trained by one worker: .*_no_split_modules"):
            new_learner(ranks, model, {})


def prepare_while_computing(ranks: Ranks, model: Path) -> tuple[torch.dtype, torch.dtype]:
    """The type of the model's parameters during a forward pass in bfloat16, and of what is prepared meanwhile."""
    learner = new_learner(ranks, model, {"dtype": Dtype.BFLOAT16})
    seen: list[torch.dtype] = []

    def prepare(*_: Any) -> None:
        seen[:] = [learner.policy.model.dtype, learner.prepare_with(make_experiences(1), []).table.behavior.dtype]

    learner.policy.model.base_model.register_forward_hook(prepare)
    updates(learner, [0])
    return seen[0], seen[1]


def die_in_forward(ranks: Ranks, model: Path, count: int) -> None:
    """Make an update in which rank 1 dies, after `count` forward passes; the first is that of the self-test."""
    forward, calls = Policy.forward, itertools.count()

    def dying(policy: Policy, *args: Any) -> TokenOutputs:
        if next(calls) == count and not ranks.leads:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(policy, *args)

    Policy.forward = dying  # type: ignore[method-assign, assignment]
    updates(new_learner(ranks, model, {"micro_batch_tokens": 128}), [0])


def eagerly(ranks: Ranks, work: Work, *args: Any) -> Any:
    """The result of `work` without building the kernels of what is compiled."""
    with torch.compiler.set_stance("force_eager"):
        return work(ranks, *args)


def alone(work: Work, *args: Any) -> Any:
    """The result of `work` in this process."""
    return work(ALONE, *args)

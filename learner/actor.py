"""The learner as a Ray actor: references to rollouts in, metrics, weights and checkpoints out.

While one update trains, another thread fetches and packs the rollouts of the next.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch
from ray.exceptions import GetTimeoutError, ObjectLostError

from rltf.errors import UserError
from rltf.files import prune
from rltf.learner.buffer import BufferItem
from rltf.learner.data import Experiences, TokenSequence, encode_references, save_rollouts
from rltf.learner.followers import Followers
from rltf.learner.learner import Learner
from rltf.learner.metrics import StepMetrics, StepReport
from rltf.learner.prepared import PreparedUpdate
from rltf.learner.process import prepare_process, threads_for_sft
from rltf.learner.replay import Recorder
from rltf.learner.sft import SftProgress, SftReport, run_sft
from rltf.problems.types import Problem
from rltf.settings import GeneratorSettings, Settings, WeightTransfer
from rltf.transport.folders import HomeFolders
from rltf.transport.model_folder import prompt_format
from rltf.transport.weights import WeightsHandle, publish

if TYPE_CHECKING:
    from rltf.transport.transfer import WeightSender

_PROGRESS = "progress"
_TRANSFER = "transfer"


@dataclass(frozen=True, slots=True, eq=False)
class FetchedUpdate:
    """The rollouts of an update by id, and the ids of those `lost` with the process that held them.

    `prepared` is None if all are lost.
    """

    rollouts: dict[str, Experiences]
    lost: tuple[str, ...]
    prepared: PreparedUpdate | None


class Prefetcher:
    """Fetches and packs updates in the order in which they are trained.

    Usage:
        prefetcher.announce(next_items)       # at most one at a time; `get` must ask for it next
        fetched = prefetcher.get(items)       # waits for the rollouts
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._announced: tuple[list[str], Future[FetchedUpdate]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetcher")

    def announce(self, items: Sequence[BufferItem]) -> None:
        """Start to fetch and pack the rollouts that the next `get` asks for."""
        self._announced = _ids(items), self._thread.submit(self._prepare, items)

    def get(self, items: Sequence[BufferItem]) -> FetchedUpdate:
        """The update with these rollouts.

        Raises ValueError if other rollouts were announced, TimeoutError if the object store does not answer in time.
        """
        if self._announced is None:
            self.announce(items)
        assert self._announced is not None  # just announced
        (announced, future), self._announced = self._announced, None
        if announced != _ids(items):
            raise ValueError(f"expected the announced rollouts {announced}, got {_ids(items)}")
        return future.result()

    def _prepare(self, items: Sequence[BufferItem]) -> FetchedUpdate:
        rollouts = fetch(items, self._learner.settings.fetch_timeout_s)
        lost = tuple(rollout_id for rollout_id in _ids(items) if rollout_id not in rollouts)
        experiences = [experience for rollout in rollouts.values() for experience in rollout]
        return FetchedUpdate(rollouts, lost, self._learner.prepare(experiences) if rollouts else None)


def fetch(items: Sequence[BufferItem], timeout_s: float) -> dict[str, Experiences]:
    """The rollouts of `items` by id, without those that the object store has lost.

    Raises TimeoutError if it does not answer within `timeout_s`.
    """
    try:
        return dict(zip(_ids(items), ray.get([item.ref for item in items], timeout=timeout_s), strict=True))
    except ObjectLostError:  # does not say which one
        if len(items) == 1:
            return {}
        return {rollout_id: rollout for item in items for rollout_id, rollout in fetch([item], timeout_s).items()}
    except GetTimeoutError as error:
        raise TimeoutError(
            f"the learner timed out after {timeout_s:g} s waiting for {len(items)} rollouts from the object store"
        ) from error


def _ids(items: Sequence[BufferItem]) -> list[str]:
    return [item.meta.rollout_id for item in items]


@ray.remote(concurrency_groups={_PROGRESS: 1, _TRANSFER: 1})  # type: ignore[call-overload]  # ray leaves it out of its signature
class LearnerActor:
    """A `Learner` that takes rollouts by reference. It loads the model in folder `model` when it starts.

    Call `set_references`, and then `sft` or `resume`, before `step`. Calls run one at a time, except `progress` and
    `send`, which run alongside them.
    """

    def __init__(
        self,
        model: Path,
        settings: Settings,
        home: HomeFolders | None = None,
        recorder: Recorder | None = None,
        critic: Path | None = None,
        follower_options: Mapping[str, Any] | None = None,
    ) -> None:
        """`model`, `critic`, and every path given to a method, is on the node of `home`; by default on this node.

        `follower_options` are Ray's options for the other ranks, which this one starts (`learner.num_workers`).
        """
        self._home = home if home is not None else HomeFolders.here()
        prepare_process(settings)
        folder = self._home.fetch(model)
        critic = None if critic is None else self._home.fetch(critic)
        self._followers = Followers(settings, follower_options or {}, folder, critic)
        self._learner = Learner(folder, settings, critic, self._followers.ranks)
        self._form = prompt_format(folder, self._learner.policy.tokenizer, settings.model)
        context = self._learner.policy.max_length
        if settings.model.max_model_len > context:
            raise UserError(
                f"model.max_model_len {settings.model.max_model_len} exceeds the {context} tokens that {model} can be "
                "trained on (its positions, or its attention window): lower model.max_model_len"
            )
        self._prefetcher = Prefetcher(self._learner)
        self._settings = settings
        self._recorder = recorder
        transfer = settings.generator.weight_transfer
        self._sender = None if transfer == WeightTransfer.OBJECT_STORE else _sender(settings.generator)
        self._references: list[TokenSequence] = []
        self._progress: SftProgress | None = None

    def __repr__(self) -> str:
        """The prefix of this actor's log lines, and of its methods in the Ray dashboard."""
        return "learner"

    def set_references(self, problems: Sequence[Problem]) -> int:
        """Use the reference programs of `problems` for SFT and for the supervised term; returns their number.

        Raises UserError if there are none although the supervised term has a weight.
        """
        self._references = encode_references(
            problems,
            self._learner.policy.tokenizer,
            self._form,
            max_length=self._settings.model.max_model_len,
        )
        with self._followers.also("set_references", self._references):
            self._learner.set_references(self._references)
        return len(self._references)

    def sft(self) -> SftReport:
        """Run the SFT stage, with all of the node's cores since the generators wait; see `learner.sft.run_sft`."""
        with threads_for_sft(self._settings), self._followers.also("sft"):
            return run_sft(self._learner, self._references, seed=self._settings.run.seed, report=self._note)

    def step(self, items: Sequence[BufferItem], ahead: Sequence[BufferItem] = ()) -> StepReport:
        """Make one update with the rollouts `items`, and meanwhile fetch `ahead`, those of the next update.

        Raises what `Prefetcher.get` and `Learner.update` raise.
        """
        start = time.monotonic()
        fetched = self._prefetcher.get(items)
        wait_s = time.monotonic() - start
        if ahead:
            self._prefetcher.announce(ahead)
        if fetched.prepared is None:
            return StepReport(None, (), fetched.lost)
        recorder = self._recorder
        recording = (
            contextlib.nullcontext() if recorder is None else recorder.recording(self._learner, fetched.prepared)
        )
        with recording, self._followers.also("update"):
            update = self._learner.update(fetched.prepared)
        metrics = StepMetrics.of(
            update,
            list(fetched.rollouts.values()),
            step=self._learner.step,
            weights_version=self._learner.version,
            wait_s=wait_s,
            seconds=time.monotonic() - start,
            gpu_memory_bytes=torch.cuda.max_memory_reserved(),
            over_turns=self._settings.generator.max_turns > 1,
        )
        return StepReport(metrics, tuple(fetched.rollouts), fetched.lost)

    def publish(self) -> WeightsHandle:
        """Publish the weights; see `Learner.publish`."""
        by = publish if self._sender is None else self._sender.publish
        with self._followers.also("publish"):
            return self._learner.publish(self._settings.generator.verify_weights_every, by)

    @ray.method(concurrency_group=_TRANSFER)
    def send(self, generator: Any, name: str) -> int:
        """Send the weights to one generator, while updates go on; see `WeightSender.send`."""
        assert self._sender is not None  # only a handle that the sender published leads here
        return self._sender.send(generator, name)

    def save_checkpoint(self, folder: Path, run_state: str, items: Sequence[BufferItem], keep: int) -> Path:
        """Write a checkpoint with the driver's `run_state` and the rollouts `items`, which wait for their update.

        Rollouts that the object store has lost are left out; a resumed run samples them again. Only the newest `keep`
        checkpoints stay on this node. See `Learner.save_checkpoint`.
        """

        def write(trainer_state: Path) -> None:
            (trainer_state / "run_state.json").write_text(run_state)
            rollouts = fetch(items, self._settings.learner.fetch_timeout_s)
            save_rollouts(trainer_state / "rollouts.npz", list(rollouts.items()))

        with self._followers.also("save_checkpoint", folder):
            path = self._learner.save_checkpoint(folder, write)
        self._home.send(path)
        prune(folder, keep)
        return path

    def resume(self, path: Path, version: int = 0) -> int:
        """Continue from a checkpoint; returns the number of updates so far. See `Learner.resume`."""
        path = self._home.fetch(path)
        with self._followers.also("resume", path, version):
            self._learner.resume(path, version)
        return self._learner.step

    def at_least_version(self, version: int) -> int:
        """Make the next published weights newer than `version`; returns the number of updates so far."""
        self._learner.version = max(self._learner.version, version)
        return self._learner.step

    @ray.method(concurrency_group=_PROGRESS)
    def progress(self) -> SftProgress | None:
        """The progress of SFT, also while it runs; None before its first update."""
        return self._progress

    def _note(self, progress: SftProgress) -> None:
        self._progress = progress


def _sender(generator: GeneratorSettings) -> WeightSender:
    from rltf.transport.transfer import WeightSender, init_info  # vLLM takes seconds to import

    return WeightSender(partial(init_info, generator.weight_transfer, generator.tensor_parallel_size))

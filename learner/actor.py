"""The learner as a Ray actor: references to rollouts in, metrics, weights and checkpoints out."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch
from ray.exceptions import ObjectLostError
from transformers.utils.logging import disable_progress_bar

from errors import UserError
from files import prune
from learner.experience import Experiences
from learner.learner import Learner
from learner.metrics import StepMetrics, StepReport, UpdateStats
from learner.prefetcher import Item, Prefetcher
from learner.replay import Recorder
from learner.sft import SftProgress, SftReport, run_sft
from learner.stored_rollouts import save_rollouts
from learner.supervised import SupervisedExample, encode_references
from problems.types import Problem
from sandbox.verdict import Outcome
from settings import LearnerSettings, ModelSettings
from transport.folders import HomeFolders
from transport.weights import WeightsHandle, publish

if TYPE_CHECKING:
    from transport.transfer import WeightSender

_PROGRESS = "progress"
_TRANSFER = "transfer"

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


@ray.remote(concurrency_groups={_PROGRESS: 1, _TRANSFER: 1})  # type: ignore[call-overload]  # ray leaves it out of its signature
class LearnerActor:
    """`Learner` on rollouts that it is given by reference; loads the folder `model` when it is made.

    Whoever starts it calls `set_references`, and `warm_start` or `resume`, before `step`. Calls run one after the
    other, `progress` and `send` beside them.
    """

    def __init__(
        self,
        model: str,
        model_settings: ModelSettings,
        learner_settings: LearnerSettings,
        *,
        temperature: float,
        seed: int,
        deterministic: bool = False,
        home: HomeFolders | None = None,
        recorder: Recorder | None = None,
        verify_weights_every: int = 0,
        weight_transfer: str = "object_store",
    ) -> None:
        """`model` and the paths of other methods are of the node of `home`; none: of this node."""
        self._home = home if home is not None else HomeFolders.here()
        disable_progress_bar()  # type: ignore[no-untyped-call]
        _keep_freed_memory()
        if deterministic:
            torch.use_deterministic_algorithms(True)
            torch.set_num_threads(1)  # sums in another order are other sums
        self._learner = Learner(
            str(self._home.fetch(Path(model))),
            learner_settings,
            dtype=model_settings.dtype,
            temperature=temperature,
            seed=seed,
            lora=model_settings.lora,
        )
        context = self._learner.policy.max_length
        if model_settings.max_model_len > context:
            raise UserError(
                f"model.max_model_len {model_settings.max_model_len} exceeds the {context} tokens that {model} can be "
                "trained on (its positions, or its attention window): lower model.max_model_len"
            )
        self._feed = Prefetcher(self._learner)
        self._model_settings = model_settings
        self._seed = seed
        self._recorder = recorder
        self._verify_weights_every = verify_weights_every
        self._sender = None if weight_transfer == "object_store" else _sender(weight_transfer)
        self._examples: list[SupervisedExample] = []
        self._progress: SftProgress | None = None

    def __repr__(self) -> str:
        """What Ray puts before each line of this actor's log, and before its methods in the dashboard."""
        return "learner"

    def set_references(self, problems: Sequence[Problem]) -> int:
        """Take the reference programs of `problems` for the supervised term and the warm start; returns their number.

        Raises UserError where there are none although the supervised term has a weight.
        """
        self._examples = self._encode(problems)
        self._learner.set_examples(self._examples)
        return len(self._examples)

    def sft(self) -> SftReport:
        """See `learner.sft.run_sft`."""
        return run_sft(self._learner, self._examples, seed=self._seed, report=self._note)

    def step(self, items: Sequence[Item], ahead: Sequence[Item] = ()) -> StepReport:
        """Make one update with the rollouts `items`; those `ahead`, of the next update, are fetched meanwhile.

        Raises what `Prefetcher.get` and `Learner.update` do.
        """
        start = time.monotonic()
        fed = self._feed.get(items)
        wait_s = time.monotonic() - start
        if ahead:
            self._feed.announce(ahead)
        lost = tuple(item.meta.rollout_id for item in fed.lost)
        if fed.prepared is None:
            return StepReport(None, (), lost)
        version = self._learner.version
        with (
            contextlib.nullcontext() if self._recorder is None else self._recorder.keeping(self._learner, fed.prepared)
        ):
            update = self._learner.update(fed.prepared)
        metrics = _metrics(self._learner, update, fed.items, version, wait_s, time.monotonic() - start)
        return StepReport(metrics, tuple(item.meta.rollout_id for item in fed.items), lost)

    def publish(self) -> WeightsHandle:
        """See `Learner.publish`."""
        by = publish if self._sender is None else self._sender.publish
        return self._learner.publish(self._verify_weights_every, by)

    @ray.method(concurrency_group=_TRANSFER)
    def send(self, generator: Any, name: str) -> int:
        """See `WeightSender.send`. To one after the other, while updates are made."""
        assert self._sender is not None  # who asks has a handle of weights that it holds
        return self._sender.send(generator, name)

    def save_checkpoint(self, folder: Path, run_state: str, items: Sequence[Item], keep: int) -> Path:
        """See `Learner.save_checkpoint`; the driver's state and the rollouts that wait for their update go with it.

        Only the newest `keep` checkpoints stay on this node.

        Rollouts that are gone from the object store are left out: who resumes has them sampled again.
        """

        def write(trainer_state: Path) -> None:
            (trainer_state / "run_state.json").write_text(run_state)
            save_rollouts(trainer_state / "rollouts.npz", list(self._fetched(items)))

        path = self._learner.save_checkpoint(folder, write)
        self._home.send(path)
        prune(folder, keep)
        return path

    def resume(self, path: Path, version: int = 0) -> int:
        """See `Learner.resume`; returns the number of updates made so far."""
        self._learner.resume(self._home.fetch(path), version)
        return self._learner.step

    def at_least_version(self, version: int) -> int:
        """Weights published next are newer than `version`; returns the number of updates made so far."""
        self._learner.version = max(self._learner.version, version)
        return self._learner.step

    def evaluate_loss(self, problems: Sequence[Problem]) -> float:
        """Mean cross-entropy per token, in nats, of the reference programs of `problems`."""
        return self._learner.evaluate_loss(self._encode(problems))

    @ray.method(concurrency_group=_PROGRESS)
    def progress(self) -> SftProgress | None:
        """Where the warm start is; None before its first update. Answers while it runs."""
        return self._progress

    def _encode(self, problems: Sequence[Problem]) -> list[SupervisedExample]:
        return encode_references(
            problems,
            self._learner.policy.tokenizer,
            chat_template=self._model_settings.chat_template,
            max_length=self._model_settings.max_model_len,
        )

    def _fetched(self, items: Sequence[Item]) -> Iterator[tuple[str, Experiences]]:
        for item in items:
            with contextlib.suppress(ObjectLostError):
                timeout_s = self._learner.settings.fetch_timeout_s
                yield item.meta.rollout_id, ray.get(item.ref, timeout=timeout_s)

    def _note(self, progress: SftProgress) -> None:
        self._progress = progress


def _sender(weight_transfer: str) -> WeightSender:
    from transport.transfer import WeightSender, init_info  # vLLM takes seconds to import

    return WeightSender(partial(init_info, weight_transfer))


def _keep_freed_memory() -> None:
    """Have glibc keep freed blocks for the next micro-batch, which needs blocks of the same sizes.

    By default tensors are mapped, page-faulted in and unmapped every time: 8 % of an update of a small model on a CPU.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc alone has it
        library.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most it takes
        library.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def _metrics(
    learner: Learner,
    update: UpdateStats,
    items: Sequence[Item],
    version: int,
    wait_s: float,
    seconds: float,
) -> StepMetrics:
    outcomes: Counter[str] = Counter()
    staleness: Counter[int] = Counter()
    lags = [max(0, version - item.meta.version) for item in items]
    for item, lag in zip(items, lags, strict=True):
        staleness[lag] += item.meta.num_samples
        outcomes.update({str(outcome): count for outcome, count in item.meta.outcomes})
    num_samples = sum(item.meta.num_samples for item in items)
    return StepMetrics(
        step=learner.step,
        weights_version=learner.version,
        update=update,
        reward_mean=sum(item.meta.reward_sum for item in items) / num_samples,
        pass_rate=outcomes[Outcome.PASSED] / num_samples,
        outcomes=dict(outcomes),
        staleness={str(lag): count for lag, count in sorted(staleness.items())},
        staleness_mean=sum(lags) / len(lags),
        staleness_max=max(lags),
        tokens_per_s=update.num_tokens / seconds,
        wait_s=wait_s,
        seconds=seconds,
        gpu_memory_bytes=torch.cuda.max_memory_reserved(),
    )

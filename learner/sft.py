"""Supervised fine-tuning (SFT) on reference programs until it stops helping; any later gain is then due to RL.

A fine-tuned model is cached under the hash of everything that determines it: initial weights, data, settings, seed. So
is the state of a stage that takes long, from which the next attempt continues if this one is interrupted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from rltf.files import is_cached, read_json, write_json
from rltf.learner.checkpoints import load_optimizer, save_optimizer
from rltf.learner.data import ReferenceSampler, TokenSequence, fingerprint, split
from rltf.learner.learner import Learner
from rltf.learner.optim import make_optimizer
from rltf.settings import LossSettings, SftSettings
from rltf.transport.weights import to_numpy

logger = logging.getLogger(__name__)

# Increase this when a code change gives another model for the same inputs.
_CACHE_FORMAT = 3

# An interruption costs at most about this much, unless the loss has stopped falling.
STORE_EVERY_S = 300.0

_SUPERVISED = LossSettings(rl_weight=0.0, supervised_weight=1.0, rollout_is_threshold=None)


@dataclass(frozen=True, slots=True)
class SftReport:
    """The result of the stage: weights from `best_step` of `num_steps` updates, with their loss in nats per token."""

    num_steps: int
    best_step: int
    validation_loss: float
    cached: bool = False


@dataclass(frozen=True, slots=True)
class SftProgress:
    """The state of the stage after `step` updates. `validation_loss` is the latest one, NaN before the first."""

    step: int
    num_steps: int
    train_loss: float
    validation_loss: float


@dataclass
class _Unfinished:
    """The state of a stage in folders `PREFIX-N` of the cache, after N updates and with the best weights so far."""

    learner: Learner
    prefix: Path
    _stored_at: float = field(default_factory=time.monotonic)

    def load(self, optimizer: torch.optim.Optimizer, sampler: ReferenceSampler) -> tuple[int, float]:
        """Continue from the newest state. Returns its number of updates and validation loss; 0 and inf if none."""
        folder = self.learner.ranks.broadcast(self._newest() if self.learner.ranks.leads else None)
        if folder is None:
            return 0, math.inf
        self.learner.policy.load_weights(folder)
        load_optimizer(optimizer, self.learner.policy.trained_parameters(), folder / "optimizer")
        state = read_json(folder / "state.json")
        sampler.num_drawn = state["num_drawn"]
        logger.info("SFT: continuing after %d updates, from %s", state["step"], folder)
        return state["step"], state["validation_loss"]

    def store(self, optimizer: torch.optim.Optimizer, sampler: ReferenceSampler, step: int, loss: float) -> None:
        """Write the state after `step` updates if the last one is old, and remove older ones."""
        ranks, policy = self.learner.ranks, self.learner.policy
        if not ranks.broadcast(time.monotonic() - self._stored_at >= STORE_EVERY_S):
            return

        def write(path: Path) -> None:
            policy.save_state(path)
            save_optimizer(optimizer, policy.trained_parameters(), path / "optimizer")
            if ranks.leads:
                write_json(path / "state.json", {"step": step, "num_drawn": sampler.num_drawn, "validation_loss": loss})

        folder = self.prefix.with_name(f"{self.prefix.name}-{step}")
        with contextlib.suppress(FileExistsError):  # another run of the same stage
            ranks.write_folder(folder, write)
        self.remove(but=folder)
        self._stored_at = time.monotonic()

    def remove(self, but: Path | None = None) -> None:
        """Remove all states, or all others."""
        if self.learner.ranks.leads:
            for folder in self._folders():
                if folder != but:
                    shutil.rmtree(folder, ignore_errors=True)  # another run may remove it too

    def _newest(self) -> Path | None:
        return next((folder for folder in reversed(self._folders()) if is_cached(folder)), None)

    def _folders(self) -> list[Path]:
        found = self.prefix.parent.glob(f"{self.prefix.name}-*")
        return sorted(found, key=lambda folder: int(folder.name.rpartition("-")[2]))


def run_sft(
    learner: Learner,
    references: Sequence[TokenSequence],
    *,
    seed: int,
    report: Callable[[SftProgress], None] = lambda progress: None,
    validation: Sequence[TokenSequence] = (),
) -> SftReport:
    """Fine-tune the learner's policy on `references`, or load the result of an identical stage from the cache.

    Without `validation`, a share of the prompts is held out for it.

    Stops after `learner.sft.num_steps` updates, or after `patience` validations without a lower loss. The policy then
    has the weights with the lowest validation loss. Raises UserError if no problems can be held out for validation.
    """
    settings = learner.settings.sft
    if settings.num_steps == 0:
        raise ValueError("learner.sft.num_steps is 0: there is no SFT to run")
    key = _key(learner, [*references, *validation], seed)
    folder = None if settings.cache_dir is None else settings.cache_dir / f"sft-{key}"
    ranks = learner.ranks
    if folder is not None and ranks.broadcast(is_cached(folder)):
        learner.policy.load_weights(folder)
        learner.start_reinforcement()
        stored = ranks.broadcast(read_json(folder / "sft.json") if ranks.leads else None)
        logger.info("SFT: loaded the cached model %s", folder)
        return SftReport(**{**stored, "cached": True})
    sides = (references, validation) if validation else _held_out(learner, references, seed)
    unfinished = None if folder is None else _Unfinished(learner, folder.with_name(f"unfinished-{folder.name}"))
    result = _train(learner, *sides, seed, report, unfinished)
    learner.start_reinforcement()

    def write(path: Path) -> None:
        learner.policy.save_state(path)
        if ranks.leads:
            write_json(path / "sft.json", asdict(result))

    if folder is not None and unfinished is not None:
        try:
            ranks.write_folder(folder, write)
        except FileExistsError:
            logger.info("SFT: another run wrote %s first", folder)
        unfinished.remove()
    return result


def _held_out(
    learner: Learner, references: Sequence[TokenSequence], seed: int
) -> tuple[list[TokenSequence], list[TokenSequence]]:
    return split(references, validation_share=learner.settings.sft.validation_share, seed=seed)


def _train(
    learner: Learner,
    training: Sequence[TokenSequence],
    validation: Sequence[TokenSequence],
    seed: int,
    report: Callable[[SftProgress], None],
    unfinished: _Unfinished | None,
) -> SftReport:
    settings = learner.settings.sft
    sampler = ReferenceSampler(training, seed=seed)
    optimizer = make_optimizer(learner.policy.trained_parameters(), learner.settings.optim)
    best_step, best_loss = (0, math.inf) if unfinished is None else unfinished.load(optimizer, sampler)
    best_weights = _copy(learner)
    validation_loss, step = math.nan, best_step
    for step in range(best_step + 1, settings.num_steps + 1):
        drawn = sampler.draw(settings.batch_size)
        prepared = learner.prepare_with((), drawn, loss_agg_mode=_SUPERVISED.loss_agg_mode)
        stats = learner.optimize(learner.share(prepared), optimizer, _learning_rate(settings, step), _SUPERVISED)
        if step % settings.evaluate_every == 0 or step == settings.num_steps:
            validation_loss = learner.evaluate_loss(validation)
            if validation_loss < best_loss:
                best_loss, best_step = validation_loss, step
                best_weights = _copy(learner)
                if unfinished is not None:
                    unfinished.store(optimizer, sampler, step, validation_loss)
            logger.info("SFT step %d: loss %.4f, validation loss %.4f", step, stats.loss, validation_loss)
        report(SftProgress(step, settings.num_steps, stats.loss, validation_loss))
        if step - best_step >= settings.patience * settings.evaluate_every and best_step:
            break
    with torch.no_grad():
        for name, value in learner.policy.trained_parameters().items():
            value.copy_(best_weights[name])
    return SftReport(step, best_step, best_loss)


def _copy(learner: Learner) -> dict[str, torch.Tensor]:
    """A copy of the weights that are trained, by name."""
    return {name: value.detach().clone() for name, value in learner.policy.trained_parameters().items()}


def _learning_rate(settings: SftSettings, step: int) -> float:
    """A linear rise over `warmup_steps`, then half a cosine down to `final_learning_rate` at `num_steps`."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.num_steps - settings.warmup_steps)
    share = settings.final_learning_rate
    return settings.learning_rate * (share + (1 - share) * 0.5 * (1 + math.cos(math.pi * progress)))


def _key(learner: Learner, references: Sequence[TokenSequence], seed: int) -> str:
    settings, model = learner.settings, learner.model_settings
    weights = hashlib.sha256()
    for name, value in learner.policy.parameters():
        weights.update(name.encode())
        weights.update(to_numpy(value).data)
    facts = {
        "format": _CACHE_FORMAT,
        "model": learner.policy.model.config.to_json_string(),
        "weights": weights.hexdigest(),
        "dtype": model.dtype,
        "lora": model.lora.model_dump(mode="json", exclude={"publish"}) if model.lora.rank else None,
        "references": fingerprint(references),
        "sft": settings.sft.model_dump(mode="json", exclude={"cache_dir"}),
        "optim": settings.optim.model_dump(mode="json", include={"name", "weight_decay", "max_grad_norm"}),
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]

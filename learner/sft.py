"""Supervised fine-tuning on reference programs until it gains no more, so that what follows is RL's.

A warm-started model is kept by the hash of everything it follows from: initial weights, data, settings, seed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from files import write_folder
from learner.learner import Learner, make_optimizer
from learner.supervised import ExampleSampler, SupervisedExample, fingerprint, split
from settings import LossAggMode, LossSettings, SftSettings
from transport.weights import to_numpy

logger = logging.getLogger(__name__)

# Raised when the same inputs would give another model.
_CACHE_FORMAT = 1

_SUPERVISED = LossSettings(
    rl_weight=0.0, supervised_weight=1.0, loss_agg_mode=LossAggMode.TOKEN_MEAN, rollout_is_threshold=None
)


@dataclass(frozen=True, slots=True)
class SftReport:
    """How the stage went. `num_steps` were made, the weights are those after `best_step`; losses in nats per token."""

    num_steps: int
    best_step: int
    train_loss: float
    validation_loss: float
    seconds: float
    cached: bool


@dataclass(frozen=True, slots=True)
class SftProgress:
    """Where the stage is: `validation_loss` is the latest one, NaN before the first."""

    step: int
    num_steps: int
    train_loss: float
    validation_loss: float


def run_sft(
    learner: Learner,
    examples: Sequence[SupervisedExample],
    *,
    seed: int,
    report: Callable[[SftProgress], None] = lambda progress: None,
) -> SftReport:
    """Fine-tune the learner's policy on `examples`, or take the result of an equal stage from the cache.

    Ends after `learner.sft.num_steps` updates, or after `patience` validations without a lower loss; the policy
    then has the weights of the lowest one. Raises UserError where `examples` cannot be split for validation.
    """
    settings = learner.settings.sft
    if settings.num_steps == 0:
        raise ValueError("learner.sft.num_steps is 0: there is no warm start to run")
    start = time.monotonic()
    key = _key(learner, examples, seed)
    folder = None if settings.cache_dir is None else settings.cache_dir / f"warm-start-{key}"
    if folder is not None and folder.is_dir():
        learner.policy.load_weights(folder)
        learner.start_reinforcement()
        stored = json.loads((folder / "sft.json").read_text())
        logger.info("warm start taken from %s", folder)
        return SftReport(**{**stored, "cached": True, "seconds": time.monotonic() - start})
    result = _train(learner, examples, settings, seed, start, report)
    learner.start_reinforcement()

    def write(path: Path) -> None:
        learner.policy.save_state(path)
        (path / "sft.json").write_text(json.dumps(asdict(result), indent=2) + "\n")

    if folder is not None:
        try:
            write_folder(folder, write)
        except FileExistsError:
            logger.info("another run has written %s meanwhile", folder)
    return result


def _train(
    learner: Learner,
    examples: Sequence[SupervisedExample],
    settings: SftSettings,
    seed: int,
    start: float,
    report: Callable[[SftProgress], None],
) -> SftReport:
    training, validation = split(examples, validation_share=settings.validation_share, seed=seed)
    sampler = ExampleSampler(training, seed=seed)
    optimizer = make_optimizer(learner.policy, learner.settings.optim.weight_decay)
    best_loss, best_step, best_train_loss = math.inf, 0, math.nan
    best_weights: dict[str, torch.Tensor] = {}
    validation_loss, step = math.nan, 0
    for step in range(1, settings.num_steps + 1):
        prepared = learner.prepare_with((), sampler.draw(settings.batch_size), sampler.state)
        stats = learner.optimize(prepared, optimizer, _learning_rate(settings, step), _SUPERVISED)
        if step % settings.evaluate_every == 0 or step == settings.num_steps:
            validation_loss = learner.evaluate_loss(validation)
            if validation_loss < best_loss:
                best_loss, best_step, best_train_loss = validation_loss, step, stats.loss
                trained = learner.policy.trained_parameters()
                best_weights = {name: value.detach().clone() for name, value in trained.items()}
            logger.info("warm start step %d: loss %.4f, validation %.4f", step, stats.loss, validation_loss)
        report(SftProgress(step, settings.num_steps, stats.loss, validation_loss))
        if step - best_step >= settings.patience * settings.evaluate_every and best_step:
            break
    with torch.no_grad():
        for name, value in learner.policy.trained_parameters().items():
            value.copy_(best_weights[name])
    return SftReport(
        num_steps=step,
        best_step=best_step,
        train_loss=best_train_loss,
        validation_loss=best_loss,
        seconds=time.monotonic() - start,
        cached=False,
    )


def _learning_rate(settings: SftSettings, step: int) -> float:
    """Linear rise over `warmup_steps`, then half a cosine down to `final_learning_rate` at `num_steps`."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.num_steps - settings.warmup_steps)
    share = settings.final_learning_rate
    return settings.learning_rate * (share + (1 - share) * 0.5 * (1 + math.cos(math.pi * progress)))


def _key(learner: Learner, examples: Sequence[SupervisedExample], seed: int) -> str:
    settings = learner.settings
    weights = hashlib.sha256()
    for name, value in learner.policy.model.named_parameters():
        weights.update(name.encode())
        weights.update(to_numpy(value).data)
    facts = {
        "format": _CACHE_FORMAT,
        "model": learner.policy.model.config.to_json_string(),
        "weights": weights.hexdigest(),
        "dtype": learner.dtype,
        "lora": learner.lora.model_dump(mode="json", exclude={"publish"}) if learner.lora else None,
        "examples": fingerprint(examples),
        "sft": settings.sft.model_dump(mode="json", exclude={"cache_dir"}),
        "learner": settings.optim.model_dump(mode="json", include={"weight_decay", "max_grad_norm"}),
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]

"""Whether a model fits: the memory of learner and generators beside that of their cards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from rltf.actors.memory import GeneratorMemory, generator_memory
from rltf.learner.memory import LearnerMemory, learner_memory
from rltf.settings import GIB, Engine, PlanOptions, Settings
from rltf.transport.model_folder import hollow_model

# What actors may fill of a card. The rest is for CUDA's context and graphs, kernels, and gaps between tensors.
USABLE = 0.9


@dataclass(frozen=True, slots=True)
class Need:
    """The memory that a model with so many parameters needs with the settings."""

    num_parameters: int
    learner: LearnerMemory
    generator: GeneratorMemory


@dataclass(frozen=True, slots=True)
class Card:
    """A card, or a share of one: the actors on it, the bytes that they need, and those that they may fill."""

    actors: str
    needed: int
    usable: int

    @property
    def fits(self) -> bool:
        return self.needed <= self.usable


def needs(config: PreTrainedConfig, settings: Settings) -> Need:
    """What the actors need for a model with `config`. Raises UserError for adapters that the model cannot have."""
    num_parameters = sum(parameter.numel() for parameter in hollow_model(config, torch.float32).parameters())
    return Need(num_parameters, learner_memory(config, settings), generator_memory(config, settings))


def gpu_bytes(plan: PlanOptions) -> int | None:
    """The memory of the cards to plan for: that of `plan`, or of this machine's first one. None if neither is known."""
    if plan.gpu_memory_gib is not None:
        return int(plan.gpu_memory_gib * GIB)
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def cards(need: Need, settings: Settings, gpu_bytes: int) -> list[Card]:
    """The different cards of a run, each with a memory of `gpu_bytes`. Actors on CPUs have none.

    If learner and generators ask for one GPU or less together, they share one. Otherwise each may fill its share.
    """
    learner, generator = settings.learner.num_gpus, settings.generator.num_gpus
    num_generators = settings.generator.num_generators if generator else 0
    usable = gpu_bytes * USABLE
    is_one = settings.learner.num_workers == 1
    if is_one and learner and num_generators and learner + num_generators * generator <= 1:
        needed = need.learner.total + num_generators * need.generator.total
        return [Card(f"learner and {_generators(num_generators)}", needed, int(usable))]
    name = "learner" if settings.learner.num_workers == 1 else "each learner worker"
    sampler = "each generator" if generator <= 1 else f"each of a generator's {generator:g} GPUs"
    alone = ((name, learner, need.learner.total), (sampler, min(generator, 1), need.generator.total))
    return [Card(actors, total, int(usable * share)) for actors, share, total in alone if share]


def advice(need: Need, settings: Settings, found: list[Card]) -> list[str]:
    """What to change so that the actors fit, and so that no completion waits for room in the cache."""
    said = []
    for card in found:
        if not card.fits:
            changes = [*_learner_changes(need, settings)] if "learner" in card.actors else []
            changes += [*_generator_changes(need, settings)] if "generator" in card.actors else []
            said.append(
                f"{card.actors}: does not fit, {card.needed / GIB:.1f} of {card.usable / GIB:.1f} GiB. What helps: "
                f"{', '.join([*changes, 'use a smaller model'])}"
            )
    generator = settings.generator
    if generator.engine is Engine.VLLM and need.generator.cache < need.generator.cache_needed:
        needed = need.generator.cache_needed * generator.tensor_parallel_size
        num_full = need.generator.cache * generator.max_num_seqs // need.generator.cache_needed
        said.append(
            f"generator.kv_cache_bytes holds {num_full} completions of model.max_model_len "
            f"{settings.model.max_model_len} at once, and generator.max_num_seqs is {generator.max_num_seqs}: if they "
            f"are long, some wait. {needed} bytes ({needed / GIB:.1f} GiB) would hold them all"
        )
    return said


def _learner_changes(need: Need, settings: Settings) -> Iterator[str]:
    """Changes that save memory in the learner, those that cost least first."""
    learner = settings.learner
    if not learner.activation_checkpointing:
        yield "set learner.activation_checkpointing to true"
    if need.learner.working > GIB and learner.micro_batch_tokens > settings.model.max_model_len + 7:
        yield f"lower learner.micro_batch_tokens (now {learner.micro_batch_tokens})"
    if learner.num_gpus == 1:
        yield f"raise learner.num_workers (now {learner.num_workers}), with a card for each"
    if not settings.model.lora.rank:
        yield "train adapters (model.lora.rank 16)"
    if need.learner.copies and learner.loss.kl_loss_coef:
        yield "set learner.loss.kl_loss_coef to 0, which needs a second copy of what is trained"
    if settings.generator.num_gpus + settings.learner.num_gpus <= 1:
        yield "set learner.num_gpus and generator.num_gpus to 1, so that each has a card"


def _generator_changes(need: Need, settings: Settings) -> Iterator[str]:
    generator = settings.generator
    if generator.engine is Engine.VLLM and need.generator.cache > GIB:
        yield f"lower generator.kv_cache_bytes (now {generator.kv_cache_bytes})"
    if generator.engine is Engine.VLLM and generator.num_gpus >= 1:
        yield (
            f"double generator.num_gpus and generator.tensor_parallel_size (now {generator.tensor_parallel_size}), "
            "which divides the model"
        )
    if generator.engine is Engine.TRANSFORMERS:
        yield f"lower generator.max_num_seqs (now {generator.max_num_seqs})"


def _generators(number: int) -> str:
    return "1 generator" if number == 1 else f"{number} generators"

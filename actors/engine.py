"""A sampling engine: token ids in, sampled token ids with log-probabilities and weight versions out.

Usage, on one thread:

    engine.add_request(request)                  # at any time between two steps
    for finished in engine.step(): ...           # one forward pass for everything that is being decoded
    engine.load_weights(version, named_tensors)  # between two steps; requests in flight continue

Engines know nothing of problems and Ray, and of text only the stop strings; `actors.generator` adds those.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rltf.actors.messages import RolloutRequest
from rltf.settings import Engine, GeneratorSettings, ModelSettings
from rltf.transport.model_folder import check_engine
from rltf.transport.rollouts import EarlierTurn, FinishReason, VersionSpan
from rltf.transport.weight_receiver import TransferPhase


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """A rollout request with the ids [P] of its prompt, and the turn of a dialogue that the prompt ends with, if any.

    The completions continue `prefix_ids`: an encoder-decoder model decodes after them. They are not part of what is
    sampled, and `max_tokens` does not count them.
    """

    rollout: RolloutRequest
    prompt_ids: Sequence[int]
    previous: EarlierTurn | None = None
    prefix_ids: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.rollout.num_samples < 1 and not self.rollout.greedy:
            raise ValueError(f"request {self.request_id}: nothing to sample, num_samples is {self.rollout.num_samples}")
        if self.rollout.temperature <= 0:
            raise ValueError(f"request {self.request_id}: temperature {self.rollout.temperature:g} must be above 0")

    @property
    def request_id(self) -> str:
        return self.rollout.rollout_id

    def completion_room(self, max_model_len: int) -> int:
        """The most tokens that may be sampled for a completion, at least 1, in a model of `max_model_len` tokens.

        Raises ValueError if the prompt is empty, or fills the model's context together with the prefix.
        """
        if len(self.prompt_ids) == 0:
            raise ValueError(f"request {self.request_id}: the prompt is empty")
        prompt_length = len(self.prompt_ids) + len(self.prefix_ids)
        if prompt_length >= max_model_len:
            raise ValueError(
                f"request {self.request_id}: the prompt has {prompt_length} tokens and leaves no room for a completion "
                f"in the model's {max_model_len}; raise model.max_model_len or leave the problem out"
            )
        return min(self.rollout.max_tokens, max_model_len - prompt_length)


@dataclass(frozen=True, slots=True)
class SampledSequence:
    """The token ids of one completion, as the engine sampled them.

    `token_ids` [T] include the end token if `finish_reason` is STOP. `logprobs` [T] are the natural logarithms of the
    probabilities that the tokens were drawn with: softmax(logits / temperature), renormalized over the nucleus if
    `top_p` < 1. For a greedy decode they are those of softmax(logits). A learner that recomputes
    softmax(logits / temperature) gets the same numbers if `top_p` is 1, and otherwise numbers that are lower by at most
    -log(top_p) per token.
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    weight_versions: tuple[VersionSpan, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """The results of one request."""

    request_id: str
    samples: tuple[SampledSequence, ...]
    greedy: SampledSequence | None

    @property
    def rollout_id(self) -> str:
        """The id of the rollout that was requested, which is that of the request."""
        return self.request_id


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to build an engine.

    `end_token_ids` end a completion. `seed` starts the engine's own random state. A `deterministic` engine shares
    nothing between requests, so their samples are the same bits whatever ran before.
    """

    model: ModelSettings
    generator: GeneratorSettings
    end_token_ids: tuple[int, ...]
    seed: int = 0
    deterministic: bool = False


class SamplingEngine(ABC):
    """Continuous batching over one model; not thread-safe."""

    @abstractmethod
    def add_request(self, request: SamplingRequest) -> None:
        """Queue a request. Raises ValueError if its prompt leaves no room for a completion."""

    @abstractmethod
    def step(self) -> list[FinishedRequest]:
        """Decode one token of each running sequence. Returns the requests that this finished."""

    @abstractmethod
    def load_weights(self, version: int, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Sample from these weights from the next step on.

        Requests in flight continue. Their cached keys and values are recomputed, so every later token has exactly the
        new version's log-probability. `named_tensors` have Hugging Face parameter names and are only read.
        """

    def receive(self, phase: TransferPhase, payload: Mapping[str, Any]) -> None:
        """Do a phase of an update that the learner sends."""
        raise NotImplementedError(f"{type(self).__name__} takes weights through load_weights only")

    @property
    @abstractmethod
    def num_unfinished(self) -> int:
        """Sequences queued or being decoded."""

    @property
    def gpu_memory_bytes(self) -> int:
        """The memory that the engine has reserved on its GPUs."""
        return torch.cuda.memory_reserved()

    @abstractmethod
    def close(self) -> None:
        """Free the model and its cache."""


def build_engine(
    model: Path,
    model_settings: ModelSettings,
    settings: GeneratorSettings,
    end_ids: tuple[int, ...],
    seed: int,
    *,
    deterministic: bool = False,
) -> SamplingEngine:
    """The engine that `generator.engine` names, with `model` loaded. Raises UserError if it cannot sample from it."""
    check_engine(model, settings.engine)
    options = EngineOptions(model_settings, settings, end_ids, seed, deterministic)
    # Imported only when needed: vLLM takes seconds to import and is not installed everywhere.
    if settings.engine == Engine.TRANSFORMERS:
        from rltf.actors.transformers_engine import TransformersEngine

        return TransformersEngine(model, options)
    from rltf.actors.vllm_engine import VllmEngine

    return VllmEngine(model, options)

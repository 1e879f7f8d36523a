"""What a sampling engine is: token ids in, sampled token ids with log-probabilities and weight versions out.

Usage, one thread:

    engine.add_request(request)                  # at any time between two steps
    for finished in engine.step(): ...           # one forward pass for everything that is being decoded
    engine.load_weights(version, named_tensors)  # between two steps; what is in flight goes on

Engines know no text, no problem and no Ray; `actors.generator` adds those.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from actors.types import FinishReason, VersionSpan


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """Sample `num_samples` completions of one prompt and, if `greedy`, decode one more at temperature 0.

    `prompt_ids` [P] is the prompt of a decoder-only model. With a `seed` the samples do not depend on what else the
    engine decodes, apart from rounding; without, they come from the engine's own random state.
    """

    request_id: str
    prompt_ids: Sequence[int]
    num_samples: int
    greedy: bool
    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.num_samples < 1 and not self.greedy:
            raise ValueError(f"request {self.request_id}: nothing to sample, num_samples is {self.num_samples}")
        if self.temperature <= 0:
            raise ValueError(f"request {self.request_id}: temperature {self.temperature:g} must be above 0")


@dataclass(frozen=True, slots=True)
class SampledSequence:
    """One completion as the engine made it.

    `token_ids` [T] includes the end token where `finish_reason` is STOP. `logprobs` [T] are natural logarithms of the
    probabilities the tokens were drawn with: softmax(logits / temperature), renormalised over the nucleus where
    `top_p` < 1; of a greedy decode, of softmax(logits). A learner that recomputes softmax(logits / temperature) gets
    the same numbers for `top_p` = 1, and lower ones, by at most -log(top_p) a token, otherwise.
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    weight_versions: tuple[VersionSpan, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """Everything that was asked for in one request."""

    request_id: str
    samples: tuple[SampledSequence, ...]
    greedy: SampledSequence | None


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine is built.

    `dtype` is torch's name of the weights' type. `max_length` tokens is the most of a prompt and its completion,
    `max_num_seqs` completions are decoded at a time, `kv_cache_bytes` is what vLLM sets aside for their keys and values
    (transformers takes what they need). `end_token_ids` end a completion. `seed` starts the engine's own random state.
    `deterministic` engines share nothing between requests, whose samples then are the same bits whatever came before.
    `weight_transfer` is how new weights come: `object_store` by `load_weights`, others through vLLM's own engines.
    """

    dtype: str
    max_length: int
    max_num_seqs: int
    kv_cache_bytes: int
    end_token_ids: tuple[int, ...]
    seed: int = 0
    deterministic: bool = False
    weight_transfer: str = "object_store"


class SamplingEngine(Protocol):
    """Continuous batching over one model; not thread-safe."""

    def add_request(self, request: SamplingRequest) -> None:
        """Queue a request. Raises ValueError where the prompt leaves no room for a completion."""

    def step(self) -> list[FinishedRequest]:
        """Decode one token for each running sequence; return the requests that this finished."""

    def load_weights(self, version: int, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Sample from these weights from the next step on.

        Requests in flight go on; what was cached of them is computed again, so that every later token has exactly the
        new version's log-probability. `named_tensors` bears Hugging Face parameter names and is only read.
        """

    @property
    def num_unfinished(self) -> int:
        """Sequences queued or being decoded."""

    def close(self) -> None:
        """Free the model and its cache."""


def completion_room(request: SamplingRequest, max_length: int) -> int:
    """The most tokens that the completion may have, at least 1, for a model of `max_length` tokens.

    Raises:
        ValueError: the prompt is empty, or fills the model's context.
    """
    prompt_length = len(request.prompt_ids)
    if prompt_length == 0:
        raise ValueError(f"request {request.request_id}: the prompt is empty")
    if prompt_length >= max_length:
        raise ValueError(
            f"request {request.request_id}: the prompt has {prompt_length} tokens and leaves no room for a completion "
            f"in the model's {max_length}; raise model.max_model_len or leave the problem out"
        )
    return min(request.max_tokens, max_length - prompt_length)

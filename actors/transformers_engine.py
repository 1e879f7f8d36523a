"""Sampling with transformers, for machines and models that vLLM does not run. Slower, with the same guarantees.

All running sequences form one batch with one key-value cache (`actors.running_batch`). Sequences join and leave it
between steps, several at a time, because either copies the cache. After a weight update the whole cache is recomputed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rltf.actors.engine import EngineOptions, FinishedRequest, SampledSequence, SamplingEngine, SamplingRequest
from rltf.actors.messages import RolloutRequest
from rltf.actors.running_batch import DecoderOnlyBatch, EncoderDecoderBatch, Row, RunningBatch
from rltf.errors import UserError
from rltf.transport.model_folder import load_model, load_tokenizer
from rltf.transport.rollouts import FinishReason, VersionSpan

# The batch is filled up, which copies the cache, once one in so many of its places is idle.
_IDLE_SHARE = 8


class _Ends:
    """What ends a completion: tokens, and texts."""

    def __init__(self, model: Path, options: EngineOptions) -> None:
        self.token_ids = options.end_token_ids
        self._texts = options.generator.stop
        self._tokenizer = load_tokenizer(model) if self._texts else None
        # A character takes up to four tokens, and the last token may hold more than the end of a text.
        self._num_tokens = 4 * max(map(len, self._texts), default=0)

    def is_text_at_end(self, token_ids: list[int]) -> bool:
        """Whether one of the texts has come. It is asked after every token."""
        if self._tokenizer is None:
            return False
        tail = str(self._tokenizer.decode(token_ids[-self._num_tokens :]))
        return any(text in tail for text in self._texts)


@dataclass(slots=True)
class _Sequence(Row):
    """A completion being decoded. `generator` draws its tokens; if it is None, decoding is greedy.

    The first `num_given` of its `token_ids` are those of the request's prefix.
    """

    num_given: int
    max_tokens: int
    temperature: float
    top_p: float
    generator: torch.Generator | None
    logprobs: list[float] = field(default_factory=list)
    spans: list[VersionSpan] = field(default_factory=list)

    def append(self, token_id: int, logprob: float, version: int, ends: _Ends) -> None:
        position = len(self.token_ids) - self.num_given
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        if self.spans and self.spans[-1].version == version:
            self.spans[-1] = self.spans[-1]._replace(end=position + 1)
        else:
            self.spans.append(VersionSpan(position, position + 1, version))
        if token_id in ends.token_ids:
            self.finish_reason = FinishReason.STOP
        elif ends.is_text_at_end(self.token_ids):
            self.finish_reason = FinishReason.STOP_STRING
        elif position + 1 == self.max_tokens:
            self.finish_reason = FinishReason.LENGTH

    def result(self) -> SampledSequence:
        assert self.finish_reason is not None
        return SampledSequence(
            token_ids=np.array(self.token_ids[self.num_given :], dtype=np.int32),
            logprobs=np.array(self.logprobs, dtype=np.float32),
            weight_versions=tuple(self.spans),
            finish_reason=self.finish_reason,
        )


class TransformersEngine(SamplingEngine):
    """Runs a transformers model on this process's GPU, or on the CPU if there is none.

    Supports decoder-only models, and encoder-decoder models of T5's kind (T5, CodeT5, CodeT5+ up to 770m).
    """

    def __init__(self, model: Path, options: EngineOptions) -> None:
        """Load `model`, a Hugging Face folder, as weights version 0. Raises UserError if that does not work."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model: Any = load_model(model, getattr(torch, options.model.dtype)).to(device).eval()
        config = self._model.config
        if config.is_encoder_decoder and config.model_type != "t5":
            raise UserError(
                f"model.name: {model} is an encoder-decoder model of type {config.model_type}; only T5's kind is "
                "supported (model_type t5: T5, CodeT5, CodeT5+ 220m and 770m)"
            )
        self._batch: RunningBatch = (
            EncoderDecoderBatch(self._model, config.decoder_start_token_id)
            if config.is_encoder_decoder
            else DecoderOnlyBatch(self._model)
        )
        self._options = options
        self._ends = _Ends(model, options)
        self._seeds = torch.Generator().manual_seed(options.seed)
        self._version = 0
        # The sequences of each request: its samples, followed by the greedy one if there is one.
        self._in_flight: dict[str, tuple[RolloutRequest, list[_Sequence]]] = {}
        self._waiting: deque[_Sequence] = deque()
        self._rows: list[_Sequence] = []
        self._is_stale = False

    def add_request(self, request: SamplingRequest) -> None:
        asked = request.rollout
        max_tokens = request.completion_room(self._options.model.max_model_len)
        seed = asked.seed
        if seed is None:
            seed = int(torch.randint(2**62, (), generator=self._seeds))
        draws: list[tuple[float, float, torch.Generator | None]] = [
            (asked.temperature, asked.top_p, torch.Generator().manual_seed(seed + i)) for i in range(asked.num_samples)
        ]
        if asked.greedy:
            draws.append((1.0, 1.0, None))
        prompt_ids, num_given = list(request.prompt_ids), len(request.prefix_ids)
        sequences = [
            _Sequence(prompt_ids, num_given, max_tokens, *draw, token_ids=list(request.prefix_ids)) for draw in draws
        ]
        self._in_flight[request.request_id] = asked, sequences
        self._waiting += sequences

    @torch.no_grad()
    def step(self) -> list[FinishedRequest]:
        self._change_rows()
        if not self._rows:
            return []
        tokens, logprobs = _draw(self._batch.step(self._rows), self._rows)
        for sequence, token_id, logprob in zip(self._rows, tokens, logprobs, strict=True):
            if sequence.finish_reason is None:
                sequence.append(token_id, logprob, self._version, self._ends)
        finished = []
        for request_id, (asked, sequences) in list(self._in_flight.items()):
            if all(sequence.finish_reason for sequence in sequences):
                del self._in_flight[request_id]
                results = [sequence.result() for sequence in sequences]
                greedy = results.pop() if asked.greedy else None
                finished.append(FinishedRequest(request_id, tuple(results), greedy))
        return finished

    def load_weights(self, version: int, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        missing = {name for name, _ in self._model.named_parameters()}
        with torch.no_grad():
            for name, tensor in named_tensors:
                if name not in parameters:
                    raise ValueError(f"weight update with {name}, which the model does not have")
                parameters[name].copy_(tensor)
                missing.discard(name)
        if missing:
            raise ValueError(f"weight update without {', '.join(sorted(missing))}: send every parameter each time")
        self._version = version
        self._is_stale = True

    @property
    def num_unfinished(self) -> int:
        return len(self._waiting) + sum(sequence.finish_reason is None for sequence in self._rows)

    def close(self) -> None:
        del self._model, self._batch

    def _change_rows(self) -> None:
        """Remove finished sequences and add waiting ones, once there are enough of them to be worth a copy."""
        limit = self._options.generator.max_num_seqs
        kept = [place for place, sequence in enumerate(self._rows) if sequence.finish_reason is None]
        num_finished, num_free = len(self._rows) - len(kept), limit - len(kept)
        joins = bool(self._waiting) and num_free >= max(1, limit // _IDLE_SHARE)
        if not (joins or self._is_stale or num_finished >= max(1, len(self._rows) // _IDLE_SHARE)):
            return
        num_joining = min(num_free, len(self._waiting)) if joins else 0
        joining = [self._waiting.popleft() for _ in range(num_joining)]
        staying = [self._rows[place] for place in kept]
        self._rows = staying + joining
        if self._rows and self._is_stale:
            self._batch.rebuild((), self._rows)
        elif self._rows:
            self._batch.rebuild(kept, joining)
        self._is_stale = False


def _draw(logits: torch.Tensor, sequences: list[_Sequence]) -> tuple[list[int], list[float]]:
    """The next token of each sequence and its log-probability, from `logits` [B, V].

    Each sequence's own generator draws a number, at which the cumulative distribution is inverted. So the choice
    depends neither on the device nor on the rest of the batch.
    """
    device = logits.device
    temperatures = torch.tensor([sequence.temperature for sequence in sequences], device=device)
    logprobs = (logits / temperatures[:, None]).log_softmax(-1)
    if any(sequence.top_p < 1 for sequence in sequences):
        logprobs = _nucleus(logprobs, torch.tensor([sequence.top_p for sequence in sequences], device=device))
    cumulative = logprobs.double().exp().cumsum(-1)
    uniform = torch.tensor(
        [0.0 if s.generator is None else float(torch.rand((), generator=s.generator)) for s in sequences],
        dtype=torch.float64,
        device=device,
    )
    drawn = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
    greedy = torch.tensor([sequence.generator is None for sequence in sequences], device=device)
    tokens = torch.where(greedy, logits.argmax(-1), drawn)
    return tokens.tolist(), logprobs.gather(-1, tokens[:, None])[:, 0].tolist()


def _nucleus(logprobs: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Keep the likeliest tokens up to the one that reaches `top_p` [B], renormalized (Holtzman et al. 2020)."""
    ordered, order = logprobs.sort(descending=True)
    probabilities = ordered.exp()
    outside = probabilities.cumsum(-1) - probabilities >= top_p[:, None]
    return logprobs.masked_fill(outside.scatter(-1, order, outside), float("-inf")).log_softmax(-1)

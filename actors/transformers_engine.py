"""Sampling with transformers, for machines and models that vLLM does not run: slower, the same promises.

All running sequences form one batch with one key-value cache (`actors.running_batch`). Finished ones leave it and
waiting ones join it between steps, several at a time, since either copies the cache; new weights have all of it
computed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from actors.engine import EngineOptions, FinishedRequest, SampledSequence, SamplingRequest, completion_room
from actors.model_folder import check_model_folder
from actors.running_batch import DecoderOnlyBatch, EncoderDecoderBatch, RunningBatch
from actors.types import FinishReason, VersionSpan
from errors import UserError

# Share of the batch that may stand idle before it is worth a copy of the cache to fill it.
_IDLE_SHARE = 8


@dataclass(slots=True)
class _Sequence:
    """One completion being decoded. `generator` draws its tokens; None: greedy."""

    prompt_ids: list[int]
    max_tokens: int
    temperature: float
    top_p: float
    generator: torch.Generator | None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    spans: list[VersionSpan] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    def append(self, token_id: int, logprob: float, version: int, end_token_ids: tuple[int, ...]) -> None:
        position = len(self.token_ids)
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        if self.spans and self.spans[-1].version == version:
            self.spans[-1] = VersionSpan(self.spans[-1].first, position + 1, version)
        else:
            self.spans.append(VersionSpan(position, position + 1, version))
        if token_id in end_token_ids:
            self.finish_reason = FinishReason.STOP
        elif position + 1 == self.max_tokens:
            self.finish_reason = FinishReason.LENGTH

    def result(self) -> SampledSequence:
        assert self.finish_reason is not None
        return SampledSequence(
            token_ids=np.array(self.token_ids, dtype=np.int32),
            logprobs=np.array(self.logprobs, dtype=np.float32),
            weight_versions=tuple(self.spans),
            finish_reason=self.finish_reason,
        )


@dataclass(slots=True)
class _Group:
    """The sequences of one request: samples first, then the greedy one if there is one."""

    request: SamplingRequest
    sequences: list[_Sequence]

    @property
    def finished(self) -> bool:
        return all(sequence.finished for sequence in self.sequences)

    def result(self) -> FinishedRequest:
        results = [sequence.result() for sequence in self.sequences]
        num_samples = self.request.num_samples
        return FinishedRequest(
            self.request.request_id, tuple(results[:num_samples]), results[-1] if self.request.greedy else None
        )


class TransformersEngine:
    """A `SamplingEngine` over a transformers model, on this process's GPU or, without one, the CPU.

    Decoder-only models, and the encoder-decoder models of T5's kind (T5, CodeT5, CodeT5+ up to 770m).
    """

    def __init__(self, model: Path, options: EngineOptions) -> None:
        """Load `model`, a Hugging Face folder, as weights version 0.

        Raises:
            UserError: the folder is no model, or not one that answers a prompt.
        """
        config = check_model_folder(model)
        loaded = _load(model, config, options.dtype).to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self._model: torch.nn.Module = loaded
        self._batch: RunningBatch = (
            EncoderDecoderBatch(loaded, config["decoder_start_token_id"])
            if config.get("is_encoder_decoder")
            else DecoderOnlyBatch(loaded)
        )
        self._options = options
        self._seeds = torch.Generator().manual_seed(options.seed)
        self._version = 0
        self._groups: dict[str, _Group] = {}
        self._waiting: deque[_Sequence] = deque()
        self._rows: list[_Sequence] = []
        self._is_stale = False

    def add_request(self, request: SamplingRequest) -> None:
        """See `SamplingEngine`."""
        if request.request_id in self._groups:
            raise ValueError(f"request {request.request_id} is already in flight")
        max_tokens = completion_room(request, self._options.max_length)
        seed = request.seed
        if seed is None:
            seed = int(torch.randint(2**62, (), generator=self._seeds))
        prompt_ids = list(request.prompt_ids)
        sequences = [
            _Sequence(
                prompt_ids, max_tokens, request.temperature, request.top_p, torch.Generator().manual_seed(seed + i)
            )
            for i in range(request.num_samples)
        ]
        if request.greedy:
            sequences.append(_Sequence(prompt_ids, max_tokens, temperature=1.0, top_p=1.0, generator=None))
        self._groups[request.request_id] = _Group(request, sequences)
        self._waiting += sequences

    @torch.no_grad()
    def step(self) -> list[FinishedRequest]:
        """See `SamplingEngine`."""
        self._change_rows()
        if not self._rows:
            return []
        tokens, logprobs = _draw(self._batch.step(self._rows), self._rows)
        for sequence, token_id, logprob in zip(self._rows, tokens, logprobs, strict=True):
            if not sequence.finished:
                sequence.append(token_id, logprob, self._version, self._options.end_token_ids)
        finished = [group for group in self._groups.values() if group.finished]
        for group in finished:
            del self._groups[group.request.request_id]
        return [group.result() for group in finished]

    def load_weights(self, version: int, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """See `SamplingEngine`."""
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
        """See `SamplingEngine`."""
        return len(self._waiting) + sum(not sequence.finished for sequence in self._rows)

    def close(self) -> None:
        """See `SamplingEngine`."""
        del self._model, self._batch

    def _change_rows(self) -> None:
        """Let finished sequences go and waiting ones join, once there are enough of them to be worth it."""
        limit = self._options.max_num_seqs
        kept = [place for place, sequence in enumerate(self._rows) if not sequence.finished]
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


def _load(model: Path, config: dict[str, Any], dtype: str) -> Any:
    """The transformers model in `model`. Raises UserError for one that cannot be sampled from."""
    auto: Any = AutoModelForCausalLM
    if config.get("is_encoder_decoder"):
        auto = AutoModelForSeq2SeqLM
        if config.get("model_type") != "t5":
            raise UserError(
                f"model.name: {model} is an encoder-decoder model of type {config.get('model_type')}; of these only "
                "T5's kind is supported (model_type t5: T5, CodeT5, CodeT5+ 220m and 770m)"
            )
        if config.get("decoder_start_token_id") is None:
            raise UserError(
                f"model.name: {model}/config.json names no token that completions start from; set "
                "decoder_start_token_id (for T5 and CodeT5 the id of the padding token)"
            )
    try:
        return auto.from_pretrained(model, dtype=getattr(torch, dtype))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model.name: transformers cannot load {model}: {error}") from error


def _draw(logits: torch.Tensor, sequences: list[_Sequence]) -> tuple[list[int], list[float]]:
    """The next token of each sequence and its log-probability, from `logits` [B, V].

    Drawn by inverting the cumulative distribution at a number that the sequence's own generator gives, so that the
    choice depends neither on the device nor on the rest of the batch.
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
    """Keep the likeliest tokens up to the one that reaches `top_p` [B], renormalised (Holtzman et al. 2020)."""
    ordered, order = logprobs.sort(descending=True)
    probabilities = ordered.exp()
    outside = probabilities.cumsum(-1) - probabilities >= top_p[:, None]
    return logprobs.masked_fill(outside.scatter(-1, order, outside), float("-inf")).log_softmax(-1)

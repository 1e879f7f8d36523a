"""The rows that a transformers model is decoding, with the cached keys and values of what it has read of each.

Every step feeds each row its newest token and returns the logits of the next one; the cache holds the tokens before it.
Rows are aligned at their newest token. The distance between two columns is then the distance between two tokens, as
sliding windows and T5's position biases need it. Columns before a row's first token are masked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from rltf.transport.rollouts import FinishReason

# Spare columns in a buffer of keys or values. It is copied once in this many steps.
_ROOM = 64
# The most tokens, padding included, that one forward pass over new rows reads.
_READ_TOKENS = 8192


@dataclass(slots=True)
class Row:
    """A row: the prompt [P], P at least 1, followed by what has been sampled.

    A finished row may stay in the batch for a while. What it is fed then is masked, so it no longer grows.
    """

    prompt_ids: list[int]
    token_ids: list[int] = field(default_factory=list, kw_only=True)
    finish_reason: FinishReason | None = field(default=None, kw_only=True)


class _GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values [B, heads, L, size] in buffers with spare room: a step only writes its own column."""

    _buffers: list[torch.Tensor] | None = None

    @classmethod
    def of(cls, keys: torch.Tensor, values: torch.Tensor) -> _GrowingLayer:
        layer = cls()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        return layer

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns. Returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = self.get_seq_length()
        end = begin + key_states.shape[2]
        new = (key_states, value_states)
        if self._buffers is None or end > self._buffers[0].shape[2]:
            self._buffers = [states.new_empty(*states.shape[:2], end + _ROOM, states.shape[3]) for states in new]
            if begin:
                self._buffers[0][:, :, :begin], self._buffers[1][:, :, :begin] = self.keys, self.values  # type: ignore[assignment]
        for buffer, states in zip(self._buffers, new, strict=True):
            buffer[:, :, begin:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values


@dataclass(slots=True)
class _State:
    """The cache of `B` rows.

    `caches` has one cache for the decoder's own tokens and, if there is an encoder, one for the encoded prompt. `masks`
    [B, L] bool say which columns of each are in use.
    """

    caches: list[Any]
    masks: list[torch.Tensor]

    def select(self, places: torch.Tensor) -> _State:
        """The rows at `places`, which may repeat."""
        caches = [
            Cache(layers=[_GrowingLayer.of(layer.keys[places], layer.values[places]) for layer in cache.layers])
            for cache in self.caches
        ]
        return _State(caches, [mask[places] for mask in self.masks])


def _stacked(parts: list[_State]) -> _State:
    """The rows of all `parts`, without columns that none of them uses."""
    caches, masks = [], []
    for index in range(len(parts[0].caches)):
        length = max(_used(part.masks[index]) for part in parts)
        layers = zip(*(part.caches[index].layers for part in parts), strict=True)
        caches.append(
            Cache(
                layers=[
                    _GrowingLayer.of(
                        _columns([layer.keys for layer in several], length),
                        _columns([layer.values for layer in several], length),
                    )
                    for several in layers
                ]
            )
        )
        masks.append(_columns([part.masks[index][:, None, :, None] for part in parts], length)[:, 0, :, 0])
    return _State(caches, masks)


def _columns(tensors: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """The last `length` columns of all `tensors` [b, heads, l, size], stacked as rows and padded with zeros."""
    first = tensors[0]
    stacked = first.new_zeros(sum(map(len, tensors)), first.shape[1], length, first.shape[3])
    begin = 0
    for tensor in tensors:
        num_columns = min(length, tensor.shape[2])
        rows = stacked[begin : begin + len(tensor)]
        rows[:, :, length - num_columns :] = tensor[:, :, tensor.shape[2] - num_columns :]
        begin += len(tensor)
    return stacked


def _used(mask: torch.Tensor) -> int:
    """The number of columns of `mask` [B, L] from the first one that any row uses."""
    used = mask.any(0).nonzero()
    return mask.shape[1] - int(used[0]) if len(used) else 0


class RunningBatch(ABC):
    """Usage:

    batch.rebuild(kept, joining)     # the places of the rows that stay, and the rows that join after them
    logits = batch.step(rows)        # [B, V] of each row's next token, which the caller appends to the row
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._device = model.device
        self._state: _State | None = None

    def rebuild(self, kept: Sequence[int], joining: Sequence[Row]) -> None:
        """Continue with the rows at the places `kept`, followed by `joining`. Either may be empty, but not both.

        Consecutive new rows that are equal, such as the samples of a prompt, are read once.
        """
        parts = []
        if kept:
            assert self._state is not None
            parts.append(self._state.select(torch.tensor(kept, device=self._device)))
        self._state = None
        for alike in self._chunks(joining):
            counts = torch.tensor([count for _, count in alike], device=self._device)
            places = torch.arange(len(alike), device=self._device).repeat_interleave(counts)
            parts.append(self._read([row for row, _ in alike]).select(places))
        self._state = _stacked(parts)

    def step(self, rows: Sequence[Row]) -> torch.Tensor:
        """Logits [B, V] after the newest token of each row, in float32."""
        assert self._state is not None
        newest = [row.token_ids[-1] if row.token_ids else self._first(row) for row in rows]
        state = self._state
        column = torch.tensor([row.finish_reason is None for row in rows], device=self._device)[:, None]
        state.masks[0] = torch.cat([state.masks[0], column], dim=1)
        return self._decode(torch.tensor(newest, device=self._device)[:, None], state).float()

    def _chunks(self, rows: Sequence[Row]) -> Iterator[list[tuple[Row, int]]]:
        """Distinct rows, each with its number of repetitions, in chunks that one forward pass may read."""
        chunk: list[tuple[Row, int]] = []
        longest = 0
        for _, alike in groupby(rows, lambda row: (row.prompt_ids, row.token_ids)):
            several = list(alike)
            length = len(several[0].prompt_ids) + len(several[0].token_ids)
            if chunk and (len(chunk) + 1) * max(longest, length) > _READ_TOKENS:
                yield chunk
                chunk, longest = [], 0
            chunk.append((several[0], len(several)))
            longest = max(longest, length)
        if chunk:
            yield chunk

    def _padded(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask [B, L], L at least 1, with each row's end in the last column."""
        length = max(1, *map(len, rows))
        ids = torch.tensor([[0] * (length - len(row)) + row for row in rows], device=self._device)
        mask = torch.tensor([[False] * (length - len(row)) + [True] * len(row) for row in rows], device=self._device)
        return ids, mask

    @abstractmethod
    def _first(self, row: Row) -> int:
        """The id that comes before the first sampled token."""

    @abstractmethod
    def _read(self, rows: Sequence[Row]) -> _State:
        """Cache everything of these rows except their newest token."""

    @abstractmethod
    def _decode(self, ids: torch.Tensor, state: _State) -> torch.Tensor:
        """Logits [B, V] after `ids` [B, 1], which are added to the cache; the mask already counts them."""


class DecoderOnlyBatch(RunningBatch):
    """Rows begin with the prompt."""

    def _first(self, row: Row) -> int:
        return row.prompt_ids[-1]

    def _read(self, rows: Sequence[Row]) -> _State:
        ids, mask = self._padded([[*row.prompt_ids, *row.token_ids][:-1] for row in rows])
        state = _State([Cache(layer_class_to_replicate=_GrowingLayer)], [mask])
        self._forward(self._model.base_model, ids, state)
        return state

    def _decode(self, ids: torch.Tensor, state: _State) -> torch.Tensor:
        logits: torch.Tensor = self._forward(self._model, ids, state).logits[:, -1]
        return logits

    def _forward(self, module: Any, ids: torch.Tensor, state: _State) -> Any:
        mask = state.masks[0].long()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return module(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=state.caches[0], use_cache=True
        )


class EncoderDecoderBatch(RunningBatch):
    """The encoder reads the prompt, and rows begin with the model's start token. For models with relative positions."""

    def __init__(self, model: Any, start_id: int) -> None:
        super().__init__(model)
        self._start_id = start_id

    def _first(self, row: Row) -> int:
        return self._start_id

    def _read(self, rows: Sequence[Row]) -> _State:
        prompts = [(prompt, len(list(alike))) for prompt, alike in groupby(row.prompt_ids for row in rows)]
        ids, prompt_mask = self._padded([prompt for prompt, _ in prompts])
        encoded = self._model.get_encoder()(input_ids=ids, attention_mask=prompt_mask).last_hidden_state
        counts = torch.tensor([count for _, count in prompts], device=self._device)
        encoded, prompt_mask = (tensor.repeat_interleave(counts, 0) for tensor in (encoded, prompt_mask))
        ids, mask = self._padded([[self._start_id, *row.token_ids][:-1] for row in rows])
        own, memory = Cache(layer_class_to_replicate=_GrowingLayer), Cache(layer_class_to_replicate=_GrowingLayer)
        self._model.get_decoder()(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=encoded,
            encoder_attention_mask=prompt_mask,
            past_key_values=EncoderDecoderCache(own, memory),
            use_cache=True,
        )
        return _State([own, memory], [mask, prompt_mask])

    def _decode(self, ids: torch.Tensor, state: _State) -> torch.Tensor:
        own, memory = state.caches
        mask, prompt_mask = state.masks
        # The prompt's keys and values are cached, so only the shape of its states is used.
        shape: Any = torch.empty((), dtype=self._model.dtype, device=self._device).expand(*prompt_mask.shape, 1)
        logits: torch.Tensor = self._model(
            encoder_outputs=BaseModelOutput(last_hidden_state=shape),
            attention_mask=prompt_mask,
            decoder_input_ids=ids,
            decoder_attention_mask=mask,
            past_key_values=EncoderDecoderCache(own, memory),
            use_cache=True,
        ).logits[:, -1]
        return logits

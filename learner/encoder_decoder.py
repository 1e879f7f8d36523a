"""Packing for models with an encoder and a decoder (T5, CodeT5): prompts encoded once, completions decoded.

Encoder rows `[P, S]` hold prompts side by side, hidden from one another. Decoder rows `[R, L]` hold completions of one
prompt. Each completion follows the model's start token, is hidden from the others, and attends to its prompt's place
in the encoder rows. No row is longer than its longest prompt or completion requires:

    encoder row 0   | prompt A             |        decoder row 0   | start A1 | start A2 |
    encoder row 1   | prompt B | prompt C  |        decoder row 1   | start A3 | padding  |
                                                    decoder row 2   | start B1 | padding  |
                                                    decoder row 3   | start C1            |

A sequence can start anywhere in a row because T5 encodes only distances between tokens, not positions. For a model that
encodes positions, the policy's self-test finds numbers that differ from the plain forward pass, and refuses the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rltf.learner.data import Ids, TokenSequence
from rltf.learner.packing import ROW_ALIGNMENT, Branch, aligned, branches, first_fit, too_long


@dataclass(frozen=True, slots=True, eq=False)
class EncoderDecoderBatch:
    """The input of one forward pass: `N` completion tokens.

    In `encoder_ids` [P, S] and `decoder_ids` [R, L], `segment` [P, S] and `branch` [R, L] say which prompt or
    completion of its row a token belongs to (-1: padding). Where `memory_mask` is true, `memory` [R, M] holds the flat
    indices into `P * S` of a decoder row's prompt. `predictor` [N] is the flat index into `R * L` of the token whose
    hidden state predicts `target` [N]. `source` [N] is the token's index in the concatenation of all packed
    completions, in the order they were given.
    """

    encoder_ids: torch.Tensor
    segment: torch.Tensor
    memory: torch.Tensor
    memory_mask: torch.Tensor
    decoder_ids: torch.Tensor
    branch: torch.Tensor
    predictor: torch.Tensor
    target: torch.Tensor
    source: torch.Tensor

    def to(self, device: torch.device) -> EncoderDecoderBatch:
        """The same micro-batch on `device`."""
        return EncoderDecoderBatch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))

    @property
    def num_tokens(self) -> int:
        """Tokens of the forward pass, padding included."""
        return self.encoder_ids.numel() + self.decoder_ids.numel()

    @property
    def longest_row(self) -> int:
        """The fewest tokens that a micro-batch with the longest of these rows has."""
        return self.encoder_ids.shape[1] + self.decoder_ids.shape[1]

    @staticmethod
    def empty() -> EncoderDecoderBatch:
        """A micro-batch without completion tokens, for a rank that has nothing to do."""
        row, none = torch.zeros(1, ROW_ALIGNMENT, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        seen = torch.ones_like(row, dtype=torch.bool)
        return EncoderDecoderBatch(row, row, row, seen, row, row, predictor=none, target=none, source=none)

    def encoder_mask(self) -> torch.Tensor:
        """Which keys (fourth axis) a query (third) of the encoder sees: bool [P, 1, S, S]."""
        return (self.segment[:, :, None] == self.segment[:, None, :])[:, None]

    def decoder_mask(self) -> torch.Tensor:
        """Which keys (fourth axis) a query (third) of the decoder sees: bool [R, 1, L, L]."""
        length = self.branch.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.branch.device).tril()
        return (causal & (self.branch[:, :, None] == self.branch[:, None, :]))[:, None]


def hidden_states(model: Any, batch: EncoderDecoderBatch) -> torch.Tensor:
    """The input [N, H] of the output layer for the `N` completion tokens of `batch`."""
    encoded = model.get_encoder()(input_ids=batch.encoder_ids, attention_mask=batch.encoder_mask()).last_hidden_state
    decoded = model.get_decoder()(
        input_ids=batch.decoder_ids,
        attention_mask=batch.decoder_mask(),
        encoder_hidden_states=encoded.flatten(0, 1)[batch.memory],
        encoder_attention_mask=batch.memory_mask,
        use_cache=False,
    ).last_hidden_state
    hidden: torch.Tensor = decoded.flatten(0, 1)[batch.predictor]
    # T5 with tied embeddings scales the input of its output layer, and offers no function that does only that.
    return hidden * model.config.d_model**-0.5 if getattr(model.config, "scale_decoder_outputs", False) else hidden


@dataclass(slots=True)
class _Part:
    """Decoder rows of one prompt that go into the same micro-batch, and the length of the longest."""

    prompt_ids: Ids
    rows: list[list[Branch]]
    length: int


def pack(
    sequences: Sequence[TokenSequence], *, start_id: int, micro_batch_tokens: int, row_tokens: int
) -> list[EncoderDecoderBatch]:
    """Pack `sequences` into micro-batches of at most `micro_batch_tokens` tokens of both sides, padding included.

    Decoder rows are as long as the longest completion, but rows of several completions have at most `row_tokens`. A
    prompt is encoded once, or once per micro-batch if its completions do not fit into one. A sequence that barely fits
    may exceed the limit by its alignment. Raises ValueError for an empty prompt or completion, and for a sequence that
    does not fit into a micro-batch.
    """
    parts = _parts(sequences, row_tokens, micro_batch_tokens)
    # Similar lengths side by side. The sort is stable: the layout depends only on the sequences.
    parts.sort(key=lambda part: (-part.length, -len(part.prompt_ids)))
    batches: list[EncoderDecoderBatch] = []
    pending: list[_Part] = []
    for part in parts:
        if pending and _num_tokens([*pending, part]) > micro_batch_tokens:
            batches.append(_batch(pending, start_id))
            pending = []
        pending.append(part)
    if pending:
        batches.append(_batch(pending, start_id))
    return batches


def _parts(sequences: Sequence[TokenSequence], row_tokens: int, micro_batch_tokens: int) -> list[_Part]:
    """Every prompt with its completions in rows, in as many parts as it takes."""
    groups: dict[bytes, tuple[Ids, list[Branch]]] = {}
    for sequence, branch in zip(sequences, branches(sequences), strict=True):
        groups.setdefault(sequence.prompt_ids.tobytes(), (sequence.prompt_ids, []))[1].append(branch)
    capacity = min(row_tokens, max((len(sequence.token_ids) for sequence in sequences), default=0))
    parts: list[_Part] = []
    for prompt_ids, group in groups.values():
        lengths = [len(branch.token_ids) for branch in group]
        rows = first_fit(lengths, capacity)
        longest = max(sum(lengths[index] for index in row) for row in rows)
        if len(prompt_ids) + longest > micro_batch_tokens:
            raise too_long(len(prompt_ids) + longest, micro_batch_tokens)
        count = max(1, (micro_batch_tokens - aligned(len(prompt_ids))) // aligned(longest))
        for first in range(0, len(rows), count):
            some = rows[first : first + count]
            length = max(sum(lengths[index] for index in row) for row in some)
            parts.append(_Part(prompt_ids, [[group[index] for index in sorted(row)] for row in some], length))
    return parts


def _encoder_places(parts: list[_Part]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Row and column of each part's prompt, and the shape of all encoder rows."""
    lengths = [len(part.prompt_ids) for part in parts]
    width = aligned(max(lengths))
    rows = first_fit(lengths, width)
    places = [(0, 0)] * len(parts)
    for row, indices in enumerate(rows):
        column = 0
        for index in indices:
            places[index] = (row, column)
            column += lengths[index]
    return places, (len(rows), width)


def _num_tokens(parts: list[_Part]) -> int:
    _, (num_encoder_rows, width) = _encoder_places(parts)
    num_decoder_rows = sum(len(part.rows) for part in parts)
    return num_encoder_rows * width + num_decoder_rows * aligned(max(part.length for part in parts))


def _batch(parts: list[_Part], start_id: int) -> EncoderDecoderBatch:
    places, shape = _encoder_places(parts)
    encoder_ids, segments = np.zeros(shape, np.int64), np.full(shape, -1, np.int32)
    width = shape[1]
    num_rows = sum(len(part.rows) for part in parts)
    memory, memory_mask = np.zeros((num_rows, width), np.int64), np.zeros((num_rows, width), np.bool_)
    first = 0
    for segment, (part, (row, column)) in enumerate(zip(parts, places, strict=True)):
        num_prompt, rows = len(part.prompt_ids), slice(first, first + len(part.rows))
        encoder_ids[row, column : column + num_prompt] = part.prompt_ids
        segments[row, column : column + num_prompt] = segment
        memory[rows, :num_prompt] = row * width + column + np.arange(num_prompt)
        memory_mask[rows, :num_prompt] = True
        first = rows.stop
    decoder = _decoder([row for part in parts for row in part.rows], max(part.length for part in parts), start_id)
    return EncoderDecoderBatch(*map(torch.from_numpy, (encoder_ids, segments, memory, memory_mask, *decoder)))


def _decoder(rows: list[list[Branch]], longest: int, start_id: int) -> tuple[NDArray[Any], ...]:
    """`decoder_ids`, `branch`, `predictor`, `target` and `source` of a batch with these decoder rows."""
    length = aligned(longest)
    ids, branch_ids = np.zeros((len(rows), length), np.int64), np.full((len(rows), length), -1, np.int32)
    predictor: list[NDArray[np.int64]] = []
    for index, row in enumerate(rows):
        start = 0
        for branch_id, branch in enumerate(row):
            end = start + len(branch.token_ids)
            ids[index, start] = start_id
            ids[index, start + 1 : end] = branch.token_ids[:-1]
            branch_ids[index, start:end] = branch_id
            predictor.append(index * length + np.arange(start, end))
            start = end
    flat = [branch for row in rows for branch in row]
    target = np.concatenate([branch.token_ids for branch in flat]).astype(np.int64)
    source = np.concatenate([branch.source for branch in flat])
    return ids, branch_ids, np.concatenate(predictor), target, source

"""Sequences for models with an encoder and a decoder (T5, CodeT5): each prompt encoded once, its completions decoded.

Encoder rows `[P, S]` hold prompts side by side, blind to one another. Decoder rows `[R, L]` hold completions of one
prompt, each behind the model's start token and blind to the others, and look at their prompt's place in the encoder
rows. Neither kind of row is longer than the longest prompt or completion in it asks for:

    encoder row 0   | prompt A             |        decoder row 0   | start A1 | start A2 |
    encoder row 1   | prompt B | prompt C  |        decoder row 1   | start A3 | padding  |
                                                    decoder row 2   | start B1 | padding  |
                                                    decoder row 3   | start C1            |

A sequence may start anywhere in a row because T5 knows distances between tokens only, no places. For a model that does
know places the policy's self-test finds other numbers than the plain forward pass gives, and refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from learner.packing import Ids, TokenSequence, aligned, check_not_empty


@dataclass(frozen=True, slots=True, eq=False)
class EncoderDecoderBatch:
    """What one forward pass computes: `N` completion tokens.

    `encoder_ids` [P, S] and `decoder_ids` [R, L]; `segment` [P, S] and `branch` [R, L] say which prompt or completion
    of its row a token is of (-1: padding). `memory` [R, M] are the flat indices into `P * S` of the prompt that a
    decoder row belongs to, where `memory_mask` is true. `predictor` [N] is the flat index into `R * L` of the token
    whose hidden state predicts `target` [N]; `source` [N] is the token's index in the concatenation of all completions
    of the batch, in the order they were given.
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

    def encoder_mask(self) -> torch.Tensor:
        """Which keys (fourth axis) a query (third) of the encoder sees: bool [P, 1, S, S]."""
        return (self.segment[:, :, None] == self.segment[:, None, :])[:, None]

    def decoder_mask(self) -> torch.Tensor:
        """Which keys (fourth axis) a query (third) of the decoder sees: bool [R, 1, L, L]."""
        length = self.branch.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.branch.device).tril()
        return (causal & (self.branch[:, :, None] == self.branch[:, None, :]))[:, None]


def hidden_states(model: Any, batch: EncoderDecoderBatch) -> torch.Tensor:
    """What the output layer of `model` turns into the logits of the `N` tokens of `batch`: [N, H]."""
    encoded = model.get_encoder()(input_ids=batch.encoder_ids, attention_mask=batch.encoder_mask()).last_hidden_state
    decoded = model.get_decoder()(
        input_ids=batch.decoder_ids,
        attention_mask=batch.decoder_mask(),
        encoder_hidden_states=encoded.flatten(0, 1)[batch.memory],
        encoder_attention_mask=batch.memory_mask,
        use_cache=False,
    ).last_hidden_state
    hidden: torch.Tensor = decoded.flatten(0, 1)[batch.predictor]
    # T5 with tied embeddings scales in front of its output layer; nothing of the model's own does that alone.
    return hidden * model.config.d_model**-0.5 if getattr(model.config, "scale_decoder_outputs", False) else hidden


def plain_logits(model: Any, sequence: TokenSequence, start_id: int) -> torch.Tensor:
    """Logits [T, V] of a completion alone, by the model's own forward pass."""
    device = model.device
    inputs = np.concatenate([[start_id], sequence.token_ids[:-1]]).astype(np.int64)
    logits: torch.Tensor = model(
        input_ids=torch.from_numpy(sequence.prompt_ids.astype(np.int64))[None].to(device),
        decoder_input_ids=torch.from_numpy(inputs)[None].to(device),
        use_cache=False,
    ).logits[0]
    return logits


@dataclass(slots=True)
class _Row:
    """Completions of one prompt, with the index of each one's first token in the concatenation of all completions."""

    branches: list[tuple[Ids, int]]
    length: int


@dataclass(slots=True)
class _Part:
    """Decoder rows of one prompt that go into the same micro-batch."""

    prompt_ids: Ids
    rows: list[_Row]

    @property
    def length(self) -> int:
        return max(row.length for row in self.rows)


def pack(
    sequences: Sequence[TokenSequence], *, start_id: int, micro_batch_tokens: int, row_tokens: int
) -> list[EncoderDecoderBatch]:
    """Pack `sequences` into micro-batches of at most `micro_batch_tokens` tokens of both sides, padding included.

    Decoder rows are as long as the longest completion, but those of several completions at most `row_tokens`. A prompt
    is encoded once, but where its completions exceed the budget, once a micro-batch. A sequence that just fits may
    exceed it by its alignment. Raises ValueError for an empty prompt or completion, and for a sequence that does not
    fit the budget.
    """
    parts = [
        part
        for prompt_ids, rows in _prompts(sequences, row_tokens)
        for part in _parts(prompt_ids, rows, micro_batch_tokens)
    ]
    # Like lengths side by side; stable: the layout depends on nothing but the sequences.
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


def _first_fit(lengths: Sequence[int], capacity: int) -> list[tuple[int, int]]:
    """Row and column of each of `lengths` in rows of `capacity`, the longest first; longer ones have their own."""
    filled: list[int] = []
    places = [(0, 0)] * len(lengths)
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        row = next((row for row, used in enumerate(filled) if used + lengths[index] <= capacity), len(filled))
        if row == len(filled):
            filled.append(0)
        places[index] = (row, filled[row])
        filled[row] += lengths[index]
    return places


def _prompts(sequences: Sequence[TokenSequence], row_tokens: int) -> list[tuple[Ids, list[_Row]]]:
    """Every prompt with its completions in rows."""
    groups: dict[bytes, tuple[Ids, list[tuple[Ids, int]]]] = {}
    offset = 0
    for index, sequence in enumerate(sequences):
        check_not_empty(index, sequence)
        key = sequence.prompt_ids.tobytes()
        groups.setdefault(key, (sequence.prompt_ids, []))[1].append((sequence.token_ids, offset))
        offset += len(sequence.token_ids)
    capacity = min(row_tokens, max((len(s.token_ids) for s in sequences), default=0))
    prompts = []
    for prompt_ids, branches in groups.values():
        places = _first_fit([len(token_ids) for token_ids, _ in branches], capacity)
        rows = [_Row([], 0) for _ in range(1 + max(row for row, _ in places))]
        for branch, (row, _) in zip(branches, places, strict=True):
            rows[row].branches.append(branch)
            rows[row].length += len(branch[0])
        prompts.append((prompt_ids, rows))
    return prompts


def _parts(prompt_ids: Ids, rows: list[_Row], micro_batch_tokens: int) -> list[_Part]:
    longest = max(row.length for row in rows)
    if len(prompt_ids) + longest > micro_batch_tokens:
        raise ValueError(
            f"a sequence of {len(prompt_ids) + longest} tokens does not fit into a micro-batch: raise "
            f"learner.micro_batch_tokens ({micro_batch_tokens})"
        )
    count = max(1, (micro_batch_tokens - aligned(len(prompt_ids))) // aligned(longest))
    return [_Part(prompt_ids, rows[first : first + count]) for first in range(0, len(rows), count)]


def _encoder_places(parts: list[_Part]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Row and column of each part's prompt, and the shape of all encoder rows."""
    width = aligned(max(len(part.prompt_ids) for part in parts))
    places = _first_fit([len(part.prompt_ids) for part in parts], width)
    return places, (1 + max(row for row, _ in places), width)


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
    encoder = (encoder_ids, segments, memory, memory_mask)
    return EncoderDecoderBatch(
        *map(torch.from_numpy, (*encoder, *_decoder([r for p in parts for r in p.rows], start_id)))
    )


def _decoder(rows: list[_Row], start_id: int) -> tuple[NDArray[Any], ...]:
    """`decoder_ids`, `branch`, `predictor`, `target` and `source` of a batch with these decoder rows."""
    length = aligned(max(row.length for row in rows))
    ids, branches = np.zeros((len(rows), length), np.int64), np.full((len(rows), length), -1, np.int32)
    predictor: list[NDArray[np.int64]] = []
    target: list[Ids] = []
    source: list[NDArray[np.int64]] = []
    for index, row in enumerate(rows):
        start = 0
        for branch, (token_ids, offset) in enumerate(row.branches):
            end = start + len(token_ids)
            ids[index, start] = start_id
            ids[index, start + 1 : end] = token_ids[:-1]
            branches[index, start:end] = branch
            predictor.append(index * length + np.arange(start, end))
            target.append(token_ids)
            source.append(offset + np.arange(len(token_ids)))
            start = end
    return ids, branches, np.concatenate(predictor), np.concatenate(target).astype(np.int64), np.concatenate(source)

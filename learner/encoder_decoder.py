"""Sequences for models with an encoder and a decoder (T5, CodeT5): each prompt encoded once, its completions decoded.

The encoder has one prompt a row, `[P, S]`, padding masked. Decoder rows `[R, L]` hold completions of one prompt, each
behind the model's start token and blind to the others; a row is no longer than the longest completion:

    encoder row 0   | prompt A | padding |        decoder row 0   | start A1 | start A2 |
    encoder row 1   | prompt B           |        decoder row 1   | start A3 | padding  |
                                                  decoder row 2   | start B1 | padding  |

A decoder may start anywhere in a row because T5 knows distances between tokens only, no places. For a model that does
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
    """What one forward pass computes: `P` prompts, `R` decoder rows, `N` completion tokens.

    `encoder_ids` and `encoder_mask` (bool) are `[P, S]`. `prompt` [R] is the encoder row that a decoder row belongs to,
    `branch` [R, L] which completion of the row a token is of (-1: padding). `predictor` [N] is the flat index into
    `R * L` of the token whose hidden state predicts `target` [N]; `source` [N] is the token's index in the
    concatenation of all completions of the batch, in the order they were given.
    """

    encoder_ids: torch.Tensor
    encoder_mask: torch.Tensor
    prompt: torch.Tensor
    decoder_ids: torch.Tensor
    branch: torch.Tensor
    predictor: torch.Tensor
    target: torch.Tensor
    source: torch.Tensor

    def to(self, device: torch.device) -> EncoderDecoderBatch:
        """The same micro-batch on `device`."""
        return EncoderDecoderBatch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))

    def decoder_mask(self) -> torch.Tensor:
        """Which keys (fourth axis) a query (third) of the decoder sees: bool [R, 1, L, L]."""
        length = self.branch.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.branch.device).tril()
        return (causal & (self.branch[:, :, None] == self.branch[:, None, :]))[:, None]


def hidden_states(model: Any, batch: EncoderDecoderBatch) -> torch.Tensor:
    """What the output layer of `model` turns into the logits of the `N` tokens of `batch`: [N, H]."""
    encoded = model.get_encoder()(input_ids=batch.encoder_ids, attention_mask=batch.encoder_mask).last_hidden_state
    decoded = model.get_decoder()(
        input_ids=batch.decoder_ids,
        attention_mask=batch.decoder_mask(),
        encoder_hidden_states=encoded[batch.prompt],
        encoder_attention_mask=batch.encoder_mask[batch.prompt],
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
    sequences: Sequence[TokenSequence],
    *,
    start_id: int,
    token_budget: int,
    row_tokens: int,
    share_prompts: bool = True,
) -> list[EncoderDecoderBatch]:
    """Pack `sequences` into micro-batches of at most `token_budget` tokens of both sides, padding included.

    Decoder rows are as long as the longest completion, but those of several completions at most `row_tokens`. A prompt
    is encoded once, but where its completions exceed the budget, once a micro-batch. A sequence that just fits may
    exceed it by its alignment. `share_prompts=False` encodes the prompt of every completion, each in a row of its own
    (the plain layout, for comparison). Raises ValueError for an empty prompt or completion, and for a sequence that
    does not fit the budget.
    """
    parts = [
        part
        for prompt_ids, rows in _prompts(sequences, row_tokens, share_prompts)
        for part in _parts(prompt_ids, rows, token_budget)
    ]
    # Like lengths side by side; stable: the layout depends on nothing but the sequences.
    parts.sort(key=lambda part: (-part.length, -len(part.prompt_ids)))
    batches: list[EncoderDecoderBatch] = []
    pending: list[_Part] = []
    for part in parts:
        if pending and _num_tokens([*pending, part]) > token_budget:
            batches.append(_batch(pending, start_id))
            pending = []
        pending.append(part)
    if pending:
        batches.append(_batch(pending, start_id))
    return batches


def _num_tokens(parts: list[_Part]) -> int:
    num_rows = sum(len(part.rows) for part in parts)
    width = aligned(max(len(part.prompt_ids) for part in parts))
    return len(parts) * width + num_rows * aligned(max(part.length for part in parts))


def _prompts(sequences: Sequence[TokenSequence], row_tokens: int, share_prompts: bool) -> list[tuple[Ids, list[_Row]]]:
    """Every prompt with its completions in rows: first-fit decreasing."""
    groups: dict[object, tuple[Ids, list[tuple[Ids, int]]]] = {}
    offset = 0
    for index, sequence in enumerate(sequences):
        check_not_empty(index, sequence)
        key: object = sequence.prompt_ids.tobytes() if share_prompts else index
        groups.setdefault(key, (sequence.prompt_ids, []))[1].append((sequence.token_ids, offset))
        offset += len(sequence.token_ids)
    capacity = min(row_tokens, max((len(s.token_ids) for s in sequences), default=0))
    prompts = []
    for prompt_ids, branches in groups.values():
        rows: list[_Row] = []
        for branch in sorted(branches, key=lambda branch: -len(branch[0])):
            length = len(branch[0])
            row = next((row for row in rows if row.length + length <= capacity), None)
            if row is None:
                rows.append(_Row([branch], length))
            else:
                row.branches.append(branch)
                row.length += length
        prompts.append((prompt_ids, rows))
    return prompts


def _parts(prompt_ids: Ids, rows: list[_Row], token_budget: int) -> list[_Part]:
    longest = max(row.length for row in rows)
    if len(prompt_ids) + longest > token_budget:
        raise ValueError(
            f"a sequence of {len(prompt_ids) + longest} tokens does not fit into a micro-batch: raise "
            f"learner.token_budget ({token_budget})"
        )
    count = max(1, (token_budget - aligned(len(prompt_ids))) // aligned(longest))
    return [_Part(prompt_ids, rows[first : first + count]) for first in range(0, len(rows), count)]


def _batch(parts: list[_Part], start_id: int) -> EncoderDecoderBatch:
    width = aligned(max(len(part.prompt_ids) for part in parts))
    length = aligned(max(part.length for part in parts))
    num_rows = sum(len(part.rows) for part in parts)
    encoder_ids, encoder_mask = np.zeros((len(parts), width), np.int64), np.zeros((len(parts), width), np.bool_)
    decoder_ids, branch_ids = np.zeros((num_rows, length), np.int64), np.full((num_rows, length), -1, np.int32)
    prompt = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
    predictor: list[NDArray[np.int64]] = []
    target: list[Ids] = []
    source: list[NDArray[np.int64]] = []
    for place, part in enumerate(parts):
        encoder_ids[place, : len(part.prompt_ids)] = part.prompt_ids
        encoder_mask[place, : len(part.prompt_ids)] = True
    for index, row in enumerate(row for part in parts for row in part.rows):
        start = 0
        for branch, (token_ids, offset) in enumerate(row.branches):
            end = start + len(token_ids)
            decoder_ids[index, start] = start_id
            decoder_ids[index, start + 1 : end] = token_ids[:-1]
            branch_ids[index, start:end] = branch
            predictor.append(index * length + np.arange(start, end))
            target.append(token_ids)
            source.append(offset + np.arange(len(token_ids)))
            start = end
    return EncoderDecoderBatch(
        encoder_ids=torch.from_numpy(encoder_ids),
        encoder_mask=torch.from_numpy(encoder_mask),
        prompt=torch.from_numpy(prompt),
        decoder_ids=torch.from_numpy(decoder_ids),
        branch=torch.from_numpy(branch_ids),
        predictor=torch.from_numpy(np.concatenate(predictor)),
        target=torch.from_numpy(np.concatenate(target).astype(np.int64)),
        source=torch.from_numpy(np.concatenate(source)),
    )

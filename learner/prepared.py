"""The data of one update, and how it is dealt to the ranks.

All ranks work on a micro-batch at the same time, because they gather each layer together, so every rank gets equally
many. Each round takes the next longest ones, so that nobody waits for somebody much longer. What is missing in the last
round are empty micro-batches. With one rank, the micro-batches stay as they were packed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rltf.learner.data import Experience, TokenSequence
from rltf.learner.encoder_decoder import EncoderDecoderBatch
from rltf.learner.objectives import TokenTable
from rltf.learner.packing import MicroBatch, aligned

Batches = list[MicroBatch] | list[EncoderDecoderBatch]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedUpdate:
    """The data of one update, packed.

    `num_idle_samples` of the `num_samples` experiences have no gradient and are not in `batches`. `num_tokens` counts
    completion tokens, including theirs and those of the references. `num_drawn` is the data position after the update.
    Of the share of a rank, only `batches` differ; it lacks `experiences` and `references`.
    """

    experiences: Sequence[Experience]
    references: Sequence[TokenSequence]
    batches: Batches
    table: TokenTable
    num_samples: int
    num_idle_samples: int
    num_tokens: int
    num_drawn: int


def shares(update: PreparedUpdate, size: int) -> list[PreparedUpdate]:
    """The share of each of `size` ranks in an update."""
    if size == 1:
        return [update]
    return [replace(update, experiences=(), references=(), batches=part) for part in deal(update.batches, size)]


def deal(batches: Batches, size: int) -> list[Batches]:
    """Equally many micro-batches for each of `size` ranks, the longest first."""
    if size == 1:
        return [batches]
    ordered: Any = sorted(batches, key=lambda batch: -batch.num_tokens)
    if ordered:
        ordered += [ordered[0].empty()] * (-len(ordered) % size)
    return [ordered[rank::size] for rank in range(size)]


def pack_evenly(pack: Callable[[int], Batches], micro_batch_tokens: int, size: int) -> Batches:
    """What `pack` makes with `micro_batch_tokens`, or with fewer if that gives each of `size` ranks similar work."""
    batches = pack(micro_batch_tokens)
    if len(batches) % size == 0:
        return batches
    even = -(-sum(batch.num_tokens for batch in batches) // (-(-len(batches) // size) * size))
    longest = max(batch.longest_row for batch in batches)
    smaller = pack(min(micro_batch_tokens, aligned(max(even, longest))))
    return min(batches, smaller, key=lambda packed: _cost(packed, size))


def _cost(batches: Batches, size: int) -> int:
    """Tokens of the longest micro-batch of each round, in all."""
    return sum(sorted((batch.num_tokens for batch in batches), reverse=True)[::size])

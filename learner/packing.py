"""Sequences packed into micro-batches: shared prompts computed once, no attention across samples, right positions.

All completions of one prompt form a *tree*: the prompt once, then each completion as a branch that sees the prompt and
itself, its positions continuing those of the prompt. Trees lie side by side in rows `[R, L]`:

    row     | prompt A | completion A1 | completion A2 | prompt B | completion B1 | padding |
    position 0 .. P-1  | P ..          | P ..          | 0 ..     | P ..          | 0 ..

This computes what one sequence a row would (up to the order of sums), with a fraction of the tokens. The last token of
a completion predicts nothing, so it is a target only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

# Attention kernels want rows whose length is a multiple of this.
ROW_ALIGNMENT = 8

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A prompt [P] and a completion [T], P and T at least 1."""

    prompt_ids: Ids
    token_ids: Ids


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """What one forward pass computes. `N` completion tokens in rows `[R, L]`.

    `tree` and `branch` say which tree a token belongs to (-1: padding) and which completion of it (0: the prompt).
    `predictor` [N] is the flat index into `R * L` of the token whose hidden state predicts `target` [N]; `source` [N]
    is the token's index in the concatenation of all completions of the batch, in the order they were given.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    tree: torch.Tensor
    branch: torch.Tensor
    predictor: torch.Tensor
    target: torch.Tensor
    source: torch.Tensor

    def to(self, device: torch.device) -> MicroBatch:
        """The same micro-batch on `device`."""
        return MicroBatch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))

    def attention_mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Additive mask [R, 1, L, L]: 0 where a query (third axis) may see a key, else the lowest finite number."""
        length = self.tree.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.tree.device).tril()
        same_tree = self.tree[:, :, None] == self.tree[:, None, :]
        visible_branch = (self.branch[:, None, :] == 0) | (self.branch[:, :, None] == self.branch[:, None, :])
        hidden = ~(causal & same_tree & visible_branch)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        return mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None]


def check_not_empty(index: int, sequence: TokenSequence) -> None:
    """Raises ValueError for a sequence without a prompt or a completion; `index` names it."""
    num_prompt, num_tokens = len(sequence.prompt_ids), len(sequence.token_ids)
    if num_prompt == 0 or num_tokens == 0:
        raise ValueError(
            f"sequence {index}: {num_prompt} prompt and {num_tokens} completion tokens; both need at least one"
        )


@dataclass(slots=True)
class _Tree:
    prompt_ids: Ids
    branches: list[tuple[Ids, int]]
    """Token ids of each completion, and the index of its first token in the concatenation of all completions."""
    length: int


def pack(
    sequences: Sequence[TokenSequence], *, micro_batch_tokens: int, row_tokens: int, share_prompts: bool = True
) -> list[MicroBatch]:
    """Pack `sequences` into micro-batches of at most `micro_batch_tokens` tokens, padding included.

    `micro_batch_tokens` is a multiple of 8. Trees longer than `row_tokens` are split, each part with the prompt
    again; a single sequence may be longer.
    `share_prompts=False` gives every sequence its own tree and its own row (the plain layout, for comparison).
    Raises ValueError for an empty prompt or completion, and for a sequence that does not fit the budget.
    """
    row_tokens = min(row_tokens, micro_batch_tokens)
    trees = _trees(sequences, row_tokens if share_prompts else 0)
    trees.sort(key=lambda tree: -tree.length)  # stable: the layout depends on nothing but the sequences
    rows = _rows(trees, row_tokens) if share_prompts else [[tree] for tree in trees]
    batches: list[MicroBatch] = []
    pending: list[list[_Tree]] = []
    pending_length = 0
    for row in rows:
        length = aligned(sum(tree.length for tree in row))
        if length > micro_batch_tokens:
            raise ValueError(
                f"a sequence of {length} tokens does not fit into a micro-batch: raise learner.micro_batch_tokens "
                f"({micro_batch_tokens})"
            )
        widest = max(pending_length, length)
        if pending and widest * (len(pending) + 1) > micro_batch_tokens:
            batches.append(_micro_batch(pending, pending_length))
            pending, widest = [], length
        pending.append(row)
        pending_length = widest
    if pending:
        batches.append(_micro_batch(pending, pending_length))
    return batches


def aligned(length: int) -> int:
    """`length` rounded up to what attention kernels want."""
    return -(-length // ROW_ALIGNMENT) * ROW_ALIGNMENT


def _trees(sequences: Sequence[TokenSequence], row_tokens: int) -> list[_Tree]:
    """One tree a prompt, or more where it would be longer than `row_tokens`."""
    open_trees: dict[bytes, _Tree] = {}
    trees: list[_Tree] = []
    offset = 0
    for index, sequence in enumerate(sequences):
        check_not_empty(index, sequence)
        num_prompt, num_tokens = len(sequence.prompt_ids), len(sequence.token_ids)
        key = sequence.prompt_ids.tobytes()
        tree = open_trees.get(key)
        if tree is None or tree.length + num_tokens - 1 > row_tokens:
            tree = open_trees[key] = _Tree(sequence.prompt_ids, [], num_prompt)
            trees.append(tree)
        tree.branches.append((sequence.token_ids, offset))
        tree.length += num_tokens - 1
        offset += num_tokens
    return trees


def _rows(trees: list[_Tree], row_tokens: int) -> list[list[_Tree]]:
    """First-fit decreasing into rows as long as the longest tree, but never longer than needed for it."""
    capacity = min(row_tokens, trees[0].length) if trees else 0
    rows: list[list[_Tree]] = []
    free: list[int] = []
    for tree in trees:
        slot = next((i for i, room in enumerate(free) if room >= tree.length), None)
        if slot is None:
            rows.append([tree])
            free.append(capacity - tree.length)
        else:
            rows[slot].append(tree)
            free[slot] -= tree.length
    return rows


def _micro_batch(rows: list[list[_Tree]], length: int) -> MicroBatch:
    shape = (len(rows), length)
    input_ids, position_ids = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    tree_ids, branch_ids = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
    predictor: list[NDArray[np.int64]] = []
    target: list[Ids] = []
    source: list[NDArray[np.int64]] = []
    for row, trees in enumerate(rows):
        start = 0
        for tree_id, tree in enumerate(trees):
            num_prompt = len(tree.prompt_ids)
            tree_ids[row, start : start + tree.length] = tree_id
            input_ids[row, start : start + num_prompt] = tree.prompt_ids
            position_ids[row, start : start + num_prompt] = np.arange(num_prompt)
            last_of_prompt = row * length + start + num_prompt - 1
            end = start + num_prompt
            for branch_id, (token_ids, offset) in enumerate(tree.branches, start=1):
                num_inputs = len(token_ids) - 1
                input_ids[row, end : end + num_inputs] = token_ids[:-1]
                position_ids[row, end : end + num_inputs] = num_prompt + np.arange(num_inputs)
                branch_ids[row, end : end + num_inputs] = branch_id
                predictor.append(np.array([last_of_prompt], np.int64))
                predictor.append(row * length + end + np.arange(num_inputs))
                target.append(token_ids)
                source.append(offset + np.arange(len(token_ids)))
                end += num_inputs
            start += tree.length
    return MicroBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        tree=torch.from_numpy(tree_ids),
        branch=torch.from_numpy(branch_ids),
        predictor=torch.from_numpy(np.concatenate(predictor)),
        target=torch.from_numpy(np.concatenate(target).astype(np.int64)),
        source=torch.from_numpy(np.concatenate(source)),
    )

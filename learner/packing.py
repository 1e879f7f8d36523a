"""Sequences packed into micro-batches: shared prompts computed once, no attention across samples, right positions.

All completions of one prompt form a *tree*: the prompt once, then each completion as a branch. A branch sees the prompt
and itself, and its positions continue those of the prompt. Trees lie side by side in rows `[R, L]`:

    row     | prompt A | completion A1 | completion A2 | prompt B | completion B1 | padding |
    position 0 .. P-1  | P ..          | P ..          | 0 ..     | P ..          | 0 ..

The result is that of one sequence per row, up to the order of sums, with a fraction of the tokens. The last token of a
completion predicts nothing, so it is only a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rltf.learner.data import Ids, TokenSequence

# Attention kernels are fastest on rows whose length is a multiple of this.
ROW_ALIGNMENT = 8


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """The input of one forward pass: rows `[R, L]` with `N` completion tokens to learn.

    `tree` and `branch` say which tree a token belongs to (-1: padding) and which completion of it (0: the prompt).
    `predictor` [N] is the flat index into `R * L` of the token whose hidden state predicts `target` [N]. `source` [N]
    is the token's index in the concatenation of the tokens to learn of all completions, in the order they were given.
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

    @property
    def num_tokens(self) -> int:
        """Tokens of the forward pass, padding included."""
        return self.input_ids.numel()

    @property
    def longest_row(self) -> int:
        """The fewest tokens that a micro-batch with the longest of these rows has."""
        return self.input_ids.shape[1]

    @staticmethod
    def empty() -> MicroBatch:
        """A micro-batch without completion tokens, for a rank that has nothing to do."""
        row, none = torch.zeros(1, ROW_ALIGNMENT, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        return MicroBatch(row, row, row, row, predictor=none, target=none, source=none)

    def attention_mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Additive mask [R, 1, L, L]: 0 if a query (third axis) may see a key, else the lowest finite number."""
        length = self.tree.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.tree.device).tril()
        same_tree = self.tree[:, :, None] == self.tree[:, None, :]
        visible_branch = (self.branch[:, None, :] == 0) | (self.branch[:, :, None] == self.branch[:, None, :])
        hidden = ~(causal & same_tree & visible_branch)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        return mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None]


@dataclass(frozen=True, slots=True)
class Branch:
    """A completion [T], the places [S] of its tokens to learn, and the index of their first among those of all."""

    token_ids: Ids
    learned: NDArray[np.int64]
    offset: int

    @property
    def source(self) -> NDArray[np.int64]:
        """The index [S] of each token to learn among those of all packed completions."""
        return self.offset + np.arange(len(self.learned))


@dataclass(slots=True)
class _Tree:
    prompt_ids: Ids
    branches: list[Branch]
    length: int


def pack(
    sequences: Sequence[TokenSequence], *, micro_batch_tokens: int, row_tokens: int, row_alignment: int = ROW_ALIGNMENT
) -> list[MicroBatch]:
    """Pack `sequences` into micro-batches of at most `micro_batch_tokens` tokens, padding included.

    `micro_batch_tokens` is a multiple of 8. Rows are padded to a multiple of `row_alignment`, unless that would be more
    than a micro-batch. A tree longer than `row_tokens` is split, and each part repeats the prompt.
    A single sequence may be longer. Raises ValueError for an empty prompt or completion, and for a sequence that does
    not fit into a micro-batch.
    """
    row_tokens = min(row_tokens, micro_batch_tokens)
    trees = _trees(sequences, row_tokens)
    trees.sort(key=lambda tree: -tree.length)  # a stable sort: the layout depends only on the sequences
    lengths = [tree.length for tree in trees]
    longest = max(lengths, default=0)  # no row is longer than the longest tree, and what is padded anyway
    rows = first_fit(
        lengths, min(row_tokens, longest if row_alignment == ROW_ALIGNMENT else aligned(longest, row_alignment))
    )
    batches: list[MicroBatch] = []
    pending: list[list[_Tree]] = []
    pending_length = 0
    for row in rows:
        num_tokens = sum(lengths[index] for index in row)
        length = max(min(aligned(num_tokens, row_alignment), micro_batch_tokens), aligned(num_tokens))
        if length > micro_batch_tokens:
            raise too_long(length, micro_batch_tokens)
        widest = max(pending_length, length)
        if pending and widest * (len(pending) + 1) > micro_batch_tokens:
            batches.append(_micro_batch(pending, pending_length))
            pending, widest = [], length
        pending.append([trees[index] for index in row])
        pending_length = widest
    if pending:
        batches.append(_micro_batch(pending, pending_length))
    return batches


def aligned(length: int, alignment: int = ROW_ALIGNMENT) -> int:
    """`length` rounded up to a multiple of `alignment`."""
    return -(-length // alignment) * alignment


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in rows of `capacity`, longest first; a length above `capacity` has a row of its own."""
    rows: list[list[int]] = []
    filled: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        row = next((row for row, used in enumerate(filled) if used + lengths[index] <= capacity), len(filled))
        if row == len(filled):
            rows.append([])
            filled.append(0)
        rows[row].append(index)
        filled[row] += lengths[index]
    return rows


def branches(sequences: Sequence[TokenSequence]) -> list[Branch]:
    """The completions of `sequences`. Raises ValueError for an empty prompt or completion."""
    found: list[Branch] = []
    offset = 0
    for index, sequence in enumerate(sequences):
        if len(sequence.prompt_ids) == 0 or len(sequence.token_ids) == 0:
            raise ValueError(
                f"sequence {index} has {len(sequence.prompt_ids)} prompt and {len(sequence.token_ids)} completion "
                "tokens; both need at least one"
            )
        found.append(Branch(sequence.token_ids, sequence.learned, offset))
        offset += len(found[-1].learned)
    return found


def too_long(length: int, micro_batch_tokens: int) -> ValueError:
    """The error for a sequence that does not fit into a micro-batch."""
    return ValueError(
        f"a sequence of {length} tokens does not fit into a micro-batch: raise learner.micro_batch_tokens "
        f"({micro_batch_tokens})"
    )


def _trees(sequences: Sequence[TokenSequence], row_tokens: int) -> list[_Tree]:
    """One tree per prompt, or several if it would be longer than `row_tokens`."""
    open_trees: dict[bytes, _Tree] = {}
    trees: list[_Tree] = []
    for sequence, branch in zip(sequences, branches(sequences), strict=True):
        key, num_inputs = sequence.prompt_ids.tobytes(), len(branch.token_ids) - 1
        tree = open_trees.get(key)
        if tree is None or tree.length + num_inputs > row_tokens:
            tree = open_trees[key] = _Tree(sequence.prompt_ids, [], len(sequence.prompt_ids))
            trees.append(tree)
        tree.branches.append(branch)
        tree.length += num_inputs
    return trees


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
            for branch_id, branch in enumerate(tree.branches, start=1):
                num_inputs = len(branch.token_ids) - 1
                input_ids[row, end : end + num_inputs] = branch.token_ids[:-1]
                position_ids[row, end : end + num_inputs] = num_prompt + np.arange(num_inputs)
                branch_ids[row, end : end + num_inputs] = branch_id
                predictors = np.concatenate([[last_of_prompt], row * length + end + np.arange(num_inputs)])
                predictor.append(predictors[branch.learned])
                target.append(branch.token_ids[branch.learned])
                source.append(branch.source)
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

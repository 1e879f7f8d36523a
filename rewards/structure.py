"""How similar the structure of a program is to that of reference solutions: the structure reward of PPOCoder.

Shojaee et al., "Execution-based Code Generation using Deep Reinforcement Learning", TMLR 2023, arXiv 2301.13816. The
two measures are the syntax match and the data-flow match of CodeBLEU (Ren et al. 2020, arXiv 2009.10297). Programs with
syntax errors count too: the parser skips what it does not understand. Nothing runs.

A program has no structure, and every match with it is 0, if it is longer than `MAX_CHARACTERS`, nests deeper than
`MAX_DEPTH`, or has a data flow of more than `MAX_STEPS` steps (`rewards/dataflow.py`).
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import tree_sitter_python
from tree_sitter import Language, Node, Parser, TreeCursor

from rltf.rewards.dataflow import Edge, SyntaxNode, TooComplexError, data_flow
from rltf.rewards.lines import MAX_CHARACTERS

logger = logging.getLogger(__name__)

# Levels of the syntax tree. Human solutions have at most a few dozen. The analysis takes three calls a level.
MAX_DEPTH = 150
# Problems of competitions have hundreds of solutions; the first ones are enough.
MAX_REFERENCES = 5

_PYTHON = Language(tree_sitter_python.language())
_IGNORED = ("comment", "line_continuation")


@dataclass(frozen=True, slots=True)
class StructureMatch:
    """How much of a reference's structure a program has, each from 0 to 1."""

    ast: float
    dataflow: float

    @property
    def total(self) -> float:
        """The sum, from 0 to 2."""
        return self.ast + self.dataflow


def ast_match(candidate: str, reference: str) -> float:
    """The share of the reference's syntax subtrees that the candidate has too, from 0 to 1.

    Subtrees compare by the kinds of their nodes. Names, values, operators, comments and docstrings do not count.
    """
    return _match(_structure(candidate), _reference(reference)).ast


def dataflow_match(candidate: str, reference: str) -> float:
    """The share of the reference's data-flow edges that the candidate has too, from 0 to 1; 0 if there are none.

    An edge is a use, or an assignment, of a name with the names and literals that its value comes from. Names count by
    the order in which they appear, so that renaming a variable changes nothing.
    """
    return _match(_structure(candidate), _reference(reference)).dataflow


def structure_match(candidate: str, references: Sequence[str]) -> StructureMatch:
    """The best match, by its sum, with one of the first `MAX_REFERENCES` references; 0 without references."""
    structure = _structure(candidate)
    matches = [_match(structure, _reference(reference)) for reference in references[:MAX_REFERENCES]]
    return max(matches, key=lambda match: match.total, default=StructureMatch(0.0, 0.0))


@dataclass(frozen=True, slots=True)
class _Structure:
    """The syntax subtrees of a program, as digests, and the edges of its data flow, with how often each occurs."""

    subtrees: Counter[str]
    edges: Counter[Edge]


def _match(candidate: _Structure, reference: _Structure) -> StructureMatch:
    found = sum(count for subtree, count in reference.subtrees.items() if subtree in candidate.subtrees)
    return StructureMatch(
        ast=found / max(1, reference.subtrees.total()),
        dataflow=(candidate.edges & reference.edges).total() / max(1, reference.edges.total()),
    )


def _structure(program: str) -> _Structure:
    try:
        if len(program) > MAX_CHARACTERS:
            raise TooComplexError(f"more than {MAX_CHARACTERS} characters")
        tree = _SyntaxTree(program)
        return _Structure(Counter(tree.subtrees), data_flow(tree.root, tree.tokens))
    except TooComplexError as error:
        logger.debug("no structure: %s", error)
        return _Structure(Counter(), Counter())


# All samples of a problem are compared with the same references.
_reference = lru_cache(maxsize=256)(_structure)


class _SyntaxTree:
    """A program's syntax tree without comments and docstrings, its data tokens, and the digests of its subtrees."""

    def __init__(self, program: str) -> None:
        self.tokens: list[bytes] = []
        self.subtrees: list[str] = []
        # A lone surrogate has no UTF-8; "?" stands in for it.
        tree = Parser(_PYTHON).parse(program.encode(errors="replace"))
        self.root, digest = self._read(tree.walk(), depth=1)
        if not self.root.children:  # it counts even then
            self.subtrees.append(digest)

    def _read(self, cursor: TreeCursor, depth: int) -> tuple[SyntaxNode, str]:
        """The node at `cursor` and the digest of its subtree: its type and the digests of its named children."""
        if depth > MAX_DEPTH:
            raise TooComplexError(f"more than {MAX_DEPTH} levels")
        source = cursor.node
        assert source is not None
        node = SyntaxNode(source.type, cursor.field_name, start=len(self.tokens))
        expression = [f"MISSING {source.type}" if source.is_missing else source.type]
        is_leaf = not cursor.goto_first_child()
        has_child = not is_leaf
        while has_child:
            child = cursor.node
            assert child is not None
            if not _is_ignored(child):
                part, digest = self._read(cursor, depth + 1)
                node.children.append(part)
                if child.is_named or child.is_missing:
                    expression.append(f"{part.role}:{digest}")
            has_child = cursor.goto_next_sibling()
        if not is_leaf:
            cursor.goto_parent()
        digest = hashlib.blake2b(" ".join(expression).encode(), digest_size=16).hexdigest()
        if node.children:
            self.subtrees.append(digest)
        if source.type == "string" or (source.is_named and is_leaf):
            self.tokens[node.start :] = [source.text or b""]
            node.children.clear()
        node.stop = len(self.tokens)
        return node, digest


def _is_ignored(node: Node) -> bool:
    """Whether the node is a comment, or a statement that is only a string, such as a docstring."""
    if node.type == "expression_statement" and node.named_child_count == 1:
        return node.named_children[0].type == "string"
    return node.type in _IGNORED

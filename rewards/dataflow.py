"""The data flow of a program: which token gets its value from which others, as CodeBLEU defines it.

CodeBLEU's own code orders some sources by the hash of their names, so its values change between runs. Here the order is
that of the tokens in the program.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# In a sample, solutions of competition problems took up to 14,000 steps. A loop doubles the steps of its body, so
# nested loops could take forever.
MAX_STEPS = 200_000

_COMES_FROM = "comesFrom"
_COMPUTED_FROM = "computedFrom"

Definitions = dict[bytes, tuple[int, ...]]
"""The tokens that may have given each name its present value, in order."""


class TooComplexError(Exception):
    """The program is too large or too deeply nested to analyze in bounded time."""


@dataclass(slots=True)
class SyntaxNode:
    """A node of a syntax tree without comments. `start:stop` are its data tokens: names and literals, not keywords.

    A string is one data token, without children. `role` is the node's field in its parent, such as "left".
    """

    type: str
    role: str | None
    start: int
    stop: int = 0
    children: list[SyntaxNode] = field(default_factory=list)

    @property
    def tokens(self) -> range:
        """The data tokens, by number."""
        return range(self.start, self.stop)

    def child(self, role: str) -> SyntaxNode:
        """The first child in this role."""
        return next(child for child in self.children if child.role == role)


class Edge(NamedTuple):
    """A token and where its value comes from. Names are numbers, in the order in which they appear in the flow."""

    target: int
    relation: str
    sources: tuple[int, ...]


def data_flow(root: SyntaxNode, tokens: Sequence[bytes]) -> Counter[Edge]:
    """The edges of the program `root`, whose data tokens have the texts `tokens`.

    Raises:
        TooComplexError: the flow takes more than `MAX_STEPS` steps.
    """
    flow = _Flow(tokens)
    flow.visit(root, {})
    return Counter(flow.edges())


class _Source(NamedTuple):
    relation: str
    tokens: tuple[int, ...]
    names: tuple[bytes, ...]


class _Flow:
    """Follows a program from top to bottom and collects the sources of each data token."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._texts = texts
        self._sources: dict[int, _Source] = {}
        self._steps = 0
        self._visits: dict[str, Callable[[SyntaxNode, Definitions], None]] = {
            "default_parameter": self._visit_default,
            "assignment": self._visit_assignment,
            "augmented_assignment": self._visit_assignment,
            "for_in_clause": self._visit_comprehension,
            "if_statement": self._visit_if,
            "for_statement": self._visit_for,
            "while_statement": self._visit_while,
        }

    def visit(self, node: SyntaxNode, last: Definitions) -> None:
        """Collects the sources in `node`; `last` is brought up to date."""
        self._spend(1)
        if node.children:
            self._visits.get(node.type, self._visit_in_order)(node, last)
        elif node.tokens:
            self._visit_token(node, last)

    def edges(self) -> Iterable[Edge]:
        """The collected edges in the order of their targets, without tokens that neither have nor are a source."""
        used = {token for source in self._sources.values() for token in source.tokens}
        numbers: dict[bytes, int] = {}
        for token, source in sorted(self._sources.items()):
            if source.tokens or token in used:
                names = (*source.names, self._texts[token])
                *sources, target = (numbers.setdefault(name, len(numbers)) for name in names)
                yield Edge(target, source.relation, tuple(sources))

    def _visit_in_order(self, node: SyntaxNode, last: Definitions) -> None:
        # The variables of a comprehension are defined after the element that uses them.
        for child in sorted(node.children, key=lambda child: child.type != "for_in_clause"):
            self.visit(child, last)

    def _visit_token(self, node: SyntaxNode, last: Definitions) -> None:
        name = self._texts[node.start]
        if name in last:
            self._add(node.start, _Source(_COMES_FROM, last[name], (name,)))
            return
        self._add(node.start, _Source(_COMES_FROM, (), ()))
        if node.type == "identifier":
            last[name] = (node.start,)

    def _visit_default(self, node: SyntaxNode, last: Definitions) -> None:
        name, value = node.child("name"), node.child("value")
        self.visit(value, last)
        for target in name.tokens:
            for source in value.tokens:
                self._add(target, _Source(_COMES_FROM, (source,), (self._texts[source],)))
            last[self._texts[target]] = (target,)

    def _visit_assignment(self, node: SyntaxNode, last: Definitions) -> None:
        if any(child.role == "right" for child in node.children):  # a mere annotation has none
            self._assign(_pairs(node.child("left"), node.child("right")), last)

    def _visit_comprehension(self, node: SyntaxNode, last: Definitions) -> None:
        self._assign([(node.child("left"), node.children[-1])], last)

    def _assign(self, pairs: Sequence[tuple[SyntaxNode, SyntaxNode]], last: Definitions) -> None:
        for _, right in pairs:
            self.visit(right, last)
        for left, right in pairs:
            source = _Source(_COMPUTED_FROM, tuple(right.tokens), tuple(self._texts[token] for token in right.tokens))
            for target in left.tokens:
                self._add(target, source)
                last[self._texts[target]] = (target,)

    def _visit_if(self, node: SyntaxNode, last: Definitions) -> None:
        before = dict(last)
        ends = []
        for child in node.children:
            if child.type in ("elif_clause", "else_clause"):
                self._spend(len(before))
                ends.append(dict(before))
                self.visit(child, ends[-1])
            else:
                self.visit(child, last)
        if all(child.type != "else_clause" for child in node.children):
            ends.append(before)
        self._join(last, ends)

    def _visit_for(self, node: SyntaxNode, last: Definitions) -> None:
        left, right = node.child("left"), node.child("right")
        for _ in range(2):
            self._assign(_pairs(left, right), last)
            for child in node.children:
                if child is not left and child is not right:
                    self.visit(child, last)

    def _visit_while(self, node: SyntaxNode, last: Definitions) -> None:
        for _ in range(2):
            self._visit_in_order(node, last)

    def _add(self, target: int, source: _Source) -> None:
        known = self._sources.get(target)
        self._spend(len(source.tokens) + (len(known.tokens) if known else 0))
        if known:
            tokens = tuple(sorted({*known.tokens, *source.tokens}))
            names = tuple(dict.fromkeys(self._texts[token] for token in tokens))
            source = _Source(known.relation, tokens, names)
        self._sources[target] = source

    def _join(self, last: Definitions, ends: Iterable[Definitions]) -> None:
        """Adds to `last` what holds at the ends of the other branches."""
        joined: dict[bytes, set[int]] = {}
        for end in (last, *ends):
            for name, tokens in end.items():
                self._spend(1 + len(tokens))
                joined.setdefault(name, set()).update(tokens)
        last.update({name: tuple(sorted(tokens)) for name, tokens in joined.items()})

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise TooComplexError(f"more than {MAX_STEPS} steps")


def _pairs(left: SyntaxNode, right: SyntaxNode) -> list[tuple[SyntaxNode, SyntaxNode]]:
    """What is assigned to what: part by part if both sides have equally many, else as a whole.

    As in CodeBLEU, any children count as parts: in `a, b = f(x)`, `a` gets its value from `f` and `b` from `x`.
    """
    lefts = [child for child in left.children if child.type != ","]
    rights = [child for child in right.children if child.type != ","]
    if lefts and len(lefts) == len(rights):
        return list(zip(lefts, rights, strict=True))
    return [(left, right)]

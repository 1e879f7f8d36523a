"""Programs with one small mistake of the kind people make. No model is needed."""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Callable, Iterator

from rltf.problems.python_source import parse

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
}
_NAMES = {"min": "max", "max": "min", "sorted": "list", "any": "all", "all": "any"}


def mutants(program: str, rng: random.Random, limit: int) -> Iterator[str]:
    """At most `limit` programs that differ from `program` in one operator, constant or name; none if not Python."""
    tree = parse(program)
    if not isinstance(tree, ast.Module):
        return
    places = [place for place, node in enumerate(ast.walk(tree)) if _change_of(node)]
    rng.shuffle(places)
    for place in places[:limit]:
        changed = copy.deepcopy(tree)
        node = list(ast.walk(changed))[place]
        change = _change_of(node)
        if change is not None:
            change(rng)
            yield ast.unparse(changed)


def _change_of(node: ast.AST) -> Callable[[random.Random], None] | None:
    """A function that changes a node in place; None if no change applies to it."""
    match node:
        case ast.Compare(ops=[operator, *_]) if type(operator) in _COMPARISONS:
            return lambda _: node.ops.__setitem__(0, _COMPARISONS[type(operator)]())
        case ast.BinOp(op=arithmetic) if type(arithmetic) in _ARITHMETIC:
            return lambda _: setattr(node, "op", _ARITHMETIC[type(arithmetic)]())
        case ast.BoolOp(op=boolean):
            return lambda _: setattr(node, "op", ast.Or() if isinstance(boolean, ast.And) else ast.And())
        case ast.Constant(value=value) if type(value) is int:
            return lambda rng: setattr(node, "value", value + rng.choice((-1, 1)))
        case ast.Name(id=name) if name in _NAMES:
            return lambda _: setattr(node, "id", _NAMES[name])
    return None

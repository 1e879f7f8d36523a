"""Values of constant expressions. Tests of benchmarks hold their inputs and answers as source code, which never runs.

Besides literals: `inf`, `nan`, arithmetic of constants (`2**31`, `[0] * 100`), and calls of plain types such as
`float("inf")`, `set()` and `Counter({1: 2})`. Their results have a limited size, so that no row can fill the memory.
"""

from __future__ import annotations

import ast
import math
import operator
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from rltf.problems.types import UnusableRowError

_NAMES = {"inf": math.inf, "nan": math.nan, "pi": math.pi}
_TYPES: dict[str, Callable[..., Any]] = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, range)
} | {kind.__name__: kind for kind in (Counter, OrderedDict, deque, Decimal, Fraction)}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
_MAX_ITEMS = 10_000_000
_MAX_BITS = 1_000_000


def constant(expression: ast.expr) -> Any:
    """The value of a constant expression.

    Raises UnusableRowError if it is another expression, or its value is too large. The message shows the part that is.
    """
    try:
        return _value(expression)
    except UnusableRowError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UnusableRowError(f"not a constant: {shortened(expression)}: {error}") from error
    except RecursionError as error:
        raise UnusableRowError("a value that is nested too deeply") from error


def shortened(node: ast.AST) -> str:
    """The source of a node on one line, cut off after 80 characters."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value) if value is not ...:
            return value
        case ast.List(items):
            return [_value(item) for item in items]
        case ast.Tuple(items):
            return tuple(_value(item) for item in items)
        case ast.Set(items):
            return {_value(item) for item in items}
        case ast.Dict(keys, values) if None not in keys:
            return {_value(key): _value(value) for key, value in zip(keys, values, strict=True) if key is not None}
        case ast.Name(name) | ast.Attribute(ast.Name("math"), name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(sign, operand) if type(sign) in _UNARY:
            return _UNARY[type(sign)](_value(operand))
        case ast.BinOp(left, sign, right) if type(sign) in _BINARY:
            return _binary(node, sign, _value(left), _value(right))
        case ast.Call(ast.Name(name), arguments, []) if name in _TYPES:
            return _made(node, name, [_value(argument) for argument in arguments])
    raise UnusableRowError(f"not a constant: {shortened(node)}")


def _binary(node: ast.expr, sign: ast.operator, left: Any, right: Any) -> Any:
    items = max((len(one) for one in (left, right) if hasattr(one, "__len__")), default=0)
    factor = max((abs(one) for one in (left, right) if isinstance(one, int)), default=1)
    is_too_large = isinstance(sign, ast.Mult) and items * factor > _MAX_ITEMS
    if isinstance(sign, ast.Pow) and isinstance(left, int) and isinstance(right, int):
        is_too_large = left.bit_length() * right > _MAX_BITS
    if is_too_large:
        raise UnusableRowError(f"a value that is too large: {shortened(node)}")
    return _BINARY[type(sign)](left, right)


def _made(node: ast.expr, name: str, arguments: list[Any]) -> Any:
    counts = [len(one) for one in arguments if isinstance(one, range)]
    counts += [one for one in arguments if isinstance(one, int) and name in ("bytes", "bytearray")]
    if name != "range" and max(counts, default=0) > _MAX_ITEMS:
        raise UnusableRowError(f"a value that is too large: {shortened(node)}")
    return _TYPES[name](*arguments)

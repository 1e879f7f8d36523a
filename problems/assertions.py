"""Taking `assert` statements apart, so that their answers never enter the process that runs a program.

`split_assertion` returns one of four shapes:

| shape | example | what the program's process evaluates |
|---|---|---|
| `Relation` | `f(2) == [4]`, `f(2) is True`, `Point(1, 2).x == 1` | the left source |
| `Truth` | `f(2)`, `not f(2)` | the source without `not` |
| `Closeness` | `abs(f(2) - 0.5) < 1e-6`, `math.isclose(f(2), 0.5, rel_tol=0.1)` | `f(2)` |
| `Check` | `set(f(2)) == {4}`, `f(5).startswith("x")`, `all(f(x) > 0 for x in (1, 2))` | calls of `f`, one by one |

The program's process evaluates calls of its own functions and questions to objects of its own classes. Everything else
(an operator, a method, `len`) is applied to the plain value that the codec brought out. Otherwise the program could
return an object whose own methods agree with any answer.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import dataclass

from rltf.problems.checks import Check, check_of
from rltf.problems.scope import Scope, called_names, is_literal, parse_module, write_out_literals
from rltf.problems.syntax import expression_tree
from rltf.problems.types import UnusableRowError

_OPERATORS = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
}
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True, slots=True)
class Relation:
    """`source operator expected`. `expected` uses none of the program's names; `imports` are the imports it needs."""

    source: str
    operator: str
    expected: str
    imports: str


@dataclass(frozen=True, slots=True)
class Truth:
    """`source` is true, or false if `wanted` is False."""

    source: str
    wanted: bool


@dataclass(frozen=True, slots=True)
class Closeness:
    """`abs(source - target)` is at most (below, if `strict`) the larger of `absolute` and the `relative` tolerance."""

    source: str
    target: float
    absolute: float
    relative: float
    strict: bool


Shape = Relation | Truth | Closeness | Check


def parse_assertion(source: str) -> ast.expr:
    """The condition of the one `assert` statement in `source`.

    Raises UnusableRowError if it is not exactly one assert statement, or calls nothing and so tests nothing.
    """
    try:
        body = parse_module(source.strip(), "test").body
    except UnusableRowError as error:
        raise UnusableRowError(f"{error}: {_shortened(source)}") from error
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        raise UnusableRowError(f"test is not a single assert statement: {_shortened(source)}")
    condition = body[0].test
    if not any(isinstance(node, ast.Call) for node in ast.walk(condition)):
        raise UnusableRowError(f"test calls nothing: {_shortened(source)}")
    return condition


def function_under_test(conditions: Iterable[ast.expr], defined: Container[str] = ()) -> str | None:
    """The function that assertions call. Names in `defined` come first, since some look like a builtin (`sum`)."""
    called = [name for condition in conditions for name in called_names(condition)]
    return next(
        (name for name in called if name in defined),
        next((name for name in called if not hasattr(builtins, name)), None),
    )


def classes_in(assertion: str, programs: Iterable[str]) -> tuple[str, ...] | None:
    """The names in an assertion that stand for classes of the program, as its reference `programs` define them.

    None if the default is right: there is no reference, or exactly the capitalized names are classes.
    """
    names = {node.id for node in ast.walk(parse_assertion(assertion)) if isinstance(node, ast.Name)}
    classes: set[str] = set()
    functions: set[str] = set()
    for program in programs:
        with suppress(UnusableRowError):  # its tests will show that it is not Python
            for node in parse_module(program, "reference").body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name in names:
                    (classes if isinstance(node, ast.ClassDef) else functions).add(node.name)
    as_written = all(name[:1].isupper() for name in classes) and not any(name[:1].isupper() for name in functions)
    return None if as_written else tuple(sorted(classes))


def split_assertion(assertion: str, setup: str = "", classes: Iterable[str] | None = None) -> Shape:
    """The shape of an assertion. `setup` runs in the program's namespace before it (see `AssertTest`).

    Raises UnusableRowError if it is no assertion, or one that only an object of the program could decide.
    """
    return split_with_setup(assertion, setup, classes)[0]


def split_with_setup(assertion: str, setup: str, classes: Iterable[str] | None) -> tuple[Shape, str]:
    """`split_assertion`, and the part of the setup that the program's process has to run."""
    condition = parse_assertion(assertion)
    Scope.of(condition, setup, classes)  # refuses a setup that cannot be used
    try:
        condition, setup = write_out_literals(condition, setup)
        scope = Scope.of(condition, setup, classes)
        shape = _relation(condition, scope) or _truth(condition, scope) or _closeness(condition, scope)
        beside_program = condition if shape is None else expression_tree(shape.source)
        setup = "\n".join(part for part in (setup, scope.missing_imports(beside_program, setup)) if part)
        return shape or check_of(condition, setup, scope), setup
    except (UnusableRowError, RecursionError) as error:
        raise UnusableRowError(f"{error}: {_shortened(assertion)}") from error


def _relation(condition: ast.expr, scope: Scope) -> Relation | None:
    if not isinstance(condition, ast.Compare) or len(condition.ops) != 1:
        return None
    operator = _OPERATORS.get(type(condition.ops[0]))
    left, right = condition.left, condition.comparators[0]
    if operator in _MIRRORED and is_literal(left) and not is_literal(right):
        left, right, operator = right, left, _MIRRORED[operator]
    if operator is None or scope.program_names(right) or not scope.is_direct(left):
        return None
    if scope.is_known_instance(left):
        return None
    if operator in ("is", "is not") and not (isinstance(right, ast.Constant) and right.value in (None, True, False)):
        return None
    return Relation(ast.unparse(left), operator, ast.unparse(right), scope.imports_for(right))


def _truth(condition: ast.expr, scope: Scope) -> Truth | None:
    wanted = True
    while isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not):
        condition, wanted = condition.operand, not wanted
    return Truth(ast.unparse(condition), wanted) if scope.is_direct(condition) else None


def _closeness(condition: ast.expr, scope: Scope) -> Closeness | None:
    relative: float | None
    match condition:
        case ast.Call(function, [left, right], keywords) if ast.unparse(function) in ("math.isclose", "isclose"):
            options = {keyword.arg: _number(keyword.value) for keyword in keywords}
            relative, absolute = options.pop("rel_tol", 1e-9), options.pop("abs_tol", 0.0)
            strict, is_known = False, not options
        case ast.Compare(
            ast.Call(function, [ast.BinOp(left, ast.Sub(), right)]), [ast.Lt() | ast.LtE() as operator], [tolerance]
        ):
            relative, absolute = 0.0, _number(tolerance)
            strict, is_known = isinstance(operator, ast.Lt), ast.unparse(function) in ("abs", "math.fabs")
        case _:
            return None
    pair = _source_and_target(left, right, scope)
    if pair is None or not is_known or relative is None or absolute is None:
        return None
    return Closeness(*pair, absolute=absolute, relative=relative, strict=strict)


def _source_and_target(left: ast.expr, right: ast.expr, scope: Scope) -> tuple[str, float] | None:
    for value, target in ((left, _number(right)), (right, _number(left))):
        if target is not None and scope.is_direct(value):
            return ast.unparse(value), target
    return None


def _number(expression: ast.expr) -> float | None:
    """The value of a number, or of one number divided by another (`2.0 / 3.0`)."""
    if isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.Div):
        dividend, divisor = _number(expression.left), _number(expression.right)
        try:
            return dividend / divisor if dividend is not None and divisor else None
        except OverflowError:
            return None
    if not is_literal(expression):
        return None
    value = ast.literal_eval(expression)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _shortened(source: str) -> str:
    text = " ".join(source.split())
    return text if len(text) <= 100 else text[:97] + "..."

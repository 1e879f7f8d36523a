"""Taking `assert` statements apart, so that the answer they hold need not enter the process that runs a program.

Four shapes come out of `split_assertion`:

| shape | example | what the program's process sees |
|---|---|---|
| `Relation` | `f(2) == [4]`, `set(f(2)) == set((4,))`, `f(2) is True` | the left source |
| `Truth` | `f(2)`, `not f(2)` | the source without `not` |
| `Closeness` | `abs(f(2) - 0.5) < 1e-6`, `math.isclose(f(2), 0.5, rel_tol=0.1)` | `f(2)` |
| `Check` | `f(1) + f(2) == 3`, `all(f(x) > 0 for x in (1, 2))` | calls of `f`, one by one |

A source that computes with an answer (`f(2) - 4 == 0`) is a `Check` and not a `Relation`, since an object with an
operator of its own would meet it unseen.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Container, Iterable
from dataclasses import dataclass

from problems.errors import UnusableRowError

# Names that tests use without importing them, since the reference program happens to.
_FAMILIAR_IMPORTS = {
    name: f"from {module} import {name}"
    for module, names in {
        "collections": ("Counter", "OrderedDict", "defaultdict", "deque"),
        "decimal": ("Decimal",),
        "fractions": ("Fraction",),
        "math": ("inf", "isclose", "nan", "pi", "sqrt"),
    }.items()
    for name in names
}
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
    """`source operator expected`. `imports` are what `expected`, an expression of no program's names, needs."""

    source: str
    operator: str
    expected: str
    imports: str


@dataclass(frozen=True, slots=True)
class Truth:
    """`source` is true, or false where `wanted` is False."""

    source: str
    wanted: bool


@dataclass(frozen=True, slots=True)
class Closeness:
    """`abs(source - target)` is at most (or below, where `strict`) the larger of `absolute` and `relative`'s share."""

    source: str
    target: float
    absolute: float
    relative: float
    strict: bool


@dataclass(frozen=True, slots=True)
class Check:
    """A module with `check(candidate)`, which calls `entry_point`, the only name of the program in it."""

    source: str
    entry_point: str


Shape = Relation | Truth | Closeness | Check


def parse_assertion(source: str) -> ast.expr:
    """The condition of the one `assert` statement that `source` holds.

    Raises:
        UnusableRowError: not exactly one assert statement, or one that calls nothing and so tests nothing.
    """
    try:
        body = ast.parse(source.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnusableRowError(f"test is not Python: {error}: {_shortened(source)}") from error
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        raise UnusableRowError(f"test is not a single assert statement: {_shortened(source)}")
    condition = body[0].test
    if not any(isinstance(node, ast.Call) for node in ast.walk(condition)):
        raise UnusableRowError(f"test calls nothing: {_shortened(source)}")
    return condition


def function_under_test(conditions: Iterable[ast.expr], defined: Container[str] = ()) -> str | None:
    """The function that assertions call; rather one of `defined`, since some are named like a builtin (`sum`)."""
    called = [name for condition in conditions for name in _called_names(condition)]
    return next(
        (name for name in called if name in defined),
        next((name for name in called if not hasattr(builtins, name)), None),
    )


def _called_names(condition: ast.expr) -> list[str]:
    """The plain names that are called, outermost first (`int(f(1)) == 2`: `int`, `f`)."""
    return [
        node.func.id for node in ast.walk(condition) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]


def split_assertion(assertion: str, setup: str = "") -> Shape:
    """The shape of an assertion, where `setup` is run in the program's namespace before it.

    Raises:
        UnusableRowError: no assertion, or one that needs several names of the program at once, so that its answer could
            not be kept out of the program's process.
    """
    condition = parse_assertion(assertion)
    scope = _Scope(_imports_of(setup))
    shape = _relation(condition, scope) or _truth(condition, scope) or _closeness(condition, scope)
    return shape or _check(assertion, condition, setup, scope)


class _Scope:
    """Tells the program's names from those that mean the same everywhere."""

    def __init__(self, imports: dict[str, str]) -> None:
        self._imports = _FAMILIAR_IMPORTS | imports

    def program_names(self, expression: ast.AST) -> set[str]:
        nodes = [node for node in ast.walk(expression) if isinstance(node, ast.Name)]
        bound = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
        bound |= {node.arg for node in ast.walk(expression) if isinstance(node, ast.arg)}
        return {node.id for node in nodes if node.id not in bound and not self._is_common(node.id)}

    def _is_common(self, name: str) -> bool:
        return hasattr(builtins, name) or name in self._imports or name in sys.stdlib_module_names

    def imports_for(self, expression: ast.AST) -> str:
        names = sorted({node.id for node in ast.walk(expression) if isinstance(node, ast.Name)})
        lines = [
            self._imports.get(name) or (f"import {name}" if name in sys.stdlib_module_names else "") for name in names
        ]
        return "\n".join(line for line in lines if line)

    def is_direct(self, expression: ast.expr) -> bool:
        """Whether the value comes from the program by calls, items and attributes alone, with no arithmetic around."""
        if isinstance(expression, ast.Attribute | ast.Subscript):
            return self.is_direct(expression.value)
        if isinstance(expression, ast.Name):
            return True
        if not isinstance(expression, ast.Call):
            return False
        if isinstance(expression.func, ast.Name) and self.program_names(expression.func):
            return True
        arguments = [*expression.args, *(keyword.value for keyword in expression.keywords)]
        return self.is_direct(expression.func) and all(
            self.is_direct(argument) for argument in arguments if self.program_names(argument)
        )


def _imports_of(setup: str) -> dict[str, str]:
    """The names that a setup's import statements bind, each with its statement."""
    try:
        body = ast.parse(setup).body
    except SyntaxError as error:
        raise UnusableRowError(f"set-up code is not Python: {error}") from error
    return {
        (alias.asname or alias.name).split(".")[0]: ast.unparse(node)
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


def _relation(condition: ast.expr, scope: _Scope) -> Relation | None:
    if not isinstance(condition, ast.Compare) or len(condition.ops) != 1:
        return None
    operator = _OPERATORS.get(type(condition.ops[0]))
    left, right = condition.left, condition.comparators[0]
    if operator in _MIRRORED and is_literal(left) and not is_literal(right):
        left, right, operator = right, left, _MIRRORED[operator]
    if operator is None or scope.program_names(right) or not scope.is_direct(left):
        return None
    if operator in ("is", "is not") and not (isinstance(right, ast.Constant) and right.value in (None, True, False)):
        return None
    return Relation(ast.unparse(left), operator, ast.unparse(right), scope.imports_for(right))


def _truth(condition: ast.expr, scope: _Scope) -> Truth | None:
    wanted = True
    while isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not):
        condition, wanted = condition.operand, not wanted
    # `all(...)` or `isclose(...)` around the program's values holds the answer, so only a direct value is taken.
    if isinstance(condition, ast.Call) and isinstance(condition.func, ast.Name | ast.Attribute):
        own = scope.program_names(condition.func) or not scope.program_names(condition)
        if own and scope.is_direct(condition):
            return Truth(ast.unparse(condition), wanted)
    return None


def _closeness(condition: ast.expr, scope: _Scope) -> Closeness | None:
    if isinstance(condition, ast.Call) and ast.unparse(condition.func) in ("math.isclose", "isclose"):
        return _isclose(condition, scope)
    if not isinstance(condition, ast.Compare) or len(condition.ops) != 1 or not isinstance(condition.left, ast.Call):
        return None
    call, operator = condition.left, condition.ops[0]
    if ast.unparse(call.func) not in ("abs", "math.fabs") or not isinstance(operator, ast.Lt | ast.LtE):
        return None
    difference = call.args[0] if len(call.args) == 1 else None
    tolerance = _number(condition.comparators[0])
    if not isinstance(difference, ast.BinOp) or not isinstance(difference.op, ast.Sub) or tolerance is None:
        return None
    pair = _source_and_target(difference.left, difference.right, scope)
    return pair and Closeness(*pair, absolute=tolerance, relative=0.0, strict=isinstance(operator, ast.Lt))


def _isclose(call: ast.Call, scope: _Scope) -> Closeness | None:
    options = {keyword.arg: _number(keyword.value) for keyword in call.keywords}
    pair = _source_and_target(call.args[0], call.args[1], scope) if len(call.args) == 2 else None
    relative, absolute = options.pop("rel_tol", 1e-9), options.pop("abs_tol", 0.0)
    if pair is None or options or relative is None or absolute is None:
        return None
    return Closeness(*pair, absolute=absolute, relative=relative, strict=False)


def _source_and_target(left: ast.expr, right: ast.expr, scope: _Scope) -> tuple[str, float] | None:
    for value, target in ((left, _number(right)), (right, _number(left))):
        if target is not None and scope.is_direct(value):
            return ast.unparse(value), target
    return None


def _number(expression: ast.expr) -> float | None:
    """The value of a number, or of one number divided by another (`2.0 / 3.0`)."""
    if isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.Div):
        dividend, divisor = _number(expression.left), _number(expression.right)
        return dividend / divisor if dividend is not None and divisor else None
    if not is_literal(expression):
        return None
    value = ast.literal_eval(expression)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _check(assertion: str, condition: ast.expr, setup: str, scope: _Scope) -> Check:
    names = scope.program_names(condition)
    others = [node for node in ast.parse(setup).body if not isinstance(node, ast.Import | ast.ImportFrom)]
    if len(names) != 1 or others:
        used = ", ".join(sorted(names)) or "none"
        raise UnusableRowError(
            f"test needs more of the program than calls of one function (names: {used}), so its answer cannot be kept "
            f"from the program: {_shortened(assertion)}"
        )
    statement = ast.unparse(ast.Assert(condition))
    return Check(f"{scope.imports_for(condition)}\ndef check(candidate):\n    {statement}\n", names.pop())


def is_literal(expression: ast.expr) -> bool:
    """Whether the expression is a literal, nested ones and `set()` included."""
    try:
        ast.literal_eval(expression)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _shortened(source: str) -> str:
    text = " ".join(source.split())
    return text if len(text) <= 100 else text[:97] + "..."

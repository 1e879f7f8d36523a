"""The test modules in the Hub's rows of HumanEval+ and MBPP+, read as data: inputs, answers, and how they compare.

A module has a list `inputs`, a list `results` or a function `ref_func`, and a loop whose one statement calls the
program and compares. HumanEval+ has them in a function `check(candidate)`, MBPP+ at the top level.
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from typing import Any

from rltf.problems.checks import check_function
from rltf.problems.constants import constant, shortened
from rltf.problems.evalplus_rules import Rule
from rltf.problems.scope import parse_module
from rltf.problems.types import UnusableRowError

_INPUTS = re.compile(r"^[ \t]*inputs[ \t]*=", re.MULTILINE)
_ANSWERS = re.compile(r"^[ \t]*results[ \t]*=|\b(?:assertion|ref_func)\(", re.MULTILINE)
_COMPARES = {"is_floats(exp)"}
_CLOSE = _COMPARES | {"np.allclose(out, exp, rtol=1e-07, atol=atol)"}
# The calls in the known forms of `assertion(out, exp, atol)`.
_ASSERTIONS = {
    frozenset(): Rule.EXACT,
    frozenset(_CLOSE): Rule.CLOSE,
    frozenset(_COMPARES | {"np.testing.assert_allclose(out, exp, atol=atol)"}): Rule.CLOSE,
    frozenset(_CLOSE | {"set(out)", "set(exp)"}): Rule.SET,
    frozenset({"isinstance(out, bool)"}): Rule.NOT_NONE,
}
# The first one is in the Hub's row, and raises a TypeError for every answer; the second one is what it means.
_ROOT_CHECKS = ("_poly(*{}(*inp), inp)", "abs(_poly(*inp, {}(*inp)))")


@dataclass(frozen=True, slots=True)
class TestModule:
    """`inputs` are the arguments of each test. `results` is None if the reference program gives the answers.

    `tolerance` is EvalPlus's `atol`. `function` is the name under which the module calls the program.
    """

    inputs: list[tuple[Any, ...]]
    results: list[Any] | None
    rule: Rule
    tolerance: float
    function: str = ""


def is_test_module(test: Any) -> bool:
    """Whether a row's `test` is a module of EvalPlus."""
    return isinstance(test, str) and bool(_INPUTS.search(test) and _ANSWERS.search(test))


def read_test_module(source: str) -> TestModule:
    """The tests in a module. Raises UnusableRowError if it has another form, or values that are not constants."""
    module = parse_module(source, "test")
    check = check_function(module)
    body = module.body if check is None else check.body
    lists = {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    loop = body[-1] if body else None
    if not isinstance(loop, ast.For) or len(loop.body) != 1:
        raise UnusableRowError("test: expected a loop over inputs at the end")
    function, by_reference, tolerance, rule = _comparison(module, loop.body[0])
    inputs = _list_of(lists, "inputs")
    if not all(isinstance(one, list | tuple) for one in inputs):
        raise UnusableRowError("test: inputs: expected a list of arguments per test")
    results = None if by_reference else _list_of(lists, "results")
    if results is not None and len(results) != len(inputs):
        raise UnusableRowError(f"test: {len(inputs)} inputs but {len(results)} results")
    return TestModule([tuple(one) for one in inputs], results, rule, tolerance, function)


def _list_of(lists: dict[str, ast.expr], name: str) -> list[Any]:
    if name not in lists:
        raise UnusableRowError(f"test: no list `{name}`")
    try:
        values = constant(lists[name])
    except UnusableRowError as error:
        raise UnusableRowError(f"test: {name}: {error}") from error
    if not isinstance(values, list) or not values:
        raise UnusableRowError(f"test: {name}: expected a list with items")
    return values


def _comparison(module: ast.Module, statement: ast.stmt) -> tuple[str, bool, float, Rule]:
    """What the loop's statement calls, whether the reference gives the answer, the tolerance and the rule."""
    match statement:
        case ast.Expr(ast.Call(ast.Name("assertion"), [ast.Call(ast.Name(function)) as call, expected, tolerance])):
            by_reference = ast.unparse(expected) == "ref_func(*inp)"
            if ast.unparse(call) == f"{function}(*inp)" and (by_reference or ast.unparse(expected) == "exp"):
                return function, by_reference, tolerance_of(constant(tolerance), "test: the tolerance"), _rule(module)
        case ast.Assert(ast.Compare(value, [ast.LtE()], [tolerance])):
            for node in ast.walk(value):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    function = node.func.id
                    if ast.unparse(value) in [form.format(function) for form in _ROOT_CHECKS]:
                        return function, False, tolerance_of(constant(tolerance), "test: the tolerance"), Rule.ROOT
    raise UnusableRowError(f"test: a comparison of an unknown form: {shortened(statement)}")


def tolerance_of(value: Any, place: str) -> float:
    """The difference that two floats may have. Raises UnusableRowError, which begins with `place`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= sys.float_info.max:  # JSON may have infinity, and integers of any length
        raise UnusableRowError(f"{place}: expected a number, 0 or more")
    return float(value)


def _rule(module: ast.Module) -> Rule:
    """The rule in the module's function `assertion`, by what it calls and compares."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name == "assertion":
            calls = {ast.unparse(part) for part in ast.walk(node) if isinstance(part, ast.Call)}
            rule = _ASSERTIONS.get(frozenset(calls))
            operators = {type(sign) for part in ast.walk(node) if isinstance(part, ast.Compare) for sign in part.ops}
            allowed = {ast.Eq, ast.NotEq} | ({ast.IsNot} if rule is Rule.NOT_NONE else set())
            if rule is not None and operators <= allowed:
                return rule
            raise UnusableRowError("test: assertion(out, exp, atol) has an unknown form")
    raise UnusableRowError("test: no function assertion(out, exp, atol)")

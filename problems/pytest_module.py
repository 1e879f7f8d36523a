"""Test modules in the style of pytest (`from solution import f`, `def test_x(): assert f(1) == 2`) as tests.

A test function that only asserts becomes one `AssertTest` per assert. Any other becomes a `CheckTest`. Objects of the
program's classes cannot leave its process, so a test function that makes some becomes `AssertTest`s too: the statements
before an assert become its setup, in which earlier asserts only repeat their calls, without the expected values.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from problems.assertions import Closeness, Relation, Truth, classes_in, split_assertion
from problems.checks import refuse_broken_module, refuse_use_of_check
from problems.python_source import IMPORTS, SCOPES
from problems.scope import Scope, bound_names, parse_module, replaced, used_names
from problems.syntax import expression_tree, syntax_tree
from problems.types import AssertTest, CheckTest, Test, UnusableRowError

_MODULE = "solution"
_PYTEST = "pytest"
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class PytestModule:
    """`names` are those of the program that the tests use, in the order in which they are imported."""

    names: tuple[str, ...]
    tests: tuple[Test, ...]


def read_pytest_module(source: str, solution: str) -> PytestModule:
    """The tests in a module for programs that define what `solution` defines.

    Raises:
        UnusableRowError: there are none, one cannot be used, or they need pytest.
    """
    module, defined = parse_module(source, "test"), _definitions(solution)
    functions, surroundings = _parts(module)
    names = _program_names(module, defined)
    reader = _Reader(
        names, {name for name in names if isinstance(defined.get(name), ast.ClassDef)}, surroundings, solution
    )
    tests = tuple(test for function in functions for test in reader.tests_of(function))
    if not tests:
        raise UnusableRowError("test: no test function tests the program")
    return PytestModule(names, tests)


def _definitions(solution: str) -> dict[str, ast.stmt]:
    return {node.name: node for node in parse_module(solution, "solution").body if isinstance(node, SCOPES)}


def _parts(module: ast.Module) -> tuple[list[ast.FunctionDef], list[ast.stmt]]:
    """The test functions, and what they may use: imports, constants and helpers."""
    functions: list[ast.FunctionDef] = []
    surroundings: list[ast.stmt] = []
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and node.module == _MODULE:
            continue
        if isinstance(node, ast.Import) and all(alias.name == _PYTEST for alias in node.names):
            continue
        if isinstance(node, ast.If) and "__name__" in used_names(node.test):
            continue
        if isinstance(node, ast.Expr) and any(name.startswith("test") for name in used_names(node)):
            continue  # it calls the test functions
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            raise UnusableRowError(f"test: class {node.name}: only test functions can be used")
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            functions.append(node)
        else:
            surroundings.append(node)
    for part in (*functions, *surroundings):
        _refuse_pytest(part)
    return functions, surroundings


def _refuse_pytest(node: ast.stmt) -> None:
    imported = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
    imported |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
    has_fixtures = isinstance(node, ast.FunctionDef) and node.name.startswith("test") and ast.unparse(node.args)
    if _PYTEST in used_names(node) | imported or has_fixtures:
        raise UnusableRowError(f"test: needs pytest: {ast.unparse(node).splitlines()[0]}")


def _program_names(module: ast.Module, defined: Iterable[str]) -> tuple[str, ...]:
    """The names of the program in a test module. Some modules leave out their import."""
    imported: list[str] = []
    for node in ast.walk(module):
        if isinstance(node, ast.Import) and any(alias.name == _MODULE for alias in node.names):
            raise UnusableRowError("test: expected `from solution import ...`, got `import solution`")
        if isinstance(node, ast.ImportFrom) and node.module == _MODULE:
            if any(alias.asname for alias in node.names):
                raise UnusableRowError("test: renames what it imports from the program")
            imported += [alias.name for alias in node.names if alias.name != "*"]
    free = used_names(module) - bound_names(module) - vars(builtins).keys()
    return tuple(dict.fromkeys([*imported, *(name for name in defined if name in free)]))


class _Reader:
    """Makes tests of test functions. `classes` are those of `names` that stand for a class of the program."""

    def __init__(self, names: Sequence[str], classes: set[str], surroundings: list[ast.stmt], solution: str) -> None:
        self._names = names
        self._imports = [node for node in surroundings if isinstance(node, IMPORTS)]
        self._helpers = [node for node in surroundings if not isinstance(node, IMPORTS)]
        self._solution = solution
        # What makes objects of the program: its classes, and helpers that use one.
        self._makers = set(classes)
        for _ in self._helpers:
            self._makers |= {
                name for one in self._helpers if used_names(one) & self._makers for name in bound_names(one)
            }

    def tests_of(self, function: ast.FunctionDef) -> list[Test]:
        body = [node for node in function.body if not _does_nothing(node)]
        uses = used_names(ast.Module(body, []))
        if not uses & {*self._names, *(name for one in self._helpers for name in bound_names(one))}:
            return []
        if uses & self._makers:
            return self._with_objects(function.name, body)
        own = set().union(*(bound_names(node) for node in self._helpers))
        if all(isinstance(node, ast.Assert) for node in body) and not uses & own:
            try:
                return [
                    test for node in body if isinstance(node, ast.Assert) for test in self._assert_test(node.test, [])
                ]
            except UnusableRowError:
                pass  # a check can do more with a value
        return [self._check_test(body)]

    def _assert_test(self, condition: ast.expr, before: list[ast.stmt]) -> Iterator[AssertTest]:
        """The test of a condition after the statements `before`; none if it does not concern the program."""
        module = ast.Module([*before, ast.Expr(condition)], [])
        if not used_names(module) & {*self._names, *self._makers}:
            return
        imports = [node for node in self._imports if bound_names(node) & used_names(module)]
        setup = "\n".join(map(ast.unparse, [*imports, *before]))
        assertion = f"assert {ast.unparse(condition)}"
        self._refuse_unknown(module, setup)
        classes = classes_in(assertion, (self._solution,))
        split_assertion(assertion, setup, classes)
        yield AssertTest(assertion, setup, classes)

    def _refuse_unknown(self, module: ast.Module, setup: str) -> None:
        free = used_names(module) - bound_names(module) - {*self._names}
        scope = Scope.of(ast.Constant(None), setup, None)
        unknown = sorted(name for name in free if scope.program_names(ast.Name(name, ast.Load())))
        if unknown:
            raise UnusableRowError(f"test uses a name that nothing defines: {', '.join(unknown)}")

    def _check_test(self, body: list[ast.stmt]) -> CheckTest:
        check = syntax_tree("def check(candidate): ...").body[0]
        assert isinstance(check, ast.FunctionDef)
        check.body = body
        module = ast.fix_missing_locations(ast.Module([*self._imports, *self._helpers_for(body), check], []))
        refuse_use_of_check(module)
        served = ",".join(name for name in self._names if name in used_names(module))
        refuse_broken_module(module, served)
        return CheckTest(ast.unparse(module), served)

    def _helpers_for(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """The helpers and constants that statements use, directly or through another."""
        kept: list[ast.stmt] = []
        while True:
            used = used_names(ast.Module([*body, *kept], []))
            more = [node for node in self._helpers if node in kept or bound_names(node) & used]
            if len(more) == len(kept):
                return more
            kept = more

    def _with_objects(self, name: str, body: list[ast.stmt]) -> list[Test]:
        tests: list[Test] = []
        before = self._helpers_for(body)
        for node in body:
            if not isinstance(node, ast.Assert):
                if any(isinstance(part, ast.Assert) for part in ast.walk(node)):
                    raise UnusableRowError(f"test: {name}: asserts inside a block about objects of the program")
                before.append(node)
                continue
            condition = node.test
            match before[-1] if before else None:
                case ast.Assign([ast.Name(variable)], value) if variable in used_names(condition):
                    if not _has_call(condition) and not any(
                        variable in used_names(one) for one in body if one is not node
                    ):
                        before.pop()
                        condition = replaced(condition, {variable: value})
            tests += self._assert_test(condition, before)
            if node is not body[-1]:
                before.append(ast.Expr(self._repeated(name, condition, before)))
        return tests

    def _repeated(self, name: str, condition: ast.expr, before: list[ast.stmt]) -> ast.expr:
        """What an earlier assert does to the program's objects, without what it expects."""
        for test in self._assert_test(condition, before):
            shape = split_assertion(test.assertion, test.setup, test.classes)
            if not isinstance(shape, Relation | Truth | Closeness):
                raise UnusableRowError(f"test: {name}: an assert about objects cannot be taken apart: {test.assertion}")
            return expression_tree(shape.source).body
        return ast.Constant(None)


def _does_nothing(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _has_call(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Call) for part in ast.walk(node))

"""Test modules in the style of pytest (`from solution import f`, `def test_x(): assert f(1) == 2`) as tests.

A test function that only asserts becomes one `AssertTest` per assert. Any other becomes a `CheckTest`, in which
`pytest.raises` and `pytest.approx` work. Fixtures and parametrized functions need pytest itself and are refused.

Objects of the program's classes cannot leave its process, so a test function that makes some becomes `AssertTest`s too:
the statements before an assert become its setup, in which earlier asserts only repeat their calls, without the expected
values.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rltf.problems.assertions import Closeness, Relation, Truth, classes_in, split_assertion
from rltf.problems.checks import refuse_broken_module, refuse_use_of_check
from rltf.problems.pytest_stand_in import NAMES, STAND_IN
from rltf.problems.python_source import IMPORTS, SCOPES
from rltf.problems.scope import Scope, bound_names, parse_module, replaced, used_names
from rltf.problems.syntax import expression_tree, syntax_tree
from rltf.problems.types import AssertTest, CheckTest, Test, UnusableRowError

_MODULE = "solution"
_PYTEST = "pytest"


@dataclass(frozen=True, slots=True)
class PytestModule:
    """`names` are those of the program that the tests use, in the order in which they are imported."""

    names: tuple[str, ...]
    tests: tuple[Test, ...]


def read_pytest_module(source: str, solution: str) -> PytestModule:
    """The tests in a module for programs that define what `solution` defines.

    Raises UnusableRowError if there are none, one cannot be used, or they need pytest.
    """
    module, defined = parse_module(source, "test"), _definitions(solution)
    functions, surroundings = _parts(module)
    names = _program_names(module, defined)
    reader = _Reader(names, _makers([*defined.values(), *surroundings]), surroundings, solution)
    tests = tuple(test for function in functions for test in reader.tests_of(function))
    if not tests:
        raise UnusableRowError("test: no test function tests the program")
    return PytestModule(names, tests)


def _definitions(solution: str) -> dict[str, ast.stmt]:
    return {node.name: node for node in parse_module(solution, "solution").body if isinstance(node, SCOPES)}


def _defined(node: ast.stmt) -> set[str]:
    """The names that a statement gives to its module."""
    return {node.name} if isinstance(node, SCOPES) else bound_names(node)


def _makers(statements: Sequence[ast.stmt]) -> set[str]:
    """Classes, except exceptions, and the functions and constants that use one, directly or through another."""
    makers = {
        node.name
        for node in statements
        if isinstance(node, ast.ClassDef)
        and not any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)
    }
    users = [(used_names(node), _defined(node)) for node in statements if not isinstance(node, ast.ClassDef)]
    while more := {name for used, bound in users if used & makers for name in bound} - makers:
        makers |= more
    return makers


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
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            if isinstance(node, ast.AsyncFunctionDef) or node.decorator_list or ast.unparse(node.args):
                raise _needs_pytest(node)
            functions.append(node)
        else:
            surroundings.append(node)
    for part in (*functions, *surroundings):
        _refuse_pytest(part)
    return functions, surroundings


def _refuse_pytest(node: ast.stmt) -> None:
    """Refuse all of pytest, except what has a stand-in."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
        if _PYTEST in names:
            raise _needs_pytest(node)
    known = [
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.attr in NAMES
    ]
    if any(isinstance(part, ast.Name) and part.id == _PYTEST and part not in known for part in ast.walk(node)):
        raise _needs_pytest(node)


def _needs_pytest(node: ast.stmt) -> UnusableRowError:
    return UnusableRowError(f"test: needs pytest: {ast.unparse(node).splitlines()[0]}")


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
    """Makes tests of test functions. `makers` are the names that make objects of the program."""

    def __init__(self, names: Sequence[str], makers: set[str], surroundings: list[ast.stmt], solution: str) -> None:
        self._names = names
        self._imports = [node for node in surroundings if isinstance(node, IMPORTS)]
        self._helpers = [node for node in surroundings if not isinstance(node, IMPORTS)]
        self._solution = solution
        self._makers = makers

    def tests_of(self, function: ast.FunctionDef) -> list[Test]:
        body = [node for node in function.body if not _does_nothing(node)]
        uses = used_names(ast.Module(body, []))
        if not uses & {*self._names, *(name for one in self._helpers for name in _defined(one))}:
            return []
        if uses & self._makers:
            if _PYTEST in uses:
                raise _needs_pytest(function)
            return self._with_objects(function.name, body)
        own = {_PYTEST}.union(*(_defined(node) for node in self._helpers))
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
        helpers = self._helpers_for(body)
        if _PYTEST in used_names(ast.Module([*helpers, *body], [])):
            helpers = [*syntax_tree(STAND_IN).body, *helpers]
        module = ast.fix_missing_locations(ast.Module([*self._imports, *helpers, check], []))
        refuse_use_of_check(module)
        served = ",".join(name for name in self._names if name in used_names(module))
        refuse_broken_module(module, served)
        return CheckTest(ast.unparse(module), served)

    def _helpers_for(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """The helpers and constants that statements use, directly or through another."""
        kept: list[ast.stmt] = []
        while True:
            used = used_names(ast.Module([*body, *kept], []))
            more = [node for node in self._helpers if node in kept or _defined(node) & used]
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
            if before and node is not body[-1]:
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

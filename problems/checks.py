"""Assertions and test functions that run in a second process, which never executes a line of the program.

`Check.entry_point` says what they call in the program. Its first line lists the names, separated by commas. The lines
after it are source code, run in the program's namespace, that defines the names the program itself does not define.
"""

from __future__ import annotations

import ast
import builtins
import datetime
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

from rltf.problems.scope import Scope, bound_names, parse_module, used_names
from rltf.problems.syntax import syntax_tree
from rltf.problems.types import UnusableRowError

IN_PLACE = "in_place"
"""A method of the program's functions: call, and give mutable arguments the content that the call left in them."""
_CANDIDATE = "candidate"
_PLAIN_TYPES: tuple[type, ...] = (
    *(object, type, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, range),
    *(Decimal, Fraction, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone, PurePosixPath),
    *(Counter, OrderedDict, defaultdict, deque, type({}.keys()), type(_ for _ in ())),
)
_PLAIN_ATTRIBUTES = frozenset(name for kind in _PLAIN_TYPES for name in dir(kind))
_MODULE_NAMES = frozenset({"__name__", "__builtins__", "__file__", "__doc__"})


@dataclass(frozen=True, slots=True)
class Check:
    """A module with `check(candidate)`, and the program's names in it (see the top of this module)."""

    source: str
    entry_point: str


def check_of(condition: ast.expr, setup: str, scope: Scope) -> Check:
    """The check for a condition. Raises UnusableRowError if only an object of the program could decide it."""
    taking = _TakePrograms(scope)
    remaining: ast.expr = taking.visit(condition)
    names = scope.bound | taking.served.keys()
    for node in ast.walk(remaining):
        if isinstance(node, ast.Attribute) and used_names(node.value) & names:
            _refuse_foreign(node)
    if not taking.served:
        raise UnusableRowError("test calls nothing in the program")
    _refuse_shared(taking.served.values(), scope.variables)
    statement = ast.Assert(remaining)
    mark_in_place(statement, taking.served)
    source = ast.unparse(ast.fix_missing_locations(statement))
    imports = scope.imports_for(condition)
    definitions = [f"{name} = {text}" for name, text in taking.served.items() if text]
    setup_of_names = "\n".join(part for part in (setup.strip(), *definitions) if part)
    entry_point = ",".join(taking.served) + (f"\n{setup_of_names}\n" if setup_of_names else "")
    return Check(f"{imports}\ndef check({_CANDIDATE}):\n    {source}\n", entry_point)


class _TakePrograms(ast.NodeTransformer):
    """Replaces what only the program's process can evaluate with calls of served names."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self.served: dict[str, str] = {}

    def visit(self, node: ast.AST) -> Any:
        scope = self._scope
        if not isinstance(node, ast.expr) or not scope.program_names(node):
            return node if isinstance(node, ast.expr) else super().visit(node)
        if scope.is_direct(node):
            if scope.is_instance(node):
                raise UnusableRowError(f"test compares `{ast.unparse(node)}`, an object of the program")
            parameters = sorted((used_names(node) & scope.bound) - bound_names(node))
            name = self._serve(", ".join(parameters), ast.unparse(node))
            return ast.Call(name, [ast.Name(one, ast.Load()) for one in parameters], [])
        if isinstance(node, ast.Name):
            if node.id == "check":  # the test function's own name
                return self._serve("*some, **named", "check(*some, **named)")
            self.served.setdefault(node.id, "")
            return node
        return super().visit(node)

    def _serve(self, parameters: str, value: str) -> ast.Name:
        name = f"_value{len(self.served)}"
        self.served[name] = f"lambda {parameters}: {value}"
        return ast.Name(name, ast.Load())


def _refuse_shared(served: Iterable[str], variables: Iterable[str]) -> None:
    """Refuse a setup value that the program receives and the test reads as well: the program may have changed it."""
    uses = [used_names(syntax_tree(text)) for text in served if text]
    for name in sorted(variables):
        if sum(name in names for names in uses) > 1:
            raise UnusableRowError(f"test reads `{name}` from the setup, which the program can change")


def mark_in_place(tree: ast.AST, functions: Iterable[str]) -> None:
    """Mark the calls whose changes to their arguments the test should see.

    These are calls made for their effect and not for their value: a call that is a statement, or one that is compared
    with None. In any other call the test keeps its own values, so a program cannot change what it is compared with.
    """
    functions = frozenset(functions)
    for node in ast.walk(tree):
        match node:
            case ast.Expr(ast.Call(ast.Name(name)) as call) if name in functions:
                call.func = ast.Attribute(call.func, IN_PLACE, ast.Load())
            case ast.Compare(ast.Call(ast.Name(name)) as call, [ast.Is() | ast.Eq()], [ast.Constant(None)]) if (
                name in functions
            ):
                call.func = ast.Attribute(call.func, IN_PLACE, ast.Load())


def marked_source(source: str, entry_point: str) -> str:
    """A test module with its calls of the program marked (see `mark_in_place`); unchanged if it is not Python."""
    try:
        module = parse_module(source, "test")
    except UnusableRowError:
        return source
    before = ast.dump(module)
    mark_in_place(module, _program_functions(module, entry_point))
    return source if ast.dump(module) == before else ast.unparse(ast.fix_missing_locations(module))


def check_function(module: ast.Module) -> ast.FunctionDef | None:
    """The function `check(candidate)` of a test module."""
    found = next((node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "check"), None)
    return found if found is not None and len(found.args.args) == 1 else None


def _program_functions(module: ast.Module, entry_point: str) -> set[str]:
    """The names under which a test module calls the program."""
    check = check_function(module)
    return set(entry_point.split(",")) | ({check.args.args[0].arg} if check is not None else set())


def _refuse_other_process(module: ast.Module, entry_point: str) -> None:
    """Refuse a test that looks at what only the program's process has: its output, its calls, its objects."""
    functions = _program_functions(module, entry_point)
    attributes: set[str] = set()
    given: Counter[str] = Counter()  # how often each name gets a value, and how often from the program
    by_program: Counter[str] = Counter()
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute):
            attributes.add(node.attr)
        elif isinstance(node, ast.Name | ast.arg | ast.ExceptHandler):
            given.update(bound_names(node))
        elif isinstance(node, ast.Assign) and _calls_one_of(node.value, functions):
            by_program.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            if "unittest.mock" in names or (names[0] == "unittest" and "mock" in names):
                raise UnusableRowError("test uses unittest.mock, which would replace nothing in the program's process")
    words = attributes | used_names(module)
    if "getvalue" in words and words & {"stdout", "redirect_stdout"}:
        raise UnusableRowError("test looks at what the program prints, which it cannot see from its own process")
    values = {name for name, count in by_program.items() if count == given[name]}
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and (
            _calls_one_of(node.value, functions) or (isinstance(node.value, ast.Name) and node.value.id in values)
        ):
            _refuse_foreign(node)


def _refuse_foreign(node: ast.Attribute) -> None:
    """Refuse an attribute that no plain value has: a test only ever gets plain values."""
    if node.attr not in _PLAIN_ATTRIBUTES:
        raise UnusableRowError(f"test asks the program's value for `.{node.attr}`, which no plain value has")


def _calls_one_of(node: ast.AST, functions: set[str]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions


def refuse_use_of_check(module: ast.AST) -> None:
    """Raises UnusableRowError for a test that uses a name `check`: it would get the test function itself."""
    if "check" in used_names(module):
        raise UnusableRowError("test uses a function named check, which is the name of the test function itself")


def refuse_broken_module(module: ast.Module, entry_point: str) -> None:
    """Raises UnusableRowError for a module that no program could pass: it does not compile, or a name is undefined."""
    _refuse_other_process(module, entry_point)
    try:
        compile(ast.unparse(module), "<test>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnusableRowError(f"test does not compile: {error}") from error
    if any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in ast.walk(module)):
        return
    known = bound_names(module) | vars(builtins).keys() | _MODULE_NAMES | set(entry_point.split(","))
    unknown = sorted(used_names(module) - known)
    if unknown:
        raise UnusableRowError(f"test uses a name that nothing defines: {', '.join(unknown)}")

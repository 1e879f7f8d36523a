"""Test modules with a `unittest.TestCase` as one `CheckTest` per test method.

Each runs in a process of its own beside the program, with `setUp` and `tearDown` around it. The test therefore sees
only what the program's function returns or raises. Modules that reach further are refused: they patch, they seed the
program's random numbers, or they share files with it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from rltf.problems.checks import refuse_broken_module, refuse_use_of_check
from rltf.problems.scope import parse_module, used_names
from rltf.problems.types import CheckTest, UnusableRowError

_MAIN = "unittest.main"
_OUTSIDE = frozenset(
    {"os", "shutil", "tempfile", "pathlib", "glob", "subprocess", "multiprocessing", "socket", "socketserver", "ssl"}
    | {"ftplib", "smtplib", "poplib", "imaplib", "http", "select", "signal", "sqlite3", "zipfile", "tarfile"}
    | {"urllib.request", "xmlrpc", "webbrowser", "logging", "platform", "getpass"}
)
"""Modules for what a program shares with its surroundings: files, processes, the network, the machine."""


def imported_modules(*modules: ast.Module) -> list[str]:
    """The full names of the modules that these import, in order."""
    found: dict[str, None] = {}
    for node in (node for module in modules for node in ast.walk(module)):
        if isinstance(node, ast.Import):
            found.update(dict.fromkeys(alias.name for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(dict.fromkeys(f"{node.module}.{alias.name}" for alias in node.names))
            found[node.module] = None
    return list(found)


def read_unittest_module(source: str, prompt: str, entry_point: str) -> tuple[CheckTest, ...]:
    """The tests in a module for the function `entry_point`. It may use the imports and names of the `prompt`.

    Raises UnusableRowError if there are none, or they need more than the function's values and exceptions.
    """
    module, prompt_module = parse_module(source, "test"), parse_module(prompt, "prompt")
    _refuse_surroundings(module, prompt_module, entry_point)
    others = [
        node
        for node in (*prompt_module.body, *module.body)
        if not (isinstance(node, ast.FunctionDef) and node.name == entry_point) and not _starts_tests(node)
    ]
    refuse_use_of_check(ast.Module(others, []))
    tests = [_check_test(others, one, method, entry_point) for one in _cases(module) for method in _methods(one)]
    if not tests:
        raise UnusableRowError("test: no test method in a unittest.TestCase")
    refuse_broken_module(parse_module(tests[0].source, "test"), entry_point)
    return tuple(tests)


def _cases(module: ast.Module) -> Iterator[ast.ClassDef]:
    for node in module.body:
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("TestCase") for base in node.bases):
            yield node


def _methods(case: ast.ClassDef) -> Iterator[str]:
    for node in case.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            if node.decorator_list:
                raise UnusableRowError(
                    f"test: {node.name}: a decorated test method ({ast.unparse(node.decorator_list[0])})"
                )
            yield node.name


def _check_test(others: Sequence[ast.stmt], case: ast.ClassDef, method: str, entry_point: str) -> CheckTest:
    module = ast.unparse(ast.Module([*others], []))
    run = f"    {case.name}.setUpClass()\n    {case.name}({method!r}).debug()"
    return CheckTest(f"{module}\n\ndef check(candidate):\n{run}\n", entry_point)


def _starts_tests(node: ast.stmt) -> bool:
    if isinstance(node, ast.If):
        return "__name__" in used_names(node.test)
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _MAIN in ast.unparse(node.value)


def _refuse_surroundings(module: ast.Module, prompt: ast.Module, entry_point: str) -> None:
    shared = [name for name in imported_modules(module, prompt) if _is_outside(name)]
    if shared:
        raise UnusableRowError(f"test: needs more than the function's values: {', '.join(_roots(shared))}")
    if "open" in used_names(module):
        raise UnusableRowError("test: needs files: open()")
    functions = {node.name for node in ast.walk(module) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(module):
        match node:
            case ast.Call(ast.Attribute(_, "seed")):
                raise UnusableRowError(f"test: {ast.unparse(node)} does not reach the program's process")
            case ast.Call(ast.Name(name), arguments, keywords) if name == entry_point:
                values = [*arguments, *(keyword.value for keyword in keywords)]
                if any(isinstance(one, ast.Lambda) or used_names(one) & functions for one in values):
                    raise UnusableRowError(f"test: passes a function to the program: {ast.unparse(node)}")


def _is_outside(name: str) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:end]) in _OUTSIDE for end in range(1, len(parts) + 1))


def _roots(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.split(".")[0] for name in names))

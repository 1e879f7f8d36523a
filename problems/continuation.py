"""What of the source that a model went on writing behind its function that function needs."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from problems.python_source import outer_statements

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def new_statements(tree: ast.Module, lines_before: int) -> Iterator[ast.stmt]:
    """The top-level statements of a module that reach behind its first `lines_before` lines."""
    return (node for node in tree.body if (node.end_lineno or node.lineno) > lines_before)


def last_needed_line(tree: ast.Module, name: str, lines_before: int) -> int | None:
    """The last line of the module that the function or class `name` needs; None where the module has no such thing.

    A function begun on the first `lines_before` lines is the one that was asked for; otherwise the last of its name
    is. Behind it stays what binds or changes a name that it uses, or that what stays uses, and all between these.
    """
    statements = list(new_statements(tree, lines_before))
    if not statements:
        return None
    if statements[0].lineno <= lines_before:
        place = 0
    else:
        places = [i for i, node in enumerate(statements) if _binds(node, name)]
        if not places:
            return None
        place = places[-1]
    needed: set[str] = set()
    for node in statements[: place + 1]:
        needed |= _loaded(node)
    needed.discard(name)
    last = place
    rest = [(_touched(node), i) for i, node in enumerate(statements) if i > place]
    while True:
        found = max((i for touched, i in rest if i > last and touched & needed), default=None)
        if found is None:
            return statements[last].end_lineno
        for node in statements[last + 1 : found + 1]:
            needed |= _loaded(node)
        needed.discard(name)
        last = found


def _binds(node: ast.stmt, name: str) -> bool:
    if name in _touched(node):
        return True
    return isinstance(node, ast.ClassDef) and any(
        isinstance(inner, _SCOPES) and inner.name == name for inner in node.body
    )


def _loaded(node: ast.stmt) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}


def _touched(node: ast.stmt) -> set[str]:
    """The names that a top-level statement binds, or the objects of which it changes. Tests and prints touch nothing."""
    names: set[str] = set()
    if isinstance(node, ast.Assert) or _is_main_guard(node):
        return names
    for part in outer_statements([node]):
        if isinstance(part, _SCOPES):
            names.add(part.name)
        elif isinstance(part, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name).partition(".")[0] for alias in part.names)
        elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):
            if isinstance(part.value.func, ast.Attribute):
                names |= _root(part.value.func)
        elif isinstance(part, ast.stmt):
            for target in _targets(part):
                names |= {name for inner in ast.walk(target) for name in _root(inner) if not _is_read(inner)}
    return names


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, (ast.Assign, ast.Delete)):
        return list(node.targets)
    if isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.For, ast.AsyncFor)):
        return [node.target]
    if isinstance(node, (ast.With, ast.AsyncWith)):
        return [item.optional_vars for item in node.items if item.optional_vars]
    return []


def _is_read(node: ast.AST) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Load)


def _root(node: ast.AST) -> set[str]:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test)
    )

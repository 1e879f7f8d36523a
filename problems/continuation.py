"""How much of the source that a model wrote after its function is needed by that function."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from rltf.problems.python_source import IMPORTS, SCOPES, outer_statements
from rltf.problems.scope import bound_names


def new_statements(tree: ast.Module, lines_before: int) -> Iterator[ast.stmt]:
    """The top-level statements of a module that end after its first `lines_before` lines."""
    return (node for node in tree.body if (node.end_lineno or node.lineno) > lines_before)


def last_needed_line(tree: ast.Module, name: str, lines_before: int) -> int | None:
    """The last line of the module that the function or class `name` needs; None if the module does not define it.

    A function that starts in the first `lines_before` lines is the one that was asked for. Otherwise it is the last one
    with this name. After it, statements stay if they bind or change a name that it uses, or that statements which stay
    use, along with everything in between.
    """
    statements = list(new_statements(tree, lines_before))
    if not statements:
        return None
    is_continued = statements[0].lineno <= lines_before
    found = 0 if is_continued else max((i for i, node in enumerate(statements) if _binds(node, name)), default=None)
    if found is None:
        return None
    kept = tree.body[: -len(statements)]
    needed: set[str] = set()
    bound: set[str] = set()
    last = -1
    while found is not None:
        kept += statements[last + 1 : found + 1]
        for node in kept:
            needed |= _globals_read(node)
            bound |= _touched(node)
        kept = []
        needed.discard(name)
        last = found
        # A repeated import is left out: the name is bound already, and the module may not exist.
        wanted = ((i, needed - bound if isinstance(node, IMPORTS) else needed) for i, node in enumerate(statements))
        found = max((i for i, names in wanted if i > last and names & _touched(statements[i])), default=None)
    return statements[last].end_lineno


def _binds(node: ast.stmt, name: str) -> bool:
    if name in _touched(node):
        return True
    return isinstance(node, ast.ClassDef) and any(
        isinstance(inner, SCOPES) and inner.name == name for inner in node.body
    )


def _globals_read(node: ast.stmt) -> set[str]:
    """The names that a statement reads, except those that are local to its functions."""
    read: set[str] = set()
    own: set[str] = set()
    declared: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            (read if isinstance(part.ctx, ast.Load) else own).add(part.id)
        elif isinstance(part, ast.arg):
            own.add(part.arg)
        elif isinstance(part, IMPORTS):
            own |= bound_names(part)
        elif isinstance(part, ast.Global):
            declared.update(part.names)
    return read - (own - declared) if isinstance(node, SCOPES) else read


def _touched(node: ast.stmt) -> set[str]:
    """The names that a top-level statement binds, or whose objects it changes. Tests and prints touch nothing."""
    names: set[str] = set()
    if isinstance(node, ast.Assert) or _is_main_guard(node):
        return names
    for part in outer_statements([node]):
        if isinstance(part, SCOPES):
            names.add(part.name)
        elif isinstance(part, IMPORTS):
            names |= bound_names(part)
        elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):
            if isinstance(part.value.func, ast.Attribute):
                names |= _root(part.value.func)
        else:
            bound = [inner for target in _targets(part) for inner in ast.walk(target)]
            names.update(*(_root(inner) for inner in bound if not isinstance(getattr(inner, "ctx", None), ast.Load)))
    return names


def _targets(node: ast.AST) -> list[ast.expr]:
    """What a statement assigns to, deletes, loops over, or opens."""
    found = [*getattr(node, "targets", ()), getattr(node, "target", None)]
    found += [item.optional_vars for item in getattr(node, "items", ())]
    return [target for target in found if target is not None]


def _root(node: ast.AST) -> set[str]:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test)
    )

"""Python's parser for several threads.

CPython 3.11 counts the depth of a syntax tree for the whole interpreter while it builds one. Two threads that parse at
the same time upset the count, and one of them gets a SystemError.
"""

from __future__ import annotations

import ast
import threading

_LOCK = threading.RLock()  # reentrant, because the garbage collector may run anything in the middle


def syntax_tree(source: str) -> ast.Module:
    """`ast.parse(source)`."""
    with _LOCK:
        return ast.parse(source)


def expression_tree(source: str) -> ast.Expression:
    """`ast.parse(source, mode="eval")`."""
    with _LOCK:
        return ast.parse(source, mode="eval")

"""Python's parser may be used from several threads at once, as graders do."""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rltf.problems.syntax import syntax_tree

SOURCE = f"x = [{', '.join(f'(1 + {n}) * f(a, [{n}])' for n in range(300))}]"


class Litter:
    """The garbage collector runs Python code, where threads may switch, in the middle of building a tree."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        sum(range(50))


@pytest.fixture
def _restless() -> Iterator[None]:
    """The collector runs often, and threads switch at every chance."""
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(5)
    sys.setswitchinterval(1e-6)
    yield
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


@pytest.mark.slow
@pytest.mark.usefixtures("_restless")
def test_threads_that_parse_at_once_get_their_trees() -> None:
    def parse(_: int) -> ast.Module:
        Litter()
        return syntax_tree(SOURCE)

    with ThreadPoolExecutor(8) as threads:
        trees = list(threads.map(parse, range(64)))
    assert {len(list(ast.walk(tree))) for tree in trees} == {len(list(ast.walk(ast.parse(SOURCE))))}

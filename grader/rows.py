"""Rows of benchmarks, as data sets and trainers hand them over, as problems."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from datetime import date
from typing import Any

from rltf.errors import UserError, nearest
from rltf.problems.sources import parse_json
from rltf.problems.spec import ROW_KINDS, kind_of, task_id_of, to_problem
from rltf.problems.types import Problem, UnusableRowError

_CACHE_BYTES = 256 << 20
_ID_BYTES = 6


def problem_from_row(row: Mapping[str, Any], benchmark: str | None = None) -> Problem:
    """The problem of a row in the shape of a known benchmark, or of your own rows (docs/own-problems.md).

    `benchmark` is the KIND of a SPEC (`apps`, `mbpp`, `jsonl`, ...). None recognizes the row by its columns. A row may
    hold what data sets make of JSON: numpy arrays for lists, and dates. A row without an id gets one from its content.
    The same row gives the same `Problem` again while it is among the last 256 MB of rows. Raises UserError for an
    unknown `benchmark`, a row that is not recognized, or one that cannot be used. The message names the column.
    """
    if benchmark is not None and benchmark not in ROW_KINDS:
        raise UserError(
            f"benchmark {benchmark!r}: expected one of {', '.join(ROW_KINDS)}{nearest(benchmark, ROW_KINDS)}"
        )
    if not isinstance(row, Mapping):
        raise UserError(f"expected a row with named columns, got {type(row).__name__}")
    kind = kind_of(row) if benchmark is None else benchmark
    text = _as_json(row)
    digest = hashlib.blake2b(text.encode()).digest()
    problem = _cache.get((kind, digest))
    if problem is None:
        problem = _parsed(kind, text, digest[:_ID_BYTES].hex())
        _cache.put((kind, digest), problem, len(text))
    return problem


def _as_json(row: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(row), default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"the row does not fit into JSON: {error}") from error


def _plain(value: Any) -> Any:
    """What JSON has instead of a value that it lacks."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "tolist"):  # an array or a number of numpy
        return value.tolist()
    raise TypeError(f"it holds a value of type {type(value).__name__}")


def _parsed(kind: str, text: str, new_id: str) -> Problem:
    try:
        row = parse_json(text)
        if task_id_of(kind, row) is None:
            row["task_id"] = new_id
        return to_problem(kind, row)
    except UnusableRowError as error:
        raise UserError(f"the row cannot be used as {kind}: {error}") from error


class _Cache:
    """The problems of the last rows, `max_bytes` of rows in all. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._found: OrderedDict[tuple[str, bytes], tuple[Problem, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, bytes]) -> Problem | None:
        with self._lock:
            if key not in self._found:
                return None
            self._found.move_to_end(key)
            return self._found[key][0]

    def put(self, key: tuple[str, bytes], problem: Problem, num_bytes: int) -> None:
        with self._lock:
            self._num_bytes += num_bytes - self._found.pop(key, (problem, 0))[1]
            self._found[key] = problem, num_bytes
            while self._num_bytes > self._max_bytes:
                self._num_bytes -= self._found.popitem(last=False)[1][1]


_cache = _Cache(_CACHE_BYTES)

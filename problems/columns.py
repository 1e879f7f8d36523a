"""Reading the columns of a raw row as the types they should have, with errors that name the column."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rltf.problems.sources import check_text, parse_json, shown
from rltf.problems.syntax import expression_tree
from rltf.problems.types import UnusableRowError

T = TypeVar("T")
Fields = dict[str, Any]
"""A raw row: the values of its columns by name."""
Reader = Callable[[Fields], T]
"""Reads something from a row. It raises `UnusableRowError` with the name of the column if the value is of no use."""

_FENCED = re.compile(r"\s*```[ \t]*(?P<tag>[\w+#.-]*)[^\n]*\n(?P<program>.*?)```\s*", re.DOTALL)
_PYTHON_TAGS = ("", "py", "py3", "python", "python3")
_AMOUNT = re.compile(r"\s*(?P<number>[0-9]+(?:\.[0-9]*)?)\s*(?P<unit>[A-Za-z]+)\s*")
_SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3}
_BYTES = {
    **dict.fromkeys(("b", "byte"), 1.0),
    **dict.fromkeys(("kb", "kib", "kilobyte", "kibibyte"), 1024.0),
    **dict.fromkeys(("mb", "mib", "megabyte", "mebibyte"), 1024.0**2),
    **dict.fromkeys(("gb", "gib", "gigabyte", "gibibyte"), 1024.0**3),
}
"""Contest sites write megabytes and mean mebibytes."""
_NANOSECOND = 1e-9
_TOO_LARGE = 1e18  # no limit, id or difficulty is; it also keeps what follows in the range of floats


def value(row: Fields, path: str) -> Any:
    """The value of a column, or of a field within it (`metadata.difficulty`); None if there is none.

    Objects on the way may be text that holds JSON or a Python literal. The row keeps what they hold in their place, so
    that each is read only once. Raises UnusableRowError if something on the way is not an object.
    """
    found: Any = row
    *outer, last = path.split(".")
    for depth, name in enumerate(outer, start=1):
        place = ".".join(outer[:depth])
        parsed = decoded(found.get(name), place)
        if parsed is None:
            return None
        if not isinstance(parsed, dict):
            raise UnusableRowError(f"{place}: expected an object, got {type(parsed).__name__}")
        found[name] = parsed
        found = parsed
    return found.get(last)


def decoded(found: Any, place: str) -> Any:
    """A value that may be text, which then holds JSON or a Python literal. Blank text is None.

    Raises UnusableRowError if it is neither.
    """
    if not isinstance(found, str):
        return found
    if not found.strip():
        return None
    try:
        parsed = parse_json(found)
    except UnusableRowError as error:
        try:
            parsed = ast.literal_eval(expression_tree(found.strip()))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise UnusableRowError(f"{place}: {error}, and not a Python literal") from error
    check_text(parsed, place)
    return parsed


def text(*paths: str) -> Reader[str]:
    """Text from the first of these columns that has any. It is required."""

    def read(row: Fields) -> str:
        for path in paths:
            found = optional_text(path)(row)
            if found.strip():
                return found
        raise UnusableRowError(f"{' or '.join(paths)}: missing or empty")

    return read


def optional_text(path: str) -> Reader[str]:
    """Text, or nothing if there is none."""

    def read(row: Fields) -> str:
        found = value(row, path)
        if found is not None and not isinstance(found, str):
            raise UnusableRowError(f"{path}: expected text, got {type(found).__name__}")
        return found or ""

    return read


def label(path: str) -> Reader[str | None]:
    """Text or a number, as text."""

    def read(row: Fields) -> str | None:
        found = value(row, path)
        if found is None or found == "":
            return None
        if isinstance(found, str):
            return found
        if isinstance(found, bool) or not isinstance(found, int | float) or not -_TOO_LARGE < found < _TOO_LARGE:
            raise UnusableRowError(f"{path}: expected text or a number, got {shown(found)}")
        return str(int(found)) if found == int(found) else str(found)

    return read


def programs(path: str) -> Reader[tuple[str, ...]]:
    """A list of programs in Python, or JSON text that holds one. Programs may be in code blocks."""

    def read(row: Fields) -> tuple[str, ...]:
        found = decoded(value(row, path), path) or []
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise UnusableRowError(f"{path}: expected a list of programs")
        return python_programs(found)

    return read


def program(path: str) -> Reader[tuple[str, ...]]:
    """One program in Python, which may be in a code block, or none."""

    def read(row: Fields) -> tuple[str, ...]:
        return python_programs([optional_text(path)(row)])

    return read


def python_programs(texts: list[str]) -> tuple[str, ...]:
    """Programs without the code blocks around them. Blocks in other languages and blank programs are left out."""
    found = []
    for one in texts:
        block = _FENCED.fullmatch(one)
        if block is None or block["tag"].lower() in _PYTHON_TAGS:
            found.append(block["program"] if block else one)
    return tuple(one for one in found if one.strip())


def seconds(path: str) -> Reader[float | None]:
    """A time limit in seconds: a number, text such as `2.0 seconds`, or `{"seconds": 2, "nanos": 0}`."""

    def read(row: Fields) -> float | None:
        found = value(row, path)
        if isinstance(found, str) and found.lstrip().startswith("{"):
            found = decoded(found, path)
        if isinstance(found, dict):
            whole, nanos = (_amount(found.get(name) or 0, {}, f"{path}.{name}") for name in ("seconds", "nanos"))
            return (whole + nanos * _NANOSECOND) or None
        return _amount(found, _SECONDS, path) or None

    return read


def size(path: str, unit: int = 1) -> Reader[int | None]:
    """A memory limit in bytes: a number of `unit` bytes, or text such as `256.0 megabytes`."""

    def read(row: Fields) -> int | None:
        found = value(row, path)
        return int(_amount(found, _BYTES, path) * (1 if isinstance(found, str) else unit)) or None

    return read


def _amount(found: Any, units: Mapping[str, float], path: str) -> float:
    """A number, or text with a number and one of `units`. None and blank text are 0."""
    if found is None or (isinstance(found, str) and found.strip() in ("", "None")):
        return 0.0
    scale = 1.0
    if isinstance(found, str):
        match = _AMOUNT.fullmatch(found)
        unit = match["unit"].lower() if match else ""
        unit = unit if unit in units else unit.removesuffix("s")
        if match is None or unit not in units:
            raise UnusableRowError(f"{path}: expected a number with a unit, got {shown(found)}")
        found, scale = float(match["number"]), units[unit]
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < _TOO_LARGE:
        raise UnusableRowError(f"{path}: expected a positive number, got {shown(found)}")
    return float(found) * scale

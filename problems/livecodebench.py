"""LiveCodeBench (Jain et al. 2024): its releases, its window of contest dates, and its compressed tests.

Private tests are base64 of zlib of a pickled string that holds JSON. Unpickling can run code, so nothing here does it:
the string is read from the pickle's operations, and a pickle with any other operation is refused.
"""

from __future__ import annotations

import base64
import pickletools
import zlib
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

from rltf.errors import UserError
from rltf.problems.cases import Cases, from_items
from rltf.problems.columns import Fields, decoded, value
from rltf.problems.sources import Row, check_text, hub_file, parse_json, read_file, shown
from rltf.problems.types import UnusableRowError

PUBLIC, PRIVATE = "public_test_cases", "private_test_cases"
VERSIONS = tuple(f"release_v{number}" for number in range(1, 7))
MAX_BYTES = 1 << 29
"""Upper bound of a row's decompressed tests."""
_STRING_OPERATIONS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
_HARMLESS_OPERATIONS = ("PROTO", "FRAME", *_STRING_OPERATIONS, "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP")


def read_rows(path: str, version: str | None, first: str | None, end: str | None) -> Iterator[Row]:
    """The rows of a file, of a folder with the Hub's files, or of a data set on the Hub.

    A release is the first files of the Hub: `release_v2` is `test.jsonl` and `test2.jsonl`. Only rows whose contest was
    on `first` or later and before `end` count. A row without a date is unusable then. Raises UserError for an unknown
    release, or bounds that are not dates.
    """
    window = _day(first, "from", date.min), _day(end, "to", date.max)
    for file in _files(path, version):
        yield from _within(read_file(file), *window)


def _files(path: str, version: str | None) -> list[Path]:
    local = Path(path).expanduser()
    if local.is_file():
        if version is not None:
            raise UserError(f"{path}: ?version= is for LiveCodeBench on the Hub or a folder with its files")
        return [local]
    names = _file_names(version or VERSIONS[-1])
    if not local.is_dir():
        return [hub_file(path, name) for name in names]
    missing = [name for name in names if not (local / name).is_file()]
    if missing:
        raise UserError(f"{path}: {version or VERSIONS[-1]} needs {', '.join(names)}; {', '.join(missing)} is missing")
    return [local / name for name in names]


def _file_names(version: str) -> list[str]:
    if version not in VERSIONS:
        raise UserError(f"?version={version}: expected one of {', '.join(VERSIONS)}")
    return [f"test{number or ''}.jsonl" for number in (0, *range(2, VERSIONS.index(version) + 2))]


def _day(text: str | None, key: str, default: date) -> date:
    try:
        return default if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"?{key}={text}: expected a date such as 2024-08-01") from error


def _within(rows: Iterator[Row], first: date, end: date) -> Iterator[Row]:
    if (first, end) == (date.min, date.max):
        yield from rows
        return
    for row in rows:
        if row.problem is not None or not isinstance(row.data, dict):
            yield row
            continue
        try:
            day = _contest_day(row.data)
        except UnusableRowError as error:
            yield Row(row.file, row.line, row.data, str(error))
        else:
            if first <= day < end:
                yield row


def _contest_day(row: Fields) -> date:
    found = value(row, "contest_date")
    if isinstance(found, datetime):  # a timestamp in a Parquet file
        return found.date()
    try:
        return datetime.fromisoformat(found).date()
    except (TypeError, ValueError) as error:
        raise UnusableRowError(f"contest_date: expected a date such as 2024-08-01, got {shown(found)}") from error


def tests(row: Fields) -> Cases:
    """Public tests, which the statement shows, and then private ones.

    Raises UnusableRowError for tests that cannot be read, or no private ones.
    """
    shown = _list(decoded(value(row, PUBLIC), PUBLIC), PUBLIC)
    hidden = _list(_private(value(row, PRIVATE)), PRIVATE)
    if not hidden:
        raise UnusableRowError(f"{PRIVATE}: no tests besides those in the statement")
    items = [(f"{column}[{i}]", one) for column, found in ((PUBLIC, shown), (PRIVATE, hidden)) for i, one in found]
    return Cases(from_items(items, f"{PUBLIC} and {PRIVATE}", value(row, "metadata.func_name")), len(shown))


def _list(found: Any, column: str) -> list[tuple[int, Any]]:
    if not isinstance(found, list):
        raise UnusableRowError(f"{column}: expected a list of tests, got {type(found).__name__}")
    return list(enumerate(found))


def _private(found: Any) -> Any:
    """Tests as JSON text or in the compressed form; a value that is not text stays as it is."""
    if not isinstance(found, str) or found.lstrip().startswith("["):
        return decoded(found, PRIVATE)
    try:
        text = pickled_string(_decompressed(base64.b64decode(found, validate=True)))
        parsed = parse_json(text)
        check_text(parsed, "")
    except UnusableRowError as error:
        raise UnusableRowError(f"{PRIVATE}: {error}") from error
    except (ValueError, zlib.error) as error:
        raise UnusableRowError(f"{PRIVATE}: neither JSON nor base64 of compressed tests: {error}") from error
    return parsed


def _decompressed(data: bytes) -> bytes:
    """`zlib.decompress`, which stops at `MAX_BYTES`."""
    decompressor = zlib.decompressobj()
    found = decompressor.decompress(data, MAX_BYTES)
    if decompressor.unconsumed_tail:
        raise UnusableRowError(f"more than {MAX_BYTES} bytes when decompressed")
    if not decompressor.eof:
        raise UnusableRowError("compressed data that ends too early")
    return found


def pickled_string(data: bytes) -> str:
    """The string in a pickle that contains nothing else. No operation of the pickle is carried out.

    Raises UnusableRowError for any other pickle.
    """
    strings = []
    try:
        for operation, argument, _ in pickletools.genops(data):
            if operation.name not in _HARMLESS_OPERATIONS:
                raise UnusableRowError(f"a pickle with the operation {operation.name}; only a string is read")
            if operation.name in _STRING_OPERATIONS:
                strings.append(argument)
    except ValueError as error:
        if isinstance(error, UnusableRowError):
            raise
        raise UnusableRowError(f"not a pickle: {error}") from error
    if len(strings) != 1:
        raise UnusableRowError(f"a pickle with {len(strings)} strings; one is expected")
    return str(strings[0])

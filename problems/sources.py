"""Reading raw rows from JSON lines, a JSON list, Parquet, Arrow or the Hugging Face Hub, each with its place."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rltf.errors import UserError
from rltf.problems.types import UnusableRowError

_MAX_DIRECT_DIGITS = 4000  # below the interpreter's limit for int(str), which is 4300
_HUB_TIMEOUT_S = 10.0
_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_PARQUET_BRANCH = "refs/convert/parquet"
_SURROGATE = re.compile("[\ud800-\udfff]")
_SEPARATORS = re.compile(r"[\s,]*")
_ROWS_PER_BATCH = 16
_MAX_SHOWN = 40
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".arrow")
"""The ends of the names of files with rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One raw row. If it could not even be read, `problem` is the reason and `data` is None."""

    file: str
    line: int | None
    data: Any
    problem: str | None = None


def parse_json(text: str) -> Any:
    """`json.loads` that also accepts integers of any length, which APPS contains.

    Raises UnusableRowError if it is not JSON; `line` is relative to `text`.
    """
    try:
        return json.loads(text, parse_int=_parse_int)
    except json.JSONDecodeError as error:
        raise UnusableRowError(f"not JSON: {_fault(error)}", line=error.lineno) from error
    except RecursionError as error:
        raise UnusableRowError("JSON nested too deeply") from error


def _fault(error: json.JSONDecodeError) -> str:
    """What is wrong and where in the line. Some of Python's messages end with a colon or "at", before its own place."""
    return f"{error.msg.rstrip(': ').removesuffix(' at')} at column {error.colno}"


def shown(value: Any) -> str:
    """The start of a value as Python writes it, for messages."""
    try:
        return repr(value)[:_MAX_SHOWN]
    except ValueError:  # an integer with more digits than the interpreter writes
        return f"a very long {type(value).__name__}"


def check_text(value: Any, place: str) -> None:
    """Check every string within a value from JSON, which may escape half of a surrogate pair (`"\\ud800"`).

    Such a string is not text: no file, tokenizer or process can take it. Raises UnusableRowError if there is one. The
    message starts with its place, such as `tests[0].stdin`.
    """
    if isinstance(value, str):
        if not value.isascii() and (found := _SURROGATE.search(value)):
            half = f"half of a surrogate pair, \\u{ord(found[0]):04x}"
            raise UnusableRowError(f"{place}: not text, because character {found.start()} is {half}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            if isinstance(item, str | list | dict):
                check_text(item, f"{place}[{number}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            check_text(key, f"a key in {place}" if place else "a key")
            check_text(item, f"{place}.{key}" if place else key)


def _parse_int(digits: str) -> int:
    # Splitting in half stays below the interpreter's limit without lifting it for the whole process.
    if len(digits) <= _MAX_DIRECT_DIGITS:
        return int(digits)
    if digits.startswith("-"):
        return -_parse_int(digits[1:])
    middle = len(digits) // 2
    return int(_parse_int(digits[:middle]) * 10 ** (len(digits) - middle) + _parse_int(digits[middle:]))


def read_file(path: Path) -> Iterator[Row]:
    """The rows of a file: JSON lines, a JSON list, Parquet or Arrow. Blank lines are skipped.

    Lines of Parquet and Arrow files are row numbers, from 1. Raises UserError for another kind of file, or one that
    cannot be decoded.
    """
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
    if path.suffix in (".parquet", ".arrow"):
        yield from _read_columns(path)
        return
    is_list = path.suffix == ".json"
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            if is_list:
                yield from _read_list(path, file.read())
                return
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                try:
                    yield Row(str(path), line, parse_json(text))
                except UnusableRowError as error:
                    yield Row(str(path), line, None, str(error))
    except (UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _read_columns(path: Path) -> Iterator[Row]:
    """The rows of a Parquet file, or of an Arrow file or stream (as `datasets` keeps them)."""
    import pyarrow as pa

    try:
        number = 0
        for batch in _batches(path):
            for index in range(batch.num_rows):  # one by one, because a row may have tens of megabytes of tests
                number += 1
                yield Row(str(path), number, batch.slice(index, 1).to_pylist()[0])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(_ROWS_PER_BATCH)
        return
    with pa.memory_map(str(path)) as source:
        try:
            file = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            yield from pa.ipc.open_stream(source)
        else:
            yield from (file.get_batch(number) for number in range(file.num_record_batches))


def _read_list(path: Path, text: str) -> Iterator[Row]:
    """Decode a JSON list item by item, so that each row knows the line it starts on."""
    decoder = json.JSONDecoder(parse_int=_parse_int)
    start = text.find("[")
    if start < 0 or text[:start].strip():
        raise UserError(f"{path}: expected a JSON list of rows")
    position = start + 1
    while True:
        match = _SEPARATORS.match(text, position)
        position = match.end() if match else position
        if text[position : position + 1] == "]":
            return
        line = text.count("\n", 0, position) + 1
        try:
            data, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            # Nobody can tell where the next item starts, so the rest of the file is lost.
            yield Row(str(path), error.lineno, None, f"not JSON, so the rest of the file is lost: {_fault(error)}")
            return
        yield Row(str(path), line, data)


def is_hub_id(path: str) -> bool:
    """Whether `path`, which is no local file, can be the id of a data set on the Hub."""
    return bool(_HUB_ID.fullmatch(path)) and not path.endswith(SUFFIXES)


def read_hub(
    hub_id: str, config: str | None, mirror_folder: str | None, splits: tuple[str, ...] | None
) -> Iterator[Row]:
    """The rows of a data set on the Hub, from `splits` or from all of its splits. Lines count rows within their split.

    `config` names one of the set's configurations; None is the default one. `mirror_folder` is the folder to read in
    the Hub's Parquet mirror, if the set has to be read from there. Raises UserError if the Hub does not answer in time,
    or has no such data set or split.
    """
    _check_hub(hub_id)
    loaded = _load_hub(hub_id, config, mirror_folder)
    for split in splits or tuple(loaded):
        if split not in loaded:
            raise UserError(f"{hub_id}: no split {split!r} on the Hub; it has {', '.join(loaded)}")
        for line, data in enumerate(loaded[split], start=1):
            yield Row(f"{hub_id}[{split}]", line, data)


def hub_file(hub_id: str, name: str) -> Path:
    """One file of a data set on the Hub, downloaded into the Hub's cache if it is not there yet.

    Raises UserError if the Hub does not answer in time, or has no such data set or file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    _check_hub(hub_id)
    try:
        return Path(hf_hub_download(hub_id, name, repo_type="dataset"))
    except EntryNotFoundError as error:  # also if the cache lacks it and the Hub is out of reach
        raise UserError(f"{hub_id}: {name} is neither on the Hub nor in its cache") from error
    except (_http_error(), OSError) as error:
        raise UserError(f"{hub_id}: {name} cannot be downloaded: {error}") from error


def _http_error() -> type[Exception]:
    """The base of the connection errors of whichever HTTP client the installed Hub library uses (httpx or its fork)."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


def _check_hub(hub_id: str) -> None:
    """Ask the Hub for the data set's card first: without a network, loading would retry for minutes."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        return
    try:
        HfApi().dataset_info(hub_id, timeout=_HUB_TIMEOUT_S)
    except RepositoryNotFoundError as error:
        raise UserError(f"{hub_id}: not a local file or folder and not a data set on the Hub") from error
    except (_http_error(), OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{hub_id}: not a local file or folder, and the Hub cannot be reached ({reason}); give the path of a "
            "downloaded copy, or set HF_HUB_OFFLINE=1 to use the copy in the Hub's cache"
        ) from error


def _load_hub(hub_id: str, config: str | None, mirror_folder: str | None) -> dict[str, Any]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        try:
            return dict(load_dataset(hub_id, config))
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            # Some sets still come with a loading script (codeparrot/apps). The Hub mirrors them as Parquet, with one
            # folder per configuration: reading all folders would give rows several times.
            return dict(load_dataset(hub_id, data_dir=mirror_folder, revision=_PARQUET_BRANCH))
    except (RuntimeError, OSError, ValueError, DatasetsError) as error:
        raise UserError(f"{hub_id}: cannot be loaded from the Hub or its cache: {error}") from error

"""The ways in which data sets write tests down: two lists, a list of cases, text that holds either.

| a case | how the row says so | what its input is |
|---|---|---|
| stdin | no type, `stdin` or `stdin_stdout` | the standard input |
| call (APPS) | `function_call` | the list of arguments; or text that holds it |
| call (LiveCodeBench) | `functional` | one JSON value per line and argument |

Two lists with `fn_name` are calls too. Their inputs are lists of arguments (APPS, TACO), or text with one JSON value
per line (PRIME).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rltf.problems import apps
from rltf.problems.columns import Fields, Reader, decoded, value
from rltf.problems.sources import check_text, parse_json, shown
from rltf.problems.types import CallTest, Test, UnusableRowError

_STDIN = (None, "", "stdin", "stdin_stdout")
_APPS_CALL = "function_call"
_JSON_LINES = "functional"
_MIN_CUT = 200  # characters; shorter tests are never cut


@dataclass(frozen=True, slots=True)
class Cases:
    """The tests of a row. The statement shows the first `num_visible` of them."""

    tests: tuple[Test, ...]
    num_visible: int = 0


def column(path: str, function: str = "") -> Reader[Cases]:
    """Tests in one column, none of which is known to be in the statement. `function` is the column with its name."""

    def read(row: Fields) -> Cases:
        found = decoded(value(row, path), path)
        if not found:
            raise UnusableRowError(f"{path}: no tests")
        if isinstance(found, dict):
            return Cases(_from_lists(found, path))
        if not isinstance(found, list):
            raise UnusableRowError(f"{path}: expected a list of tests, got {type(found).__name__}")
        name = value(row, function) if function else None
        return Cases(from_items([(f"{path}[{i}]", item) for i, item in enumerate(found)], path, name))

    return read


def examples_first(shown: str, *hidden: str) -> Reader[Cases]:
    """Tests in several columns. Those of the first are the examples in the statement. Later repetitions are dropped."""

    def read(row: Fields) -> Cases:
        columns = {path: pairs(path)(row) for path in (shown, *hidden)}
        if not any(columns[path] for path in hidden):
            raise UnusableRowError(f"{hidden[0]}: no tests besides the examples in the statement")
        tests = dict.fromkeys(_stdin_tests([one for found in columns.values() for one in found], hidden[0]))
        return Cases(tuple(tests), len(set(columns[shown])))

    return read


def pairs(path: str) -> Reader[list[tuple[str, str]]]:
    """Inputs and outputs, as `{"input": [...], "output": [...]}` or as a list of `{"input": ..., "output": ...}`."""

    def read(row: Fields) -> list[tuple[str, str]]:
        found = decoded(value(row, path), path) or []
        if isinstance(found, dict):
            inputs, outputs = found.get("input") or [], found.get("output") or []
            if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
                raise UnusableRowError(f"{path}: expected input and output as two lists of the same length")
            found = [{"input": stdin, "output": expected} for stdin, expected in zip(inputs, outputs, strict=True)]
        if not isinstance(found, list):
            raise UnusableRowError(f"{path}: expected tests, got {type(found).__name__}")
        items = [(f"{path}[{i}]", item) for i, item in enumerate(found)]
        return [_pair(_case(item, place), place) for place, item in items]

    return read


def from_items(items: Sequence[tuple[str, Any]], path: str, function: Any = None) -> tuple[Test, ...]:
    """Tests from cases that say of which type they are, each with its place. All must be of one type.

    `function` names the function of `functional` cases that do not name it themselves. Raises UnusableRowError for no
    cases, an unknown type, several types, or a case of another shape.
    """
    types = {_type_of(_case(item, place), place) for place, item in items}
    if not types:
        raise UnusableRowError(f"{path}: no tests")
    if len(types) > 1:
        raise UnusableRowError(f"{path}: tests of several types: {', '.join(sorted(types))}")
    (kind,) = types
    if kind == "stdin":
        return _stdin_tests([_pair(item, place) for place, item in items], path)
    names = {_function_of(item, place, function) for place, item in items}
    if len(names) > 1:
        raise UnusableRowError(f"{path}: tests of several functions: {', '.join(sorted(names))}")
    (name,) = names
    if kind == _JSON_LINES:
        return _json_lines_tests(items, path, name)
    calls = [_call(item.get("input"), item.get("output"), place) for place, item in items]
    return _apps_tests([arguments for arguments, _ in calls], [answer for _, answer in calls], path, name)


def _type_of(item: Fields, place: str) -> str:
    kind = item.get("type") or item.get("testtype")
    if kind in (_APPS_CALL, _JSON_LINES):
        return str(kind)
    if kind not in _STDIN:
        raise UnusableRowError(f"{place}.type: expected stdin_stdout, function_call or functional, got {shown(kind)}")
    return _APPS_CALL if kind is None and item.get("fn_name") else "stdin"


def _function_of(item: Fields, place: str, default: Any) -> str:
    metadata = item.get("metadata")
    name = item.get("fn_name") or (metadata.get("func_name") if isinstance(metadata, dict) else None) or default
    if not isinstance(name, str) or not name.isidentifier():
        raise UnusableRowError(f"{place}.fn_name: expected a function name, got {shown(name)}")
    return name


def _from_lists(found: Fields, path: str) -> tuple[Test, ...]:
    """Tests from `{"inputs": [...], "outputs": [...], "fn_name": ...}`."""
    inputs, outputs = found.get("inputs"), found.get("outputs")
    if found.get("fn_name") and isinstance(inputs, list) and isinstance(outputs, list) and len(inputs) == len(outputs):
        lines = [isinstance(one, str) for one in inputs]
        inputs = [json_lines(one, f"{path}.inputs[{i}]") if lines[i] else one for i, one in enumerate(inputs)]
        outputs = [
            _json(one, f"{path}.outputs[{i}]") if lines[i] and isinstance(one, str) else one
            for i, one in enumerate(outputs)
        ]
    elif isinstance(inputs, list) and isinstance(outputs, list):
        inputs = [_whole(f"{path}.inputs[{i}]", one) for i, one in enumerate(inputs)]
        outputs = [_whole(f"{path}.outputs[{i}]", one) for i, one in enumerate(outputs)]
    return _apps_tests(inputs, outputs, path, found.get("fn_name") or None)


def _apps_tests(inputs: Any, outputs: Any, path: str, function: Any) -> tuple[Test, ...]:
    try:
        return apps.tests_from_cases({"inputs": inputs, "outputs": outputs, "fn_name": function})
    except UnusableRowError as error:
        raise UnusableRowError(f"{path}: {error}") from error


def _stdin_tests(pairs: Sequence[tuple[str, str]], path: str) -> tuple[Test, ...]:
    return _apps_tests([stdin for stdin, _ in pairs], [expected for _, expected in pairs], path, None)


def _case(item: Any, place: str) -> Fields:
    if not isinstance(item, dict):
        raise UnusableRowError(f"{place}: expected an object with input and output, got {type(item).__name__}")
    return item


def _pair(item: Fields, place: str) -> tuple[str, str]:
    stdin, expected = (_whole(f"{place}.{name}", item.get(name)) for name in ("input", "output"))
    return stdin, expected


def _whole(place: str, found: Any) -> str:
    """Text or lines as text. Codeforces shows only the start of long tests, and some data sets have these."""
    text = apps.text_of(place, found)
    start = text.rstrip().removesuffix("...")
    if _MIN_CUT <= len(start) < len(text.rstrip()) and "." not in start:
        raise UnusableRowError(f'{place}: cut off, as the "..." at its end says, so no program can pass the test')
    return text


def _call(arguments: Any, answer: Any, place: str) -> tuple[Any, Any]:
    """The arguments and the answer of a call. If the arguments are text, the answer is text too."""
    if isinstance(arguments, str):
        answer = decoded(answer, f"{place}.output")
    arguments = decoded(arguments, f"{place}.input")
    if not isinstance(arguments, list):
        raise UnusableRowError(f"{place}.input: expected the list of arguments, got {type(arguments).__name__}")
    return arguments, answer


def _json_lines_tests(items: Sequence[tuple[str, Fields]], path: str, function: str) -> tuple[Test, ...]:
    tests = tuple(
        CallTest(
            function,
            tuple(json_lines(item.get("input"), f"{place}.input")),
            _json(item.get("output"), f"{place}.output"),
        )
        for place, item in items
    )
    if all(test.expected is None for test in tests):
        raise UnusableRowError(f"{path}: outputs: all null, so a function that does nothing would pass")
    return tests


def json_lines(found: Any, place: str) -> list[Any]:
    """The JSON values on the lines of a text. Raises UnusableRowError if it is not text, or a line is not JSON."""
    if not isinstance(found, str):
        raise UnusableRowError(f"{place}: expected text with one JSON value per line, got {type(found).__name__}")
    return [_json(line, place) for line in found.split("\n") if line.strip()]


def _json(found: Any, place: str) -> Any:
    if not isinstance(found, str):
        raise UnusableRowError(f"{place}: expected JSON text, got {type(found).__name__}")
    try:
        parsed = parse_json(found)
    except UnusableRowError as error:
        raise UnusableRowError(f"{place}: {error}") from error
    check_text(parsed, place)
    return parsed

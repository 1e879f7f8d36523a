"""APPS (Hendrycks et al. 2021): a folder per problem, or rows as on the Hub with tests and solutions as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rltf.errors import UserError
from rltf.problems.examples import examples_of
from rltf.problems.sources import Row, check_text, parse_json, shown
from rltf.problems.types import CallTest, Problem, StdinTest, Test, UnusableRowError

_INTEGER_KEY = re.compile(r"-?[0-9]{1,18}")
_FILES = {
    "question": "question.txt",
    "input_output": "input_output.json",
    "solutions": "solutions.json",
    "starter_code": "starter_code.py",
    "metadata": "metadata.json",
}
"""The files of a problem's folder, by the column that holds the same text on the Hub."""


def read_folder(path: Path) -> Iterator[Row]:
    """The problems in a split's folder (`0000/`, `0001/`, ...), or the one problem if `path` is its folder.

    A row holds the texts of the problem's files under the names of the Hub's columns. Raises UserError if it is not a
    folder of problems.
    """
    if (path / "question.txt").is_file():
        folders = [path]
    else:
        folders = sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not any((folder / "question.txt").is_file() for folder in folders):
        inner = [folder.name for folder in folders if any(folder.glob("*/question.txt"))]
        hint = f"; did you mean {path / inner[0]}?" if inner else ""
        raise UserError(f"{path}: expected problems in the APPS layout, {path}/0000/question.txt and so on{hint}")
    for folder in folders:
        try:
            files = {column: folder / name for column, name in _FILES.items()}
            texts = {column: file.read_text(encoding="utf-8") for column, file in files.items() if file.is_file()}
            yield Row(str(folder), None, {"task_id": folder.name, "folder": str(folder)} | texts)
        except (OSError, UnicodeDecodeError) as error:
            yield Row(str(folder), None, None, f"cannot be read: {error}")


def task_id_of(row: Any) -> str | None:
    """The row's own `task_id`, or the Hub's `problem_id` with four digits, as the folders are named."""
    for key in ("task_id", "problem_id", "id"):
        value = row.get(key) if isinstance(row, dict) else None
        if isinstance(value, int) and not isinstance(value, bool):
            return f"{value:04d}"
        if isinstance(value, str) and value:
            return value.zfill(4) if value.isdigit() else value
    return None


def to_problem(row: Any) -> Problem:
    """A folder's texts or a Hub row as a `Problem`.

    Raises UnusableRowError for no statement, no tests, or inputs and outputs that cannot be used.
    """
    task_id = task_id_of(row)
    if task_id is None:
        raise UnusableRowError("expected an object with problem_id, id or task_id")
    statement = row.get("question")
    if not isinstance(statement, str) or not statement.strip():
        raise _unusable(row, "question", "missing or empty")
    metadata = _decoded(row, "metadata") or {}
    difficulty = row.get("difficulty") or (metadata.get("difficulty") if isinstance(metadata, dict) else None)
    tests = _tests(row)
    solutions = _decoded(row, "solutions") or []
    if not isinstance(solutions, list) or not all(isinstance(solution, str) for solution in solutions):
        raise _unusable(row, "solutions", "expected a list of programs")
    return Problem(
        task_id=task_id,
        benchmark="apps",
        statement=statement,
        tests=tests,
        references=tuple(solutions),
        difficulty=difficulty if isinstance(difficulty, str) else None,
        entry_point=tests[0].function if isinstance(tests[0], CallTest) else None,
        starter_code=row.get("starter_code") or "",
        examples=examples_of(statement, tests),
    )


def to_row(problem: Problem) -> dict[str, Any]:
    """The Hub row of a problem, with tests and solutions already decoded."""
    cases: dict[str, Any] = {"inputs": [], "outputs": []}
    for test in problem.tests:
        match test:
            case StdinTest(stdin, expected):
                cases["inputs"].append(stdin)
                cases["outputs"].append(expected)
            case CallTest(function, arguments, expected, _):
                cases["fn_name"] = function
                cases["inputs"].append(list(arguments))
                cases["outputs"].append(expected)
    return {
        "task_id": problem.task_id,
        "question": problem.statement,
        "input_output": cases,
        "solutions": list(problem.references),
        "difficulty": problem.difficulty,
        "starter_code": problem.starter_code,
    }


def _tests(row: dict[str, Any]) -> tuple[Test, ...]:
    cases = _decoded(row, "input_output")
    if not cases:
        raise _unusable(row, "input_output", "no tests")
    try:
        return tests_from_cases(cases)
    except UnusableRowError as error:
        raise _unusable(row, "input_output", str(error)) from error


def tests_from_cases(cases: Any) -> tuple[Test, ...]:
    """Tests from `{"inputs": [...], "outputs": [...]}`; call-based tests if it also names a function as `fn_name`.

    Raises UnusableRowError for another shape, no tests, or outputs that a program that does nothing would produce.
    """
    if not isinstance(cases, dict):
        raise UnusableRowError("expected an object with inputs and outputs")
    inputs, outputs, function = cases.get("inputs"), cases.get("outputs"), cases.get("fn_name")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise UnusableRowError("inputs and outputs: expected two lists")
    if len(inputs) != len(outputs):
        raise UnusableRowError(f"{len(inputs)} inputs but {len(outputs)} outputs")
    if not inputs:
        raise UnusableRowError("no tests")
    if function is None:
        return _stdin_tests(inputs, outputs)
    if not isinstance(function, str) or not function.isidentifier():
        raise UnusableRowError(f"fn_name: expected a function name, got {shown(function)}")
    return _call_tests(function, inputs, outputs)


def _stdin_tests(inputs: list[Any], outputs: list[Any]) -> tuple[Test, ...]:
    tests = tuple(
        StdinTest(text_of(f"inputs[{i}]", stdin), text_of(f"outputs[{i}]", expected))
        for i, (stdin, expected) in enumerate(zip(inputs, outputs, strict=True))
    )
    if not any(test.expected.strip() for test in tests):
        raise UnusableRowError("outputs: all blank, so a program that prints nothing would pass")
    return tests


def text_of(place: str, value: Any) -> str:
    """Input or output of a program: text, or the list of its lines.

    Raises UnusableRowError if it is neither; the message starts with `place`.
    """
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise UnusableRowError(f"{place}: expected text or a list of lines, got {type(value).__name__}")
    return value


def _call_tests(function: str, inputs: list[Any], outputs: list[Any]) -> tuple[Test, ...]:
    for i, arguments in enumerate(inputs):
        if not isinstance(arguments, list):
            raise UnusableRowError(f"inputs[{i}]: expected the list of arguments, got {type(arguments).__name__}")
    # APPS wraps answers in a list of one item, either in all of a problem's tests or in none.
    wrapped = all(isinstance(expected, list) and len(expected) == 1 for expected in outputs)
    if all((expected[0] if wrapped else expected) is None for expected in outputs):
        raise UnusableRowError("outputs: all null, so a function that does nothing would pass")
    return tuple(
        CallTest(function, tuple(_integer_keys(value) for value in arguments), _integer_keys(expected), unwrap=wrapped)
        for arguments, expected in zip(inputs, outputs, strict=True)
    )


def _integer_keys(value: Any) -> Any:
    """Turn keys that JSON made strings back into integers, as the APPS harness does."""
    if isinstance(value, dict) and value and all(_INTEGER_KEY.fullmatch(key) for key in value):
        return {int(key): item for key, item in value.items()}
    return [_integer_keys(item) for item in value] if isinstance(value, list) else value


def _decoded(row: dict[str, Any], column: str) -> Any:
    """A column that holds JSON, as text (Hub and folder) or already decoded; None if it is missing or empty."""
    value = row.get(column)
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        found = parse_json(value)
        check_text(found, "")
    except UnusableRowError as error:
        raise _unusable(row, column, str(error), error.line) from error
    return found


def _unusable(row: dict[str, Any], column: str, reason: str, line: int | None = None) -> UnusableRowError:
    """The error for a column, which names its file if the row is a folder."""
    folder = row.get("folder")
    file = None if folder is None else str(Path(folder) / _FILES[column])
    return UnusableRowError(f"{column}: {reason}", file=file, line=line if file else None)

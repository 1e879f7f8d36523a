"""Contest problem sets as they are published: one table that says where their rows keep what a `Problem` needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from rltf.problems import livecodebench
from rltf.problems.cases import Cases, column, examples_first, pairs
from rltf.problems.columns import (
    Fields,
    Reader,
    label,
    optional_text,
    program,
    programs,
    python_programs,
    seconds,
    size,
    text,
    value,
)
from rltf.problems.examples import examples_of
from rltf.problems.scope import parse_module
from rltf.problems.sources import shown
from rltf.problems.types import CallTest, Checker, CheckerForm, Limits, Problem, UnusableRowError

_MEBIBYTE = 1 << 20
_PYTHON_3 = 3
_LEVELS = ("", "EASY", "MEDIUM", "HARD", "HARDER", "HARDEST", "EXTERNAL", *map(chr, range(ord("A"), ord("V") + 1)))
"""CodeContests' difficulties by number. The letters are those of Codeforces."""
_PRIME_REQUEST = re.compile(r"\s*Write Python code to solve the problem\. Present the code in\s*```.*\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Shape:
    """Where the rows of a data set keep what a problem needs.

    `columns` are those by which a row is recognized (see `spec.kind_of`).
    `task_id` are the columns that may have the id. With `splits`, rows without an id are numbered in each of these
    splits. `check` raises if a row is not such a problem at all. `mirror_folder` is the folder to read in the Hub's
    Parquet mirror.
    """

    columns: tuple[str, ...]
    statement: Reader[str]
    tests: Reader[Cases]
    task_id: tuple[str, ...] = ()
    references: Reader[tuple[str, ...]] = lambda row: ()
    difficulty: Reader[str | None] = lambda row: None
    starter_code: Reader[str] = lambda row: ""
    time_s: Reader[float | None] = lambda row: None
    memory_bytes: Reader[int | None] = lambda row: None
    checker: Reader[Checker | None] = lambda row: None
    check: Reader[None] = lambda row: None
    splits: tuple[str, ...] = ()
    mirror_folder: str | None = None


def task_id_of(kind: str, row: Any) -> str | None:
    """The row's own id, or the number that it was given."""
    if not isinstance(row, dict):
        return None
    try:
        return _task_id(kind, row)
    except UnusableRowError:
        return None


def _task_id(kind: str, row: Fields) -> str | None:
    found = [label(path)(row) for path in (*SHAPES[kind].task_id, "task_id")]
    return next((one for one in found if one), None)


def to_problem(kind: str, row: Any) -> Problem:
    """A data set's row as a `Problem`. Raises UnusableRowError, with the column first, for a row of another shape."""
    shape = SHAPES[kind]
    if not isinstance(row, dict):
        raise UnusableRowError(f"expected an object, got {type(row).__name__}")
    shape.check(row)
    task_id = _task_id(kind, row)
    if task_id is None:
        raise UnusableRowError(f"{' or '.join(shape.task_id) or 'task_id'}: missing or empty")
    cases = shape.tests(row)
    first = cases.tests[0]
    statement = shape.statement(row)
    return Problem(
        task_id=task_id,
        benchmark=kind,
        statement=statement,
        tests=cases.tests,
        references=shape.references(row),
        difficulty=shape.difficulty(row),
        entry_point=first.function if isinstance(first, CallTest) else None,
        starter_code=shape.starter_code(row),
        num_visible_tests=cases.num_visible,
        limits=Limits(shape.time_s(row), shape.memory_bytes(row)),
        checker=shape.checker(row),
        examples=examples_of(statement, cases.tests, num_visible=cases.num_visible),
    )


def _codecontests_tests(row: Fields) -> Cases:
    repacked = row.get("tests") is not None
    return (column("tests") if repacked else examples_first("public_tests", "private_tests", "generated_tests"))(row)


def _codecontests_references(row: Fields) -> tuple[str, ...]:
    """The solutions in Python 3."""
    if row.get("solutions") is None:
        return program("solution")(row)
    languages, texts = value(row, "solutions.language"), value(row, "solutions.solution")
    if not isinstance(languages, list) or not isinstance(texts, list) or len(languages) != len(texts):
        raise UnusableRowError("solutions: expected language and solution as two lists of the same length")
    if not all(isinstance(one, str) for one in texts):
        raise UnusableRowError("solutions.solution: expected a list of programs")
    return python_programs([one for language, one in zip(languages, texts, strict=True) if language == _PYTHON_3])


def _codecontests_level(row: Fields) -> str | None:
    found = value(row, "difficulty")
    if isinstance(found, int) and not isinstance(found, bool):
        if not 0 <= found < len(_LEVELS):
            raise UnusableRowError(f"difficulty: expected a number below {len(_LEVELS)}, got {shown(found)}")
        return _LEVELS[found] or None
    return label("difficulty")(row)


def _check_codecontests(row: Fields) -> None:
    for path in ("input_file", "output_file"):
        if name := optional_text(path)(row):
            raise UnusableRowError(f"{path}: {name!r}, but programs can only use standard input and output")
    if row.get("checker"):  # CodeContests+
        raise UnusableRowError("checker: written in C++ with testlib; only checkers in Python can be run")


def _codeforces_statement(row: Fields) -> str:
    parts = [text("description")(row).strip()]
    for title, path in (("Input", "input_format"), ("Output", "output_format")):
        if part := optional_text(path)(row).strip():
            parts.append(f"{title}\n\n{part}")
    for stdin, expected in pairs("examples")(row):
        parts.append(f"Example input\n\n{stdin.rstrip()}\n\nExample output\n\n{expected.rstrip()}")
    if note := optional_text("note")(row).strip():
        parts.append(f"Note\n\n{note}")
    return "\n\n".join(parts)


def _codeforces_checker(row: Fields) -> Checker | None:
    source = optional_text("generated_checker")(row)
    if not source.strip():
        return None
    try:
        parse_module(source, "the checker")
    except UnusableRowError as error:
        written = "written in C++; only checkers in Python can be run" if "#include" in source else str(error)
        raise UnusableRowError(f"generated_checker: {written}") from error
    return Checker(source, CheckerForm.SCORE)


def _check_codeforces(row: Fields) -> None:
    if optional_text("interaction_format")(row).strip():
        raise UnusableRowError("interaction_format: an interactive problem; programs can only read a fixed input")
    mode = optional_text("input_mode")(row)
    if mode not in ("", "stdio"):
        raise UnusableRowError(f"input_mode: {mode!r}, but programs can only use standard input and output")
    if row.get("executable", True) is not True:
        raise UnusableRowError("executable: not true, so no submission was found that passes the tests")


def _prime_statement(row: Fields) -> str:
    """What the user says, without the request for a code block, which prompts make themselves."""
    messages = row.get("prompt")
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise UnusableRowError("prompt: expected a list of messages")
    said = [one.get("content") for one in messages if one.get("role") == "user"]
    statement = _PRIME_REQUEST.sub("", said[-1]) if said and isinstance(said[-1], str) else ""
    if not statement.strip():
        raise UnusableRowError("prompt: no message of a user")
    return statement


def _expect(path: str, wanted: str, *, required: bool = True) -> Reader[None]:
    def check(row: Fields) -> None:
        found = value(row, path)
        if found != wanted and (required or found is not None):
            raise UnusableRowError(f"{path}: {shown(found)}, but only {wanted!r} is supported")

    return check


def _check_synthetic1(row: Fields) -> None:
    _expect("task_type", "verifiable_code", required=False)(row)
    _expect("verification_info.language", "python")(row)


SHAPES = {
    "codecontests": Shape(  # deepmind/code_contests
        columns=("name description tests", "name description private_tests"),
        task_id=("name",),
        statement=text("description"),
        tests=_codecontests_tests,
        references=_codecontests_references,
        difficulty=_codecontests_level,
        time_s=seconds("time_limit"),
        memory_bytes=size("memory_limit_bytes"),
        check=_check_codecontests,
    ),
    "codeforces": Shape(  # open-r1/codeforces
        columns=("description official_tests",),
        task_id=("id",),
        statement=_codeforces_statement,
        tests=examples_first("examples", "official_tests"),
        difficulty=label("rating"),
        time_s=seconds("time_limit"),
        memory_bytes=size("memory_limit", _MEBIBYTE),
        checker=_codeforces_checker,
        check=_check_codeforces,
    ),
    "deepcoder": Shape(  # agentica-org/DeepCoder-Preview-Dataset
        columns=("problem tests",),
        statement=text("problem"),
        tests=column("tests", function="metadata.func_name"),
        references=programs("solutions"),
        starter_code=optional_text("starter_code"),
        splits=("train", "test"),
    ),
    "livecodebench": Shape(  # livecodebench/code_generation_lite
        columns=("question_content public_test_cases private_test_cases",),
        task_id=("question_id",),
        statement=text("question_content"),
        tests=livecodebench.tests,
        difficulty=label("difficulty"),
        starter_code=optional_text("starter_code"),
    ),
    "prime": Shape(  # PRIME-RL/Eurus-2-RL-Data
        columns=("ability reward_model prompt",),
        statement=_prime_statement,
        tests=column("reward_model.ground_truth"),
        check=_expect("ability", "code"),
        splits=("train", "validation"),
    ),
    "synthetic1": Shape(  # PrimeIntellect/SYNTHETIC-1, open-r1/verifiable-coding-problems-python
        columns=("verification_info",),
        task_id=("problem_id",),
        statement=text("problem_statement", "prompt"),
        tests=column("verification_info.test_cases"),
        references=program("gold_standard_solution"),
        difficulty=label("metadata.difficulty"),
        time_s=seconds("metadata.time_limit"),
        memory_bytes=size("metadata.memory_limit_bytes"),
        check=_check_synthetic1,
    ),
    "taco": Shape(  # BAAI/TACO
        columns=("question input_output skill_types", "question input_output time_limit memory_limit"),
        task_id=("id",),
        statement=text("question"),
        tests=column("input_output"),
        references=programs("solutions"),
        difficulty=label("difficulty"),
        starter_code=optional_text("starter_code"),
        time_s=seconds("time_limit"),
        memory_bytes=size("memory_limit"),
        splits=("train", "test"),
        mirror_folder="ALL",
    ),
}

"""The checkers that come with the program: right answers other than the expected one, and wrong ones."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from rltf.problems import checkers
from rltf.problems.checkers import known_checker
from rltf.problems.types import Checker
from tests.benchmark_files import DATA, needs_data

# Input, expected answer, right answers, wrong answers.
CASES = {
    "apps_0002": (
        "1\n3\n1 1 1\n2 2 2\n3 3 3\n", "1 2 3",
        ["2 3 1", "3\n1\n2"], ["1 2 1", "1 1 2", "1 2 4", "1 2", "1 2 3 1", "a b c", ""],
    ),
    "apps_0005": (
        "2\n5\n1 4 3 2 1\n3\n1 1 1\n", "2\n1 4\n4 1\n0",
        ["2\n4 1\n1 4\n0"], ["1\n1 4\n0", "2\n1 4\n1 4\n0", "2\n4 1\n1 4\n0\n0", "2\n4 1\n1 4", "3\n4 1\n1 4\n2 3\n0"],
    ),
    "apps_0024": (
        "3\n4\n1\n5\n", "Y 2.0 2.0\nN\nY 3.618033989 1.381966011",
        ["Y 2 2\nN\nY 1.3819660112501 3.6180339887499"],
        ["Y 2 2\nN\nN", "Y 2 2\nY 1 0\nY 3.618033989 1.381966011", "Y 2 2\nN\nY 3.6 1.4", "Y nan nan\nN\nY 2 3",
         "Y 2 2\nN\nY 3.618033989", "Y 2 2\nN\nY 3.618033989 1.381966011 0"],
    ),
    "apps_0033": (
        "1\n4\n", "2\n4 3\n4 2\n3 1", ["2\n2 4\n3 3\n3 1", "2\n4 2\n3 3\n1 3"],
        ["3\n2 4\n3 3\n3 1", "2\n2 4\n3 4\n3 1", "2\n1 2\n2 3\n3 4", "2\n2 4\n3 3", "2\n2 4\n3 3\n3 1\n1 1"],
    ),
    "apps_0041": (
        "1\n4 2\n(())\n", "1\n2 3", ["1\n2 3", "3\n1 1\n2 3\n4 4"],
        ["0", "1\n1 4", "1\n0 3", "1\n3 2", "5\n1 1\n1 1\n1 1\n1 1\n2 3", "1\n2 3 4", "-1"],
    ),
    "apps_0044": (
        "2\n2\n1\n", "8 6\n4\n", ["4 6\n1", "6 8\n3"], ["4 8\n4", "4 4\n4", "9 6\n4", "10 6\n4", "4 3\n4", "4 6"],
    ),
    "apps_2023": ("4\n", "3 4 1 2", ["2 1 4 3", "2 4 1 3"], ["1 2 3 4", "4 3 2 1", "1 2 3", "1 1 3 4", "0 3 1 2"]),
    "apps_2025": (
        "6\n", "4\n2 4 3 5", ["4\n5 4 3 2", "4 2 3 4 5"],
        ["4\n2 3 5 6", "3\n2 3 5", "4\n2 3 4", "5\n2 3 4 5 6", "4\n2 3 4 7", "4\n2 3 4 0"],
    ),
    "apps_2029": (
        "3\n", "YES\n1 4 5 2 3 6", ["YES\n4 5 2 3 6 1", "YES 6 3 2 5 4 1"],
        ["NO", "YES\n1 2 3 4 5 6", "YES\n1 4 5 2 3", "YES\n1 4 5 2 3 7", "YES"],
    ),
    "apps_2033": (
        "2\n1 2 2\n", "ambiguous\n0 1 1 3 3\n0 1 1 3 2",
        ["ambiguous\n0 1 1 2 3\n0 1 1 2 2", "ambiguous\n2 0 2 1 1\n2 0 2 1 3"],
        ["perfect", "ambiguous\n0 1 1 3 3\n0 1 1 2 2", "ambiguous\n0 1 1 3 2\n0 1 1 2 3",
         "ambiguous\n0 1 1 1 2\n0 1 1 3 3",
         "ambiguous\n0 1 1 3 3", "ambiguous\n0 1 1 9 3\n0 1 1 3 2", "ambiguous\n0 1 1 5 4\n0 1 1 3 2"],
    ),
    "apps_2365": (
        "1\n4\n2 1 2\n2 2 3\n2 3 4\n", "1 2 3 4", ["4 3 2 1"], ["1 3 2 4", "1 2 4 3", "1 2 3", "1 2 3 3", "1 2 3 4 5"],
    ),
    "apps_2378": (
        "2\nLRU\nLLUURRDD\n", "2\nLR\n8\nLLUURRDD", ["2\nRL\n8\nUURRDDLL"],
        ["2\nLR\n4\nLURD", "2\nUD\n8\nLLUURRDD", "2\nLR\n8\nLRLRUDUD", "0\n8\nLLUURRDD",
         "2\nLRU\n8\nLLUURRDD", "2\nLR\n8\nLLLUUURR"],
    ),
    "apps_2391": (
        "2\n3\n3 1 2\n3\n2 1 3\n", "2\n1 1\n-1", ["2 1 1 -1", "5\n1 1 1 1 1\n-1"],
        ["1\n1\n-1", "-1\n-1", "2\n1 1\n0", "2\n2 2\n-1", "2\n1 1\n-1\n1", "11\n1 1 1 1 1 1 1 1 1 1 1\n-1", "-2\n-1"],
    ),
    "apps_2398": (
        "2\n4\n1 2 2 1\n3 4 3 4\n3\n1 1 2\n3 2 2\n", "2\n3 4\n-1", ["2 1 2 -1", "2\n4 3\n-1"],
        ["2\n1 3\n-1", "0\n\n-1", "-1\n-1", "2\n3 5\n-1", "2\n0 3\n-1", "2\n3 3\n-1", "2\n3 4\n0", "2\n3 4\n-1\n2"],
    ),
    "apps_2400": (
        "2\n5\n1 2 1 2 2\n3\n7 7 7\n", "2\n1 2 1 2 2\n1\n1 1 1", ["2\n2 1 2 1 1\n1\n1 1 1"],
        ["2\n1 2 1 2 1\n1\n1 1 1", "3\n1 2 3 1 2\n1\n1 1 1", "2\n1 2 1 2 2\n1\n1 1 2", "2\n1 2 1 2\n1\n1 1 1",
         "2\n0 2 0 2 2\n1\n1 1 1"],
    ),
}  # fmt: skip


def accepts(name: str, given: str, expected: str, actual: str) -> bool:
    """What a checker says. One that raises an exception rejects the answer, as in the sandbox."""
    try:
        return import_module(f"rltf.problems.checkers.{name}").check(given, expected, actual) is True
    except Exception:  # noqa: BLE001 - whatever the answer makes of it
        return False


@pytest.mark.parametrize("name", CASES)
def test_checkers_tell_right_answers_from_wrong_ones(name: str) -> None:
    given, expected, right, wrong = CASES[name]
    assert accepts(name, given, expected, expected)
    assert [answer for answer in right if not accepts(name, given, expected, answer)] == []
    assert [answer for answer in wrong if accepts(name, given, expected, answer)] == []


def test_every_checker_is_tested_and_belongs_to_a_statement() -> None:
    files = {path.stem for path in Path(checkers.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == CASES.keys() == set(checkers._FILES.values())


def test_other_statements_have_no_checker() -> None:
    assert known_checker("Print the sum.") is None


@needs_data
def test_the_layout_of_a_statement_does_not_matter() -> None:
    statement = (DATA / "apps/train/0044/question.txt").read_text()
    found = known_checker(statement)
    assert isinstance(found, Checker)
    assert "def check(" in found.source
    assert known_checker(statement.replace("\n", " \r\n ")) == found
    assert known_checker(statement + " Print them in ascending order.") is None

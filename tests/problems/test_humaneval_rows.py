"""Rows of HumanEval: the asserts of a test become tests of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rltf.errors import UserError
from rltf.problems import load

HUMANEVAL_ROW = {
    "task_id": "HumanEval/0",
    "prompt": 'def helper(x):\n    return x\n\ndef f(x):\n    """Doc."""\n',
    "entry_point": "f",
    "canonical_solution": "    return x\n",
    "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(1) == 1, 'message'\n    assert True\n",
}


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_humaneval_asserts_become_separate_tests(tmp_path: Path) -> None:
    test = (
        "def check(candidate):\n    print\n    xs = list(range(3))\n    total = sum(xs)\n"
        "    assert candidate(xs) == total\n    assert True\n    import random\n"
        "    for i in range(3):\n        assert candidate(helper(i)) == i\n    assert candidate(9) == 9\n"
    )
    file = write_lines(tmp_path / "h.jsonl", [HUMANEVAL_ROW, HUMANEVAL_ROW | {"task_id": "HumanEval/1", "test": test}])
    first, second = load(f"humaneval:{file}").problems
    assert [test.assertion for test in first.tests if hasattr(test, "assertion")] == ["assert f(1) == 1"]
    assert first.references == ("    return x\n",)
    assert getattr(second.tests[0], "assertion", "") == "assert f(list(range(3))) == sum(list(range(3)))"
    source = getattr(second.tests[1], "source", "")
    assert len(second.tests) == 2
    assert "def helper" in source
    assert "def f(" not in source
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    namespace["check"](lambda x: x)
    with pytest.raises(AssertionError):
        namespace["check"](lambda x: 0)


def humaneval_tests(tmp_path: Path, test: str) -> list[Any]:
    file = write_lines(tmp_path / "h.jsonl", [HUMANEVAL_ROW | {"test": test}])
    return list(load(f"humaneval:{file}").problems[0].tests)


def test_humaneval_asserts_get_the_imports_they_use(tmp_path: Path) -> None:
    tests = humaneval_tests(
        tmp_path,
        "import math, json\ndef check(candidate):\n    assert candidate(math.floor(1.5)) == 1\n"
        "    from fractions import Fraction\n    assert candidate(Fraction(1, 2)) == 0.5\n"
        "    assert candidate(3) == 3\n",
    )
    assert [(test.assertion, test.setup) for test in tests] == [
        ("assert f(math.floor(1.5)) == 1", "import math, json"),
        ("assert f(Fraction(1, 2)) == 0.5", "from fractions import Fraction"),
        ("assert f(3) == 3", ""),
    ]


@pytest.mark.parametrize(
    ("before", "condition"),
    [
        ("PAIR = [1, 2]", "candidate(PAIR) == [1, 2]"),
        ("def make(*a):\n    return list(a)", "candidate(make(1, 2)) == [1, 2]"),
        ("class T:\n    v = 3", "candidate(T.v) == 3"),
        ("A = 1\nB = A + 1", "candidate(x=B) == 2"),
        ("NAMES = []\nNAMES.append(4)", "candidate(NAMES) == [4]"),
    ],
)
def test_humaneval_asserts_keep_the_names_of_their_module(tmp_path: Path, before: str, condition: str) -> None:
    asserts = f"    assert candidate(0) == 0\n    assert {condition}\n    assert candidate(1) == 1\n"
    test = f"{before}\ndef check(candidate):\n{asserts}\ncheck(f)\n"
    plain, carried, last = humaneval_tests(tmp_path, test)
    assert [plain.assertion, last.assertion] == ["assert f(0) == 0", "assert f(1) == 1"]
    namespace: dict[str, Any] = {}
    exec(carried.source, namespace)
    namespace["check"](lambda x: x)
    with pytest.raises(AssertionError):
        namespace["check"](lambda x: None)


def test_humaneval_comprehension_variables_are_not_replaced(tmp_path: Path) -> None:
    test = "def check(candidate):\n    x = 5\n    assert candidate(3) == sum([x for x in (1, 2)])\n"
    (kept,) = humaneval_tests(tmp_path, test)
    namespace: dict[str, Any] = {}
    exec(kept.source, namespace)
    namespace["check"](lambda x: x)


def test_humaneval_asserts_that_call_a_helper_are_kept(tmp_path: Path) -> None:
    test = "def good():\n    return f(1) == 1\ndef check(candidate):\n    assert good()\n"
    (kept,) = humaneval_tests(tmp_path, test)
    assert "assert good()" in kept.source


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ("def check(candidate):\n    assert candidate(N) == 1\n", "nothing defines: N"),
        ("def check(candidate):\n    for i in range(N):\n        assert candidate(i) == i\n", "nothing defines: N"),
        ("def check(candidate):\n    return\n    yield = 3\n", "not Python"),
        ("def check(candidate):\n    nonlocal x\n    assert candidate(1) == x\n", "does not compile"),
        ("def check(candidate):\n    inputs = [[1]]\n    results = [1]\n", "expected a loop over inputs"),
    ],
)
def test_humaneval_modules_that_nothing_could_pass_are_refused(tmp_path: Path, test: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        humaneval_tests(tmp_path, test)


def test_humaneval_rows_that_test_nothing(tmp_path: Path) -> None:
    rows = [
        HUMANEVAL_ROW,
        HUMANEVAL_ROW | {"task_id": "a", "test": "def check(candidate):\n    assert True\n"},
        HUMANEVAL_ROW | {"task_id": "b", "test": "pass"},
        HUMANEVAL_ROW | {"task_id": "c", "entry_point": ""},
    ]
    loaded = load(f"humaneval:{write_lines(tmp_path / 'h.jsonl', rows)}")
    reasons = [row.reason for row in loaded.rejected]
    assert reasons == [
        "test: check(candidate) tests nothing",
        "test: expected a function check(candidate)",
        "entry_point: missing or empty",
    ]

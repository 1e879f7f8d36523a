"""KodCode: pytest functions become asserts, checks, and asserts about objects of the program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from errors import UserError
from problems import AssertTest, CheckTest, Problem, load
from problems.prompts import render_prompt

SOLUTION = """import math

def add(a, b=0, *more) -> int:
    return a + b + sum(more)

class Queue(list):
    def put(self, x):
        self.append(x)
        return len(self)
"""
RAISES = """import pytest
from solution import add

def test_add():
    with pytest.raises(TypeError):
        add()
"""
IN_A_LOOP = """from solution import Queue

def test_queue():
    queue = Queue()
    for x in 1, 2:
        assert queue.put(x)
"""


def read(tmp_path: Path, test: str, **changed: Any) -> Problem:
    row = {"question_id": "Filter_1_I", "question": "Add numbers.", "solution": SOLUTION, "test": test}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row | {"gpt_difficulty": "easy"} | changed) + "\n")
    return load(f"kodcode:{file}").problems[0]


def test_functions_of_asserts_become_assert_tests(tmp_path: Path) -> None:
    problem = read(
        tmp_path,
        "import pytest\nimport math\nfrom solution import add\n\n"
        'def test_add():\n    """Adds."""\n    assert add(1, 2) == 3, "three"\n    assert add(1) == math.floor(1.5)\n\n'
        "def test_more():\n    assert add(1, 2, 3)\n    assert True\n\n"
        "if __name__ == '__main__':\n    pytest.main()\n",
    )
    assert problem.tests == (
        AssertTest("assert add(1, 2) == 3"),
        AssertTest("assert add(1) == math.floor(1.5)", "import math"),
        AssertTest("assert add(1, 2, 3)"),
    )
    assert (problem.task_id, problem.difficulty, problem.entry_point) == ("Filter_1_I", "easy", "add")
    assert problem.references == (SOLUTION,)
    assert "Add numbers.\ndef add(a, b=0, *more) -> int:\n" in render_prompt(problem)
    shown = read(tmp_path, "def test_a():\n    assert add(1) == 1\n", question="def add(a, b=0, *more):")
    assert shown.starter_code == ""


def test_other_functions_become_checks_with_what_they_use(tmp_path: Path) -> None:
    problem = read(
        tmp_path,
        "from solution import add\nPAIRS = [(1, 1), (2, 2)]\n\ndef total(xs):\n    return add(*xs)\n\n"
        "def test_pairs():\n    for number, expected in PAIRS:\n        assert add(number) == expected\n\n"
        "def test_total():\n    assert total([1, 2]) == 3\n\n"
        "def test_alias():\n    result = add(1)\n    assert result == 1\n",
    )
    assert all(isinstance(test, CheckTest) and test.entry_point == "add" for test in problem.tests)
    assert len(problem.tests) == 3
    for test in problem.tests:
        assert isinstance(test, CheckTest)
        right: dict[str, Any] = {"add": lambda *xs: sum(xs)}
        exec(test.source, right)
        right["check"](None)
        wrong: dict[str, Any] = {"add": lambda *xs: 99}
        exec(test.source, wrong)
        with pytest.raises(AssertionError):
            wrong["check"](None)


def test_asserts_about_objects_repeat_earlier_calls_without_their_answers(tmp_path: Path) -> None:
    problem = read(
        tmp_path,
        "from solution import Queue\n\ndef test_queue():\n    queue = Queue()\n    assert queue.put(5) == 1\n"
        "    queue.put(6)\n    size = len(queue)\n    assert size == 2\n    assert not queue.put(7) == 4\n",
    )
    assert problem.tests == (
        AssertTest("assert queue.put(5) == 1", "queue = Queue()"),
        AssertTest("assert len(queue) == 2", "queue = Queue()\nqueue.put(5)\nqueue.put(6)"),
        AssertTest("assert not queue.put(7) == 4", "queue = Queue()\nqueue.put(5)\nqueue.put(6)\nlen(queue)"),
    )
    assert problem.starter_code == "class Queue(list):"


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (RAISES, "needs pytest: def test_a"),
        ("import pytest\n@pytest.mark.parametrize('x', [1])\ndef test_a(x):\n    assert add(x) == 1\n", "needs pytest"),
        ("from pytest import approx\ndef test_a():\n    assert add(1) == approx(1)\n", "needs pytest"),
        ("from solution import add\ndef test_a(capsys):\n    assert add(1) == 1\n", "needs pytest"),
        ("from solution import add\nclass TestAdd:\n    def test_a(self): assert add(1) == 1\n", "class TestAdd"),
        ("import solution\ndef test_a():\n    assert solution.add(1) == 1\n", "got `import solution`"),
        ("from solution import add as f\ndef test_a():\n    assert f(1) == 1\n", "renames"),
        ("from solution import add\ndef test_a():\n    assert True\n", "no test function tests the program"),
        (IN_A_LOOP, "asserts inside a block about objects"),
        ("from solution import Queue\ndef test_a():\n    assert Queue() == Queue()\n", "Queue"),
        ("from solution import add\ndef test_a():\n    assert add(N) == other(1)\n", "nothing defines: N, other"),
        ("def check(x):\n    return add(x)\ndef test_a():\n    assert check(1) == 1\n", "named check"),
        ("def test_a(:\n", "test is not Python"),
    ],
)
def test_rows_that_cannot_be_read(test: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        read(tmp_path, test)

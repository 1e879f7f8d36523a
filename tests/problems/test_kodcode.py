"""KodCode: pytest functions become asserts, checks, and asserts about objects of the program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rltf.errors import UserError
from rltf.problems import AssertTest, CheckTest, Problem, load
from rltf.problems.prompts import render_prompt

SOLUTION = """import math

def add(a, b=0, *more) -> int:
    return a + b + sum(more)

class Queue(list):
    def put(self, x):
        self.append(x)
        return len(self)
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


EXPECTING = """import pytest
from solution import add

def test_add():
    with pytest.raises(TypeError, match="unsupported"):
        add(1, "a")
    with pytest.raises((ValueError, TypeError)) as caught:
        add("a", 1)
    assert "str" in str(caught.value)

def test_approx():
    assert add(0.1, 0.2) == pytest.approx(0.3)
    assert {"a": [add(1)]} != pytest.approx({"a": 1})
    assert (add(1), add(2.0)) == pytest.approx([1.001, 2], abs=0.01)
    assert add(1) != pytest.approx(1.1)
"""


def test_exceptions_and_approximate_values_need_no_pytest(tmp_path: Path) -> None:
    def fails(test: Any, program: Any) -> bool:
        namespace: dict[str, Any] = {"add": program}
        exec(test.source, namespace)
        try:
            namespace["check"](None)
        except (AssertionError, ZeroDivisionError):
            return True
        return False

    def right(a: Any, b: Any = 0) -> Any:
        return a + b

    programs = [right, lambda *xs: 1, lambda *xs: 1 / 0, lambda a, b=0: a + b + 0.01]
    tests = read(tmp_path, EXPECTING).tests
    assert [[fails(test, program) for test in tests] for program in programs] == [
        [False, False],
        [True, True],
        [True, True],
        [False, True],
    ]


def test_functions_that_return_objects_are_asked_in_the_program(tmp_path: Path) -> None:
    solution = SOLUTION + "\ndef filled(*xs):\n    return Queue(xs)\n\ndef total(queue):\n    return sum(queue)\n"
    test = "from solution import filled, total\ndef test_a():\n    queue = filled(1, 2)\n    assert total(queue) == 3\n"
    problem = read(tmp_path, test, solution=solution)
    assert problem.tests == (AssertTest("assert total(queue) == 3", "queue = filled(1, 2)"),)


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
        ("import pytest\ndef test_a():\n    with pytest.warns(Warning):\n        add(1)\n", "needs pytest: def test_a"),
        ("import pytest\ndef test_a():\n    with pytest.raises(ValueError):\n        Queue(1, 2)\n", "needs pytest"),
        ("async def test_a():\n    assert await add(1) == 1\n", "needs pytest: async def test_a"),
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

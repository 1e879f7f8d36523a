"""The examples in statements: every way of writing them, and what is no example."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.problems import AssertTest, CallTest, Problem, StdinTest, Test, apps, custom, humaneval, leetcode, mbpp
from rltf.problems.examples import examples_of, reason_for_none
from rltf.problems.fingerprints import fingerprints, short_fingerprints
from rltf.problems.types import UnusableRowError

HIDDEN = (StdinTest("100 200\n", "300\n"),)
FIRST, SECOND = StdinTest("1 2\n", "3\n"), StdinTest("4\n5\n", "9\n\n1\n")
PAIRS = "Input\n1 2\n\nOutput\n3\n\nInput\n4\n5\n\nOutput\n9\n\n1\n"
CODEFORCES = f"Add.\n\n-----Input-----\n\nTwo numbers.\n\n-----Output-----\nOne.\n\n-----Examples-----\n{PAIRS}"
STATEMENTS = {
    "APPS": CODEFORCES,
    "with a note": f"{CODEFORCES}\n\n-----Note-----\n\nInput and output are easy.\n",
    "CodeContests": f"Add.\n\nInput\n\nTwo numbers.\n\nOutput\n\nOne.\n\nExamples\n\n{PAIRS}\n\nNote\n\nAs\n\nhere.\n",
    "AtCoder": (
        "-----Input-----\nA B\n\n-----Sample Input-----\n1 2\n\n-----Sample Output-----\n3\n\n"
        "The sum of 1 and 2 is 3.\n\n-----Sample Input-----\n4\n5\n\n-----Sample Output-----\n9\n\n1\n"
    ),
    "numbered": (
        "Sample Input 1:\n1 2\nSample Output 1:\n3\nExplanation:\nx\nSample Input 2:\n4\n5\nSample Output 2:\n9\n\n1"
    ),
    "HackerEarth": (
        "SAMPLE INPUT\n1 2\n\nSAMPLE OUTPUT\n3\n\nExplanation\n\n1\n2\n\n"
        "Sample Input 2\n4\n5\nSample Output 2\n9\n\n1\n"
    ),
    "CodeChef": (
        "-----Example Input-----\n1 2\n\n-----Example Output-----\n3\nExplanation: 1 + 2 is 3.\n\n"
        "-----Example 2-----\nInput #2:\n4\n5\nOutput #2:\n9\n\n1\n"
    ),
    "fenced": (
        "## Examples\n\n### Example 1\n\n**Input**:\n```\n1 2\n```\n\n**Output**:\n```\n3\n```\n\n"
        "### Example 2\n\n**Input**:\n```text\n4\n5\n```\n\n**Output**:\n```\n9\n\n1\n```\n\n"
        "## Testing\n\n```bash\n./run\n```"
    ),
}


@pytest.mark.parametrize("form", STATEMENTS)
def test_input_and_output_in_a_statement(form: str) -> None:
    assert examples_of(STATEMENTS[form], HIDDEN) == (FIRST, SECOND)


@pytest.mark.parametrize(
    "statement",
    [
        "Add two numbers.\n\nInput\n\n1 2\n\nOutput\n\n3\n",  # without a heading that says that these are examples
        "-----Examples-----\nInput\n1 2\nInput\n3 4\nOutput\n3\n",
        "-----Examples-----\nInput\n1 2\n",
        "-----Examples-----\nOutput\n3\nInput\n1 2\n",
        "-----Example-----\nInput\n1 2\nOutput\n\n-----Note-----\n",
    ],
)
def test_what_cannot_be_read_exactly_is_no_example(statement: str) -> None:
    assert examples_of(statement, HIDDEN) == ()


def test_examples_that_are_all_of_the_tests_are_none() -> None:
    assert examples_of(CODEFORCES, (FIRST, StdinTest("4 5", "9 1"))) == ()
    assert examples_of(CODEFORCES, (FIRST, *HIDDEN)) == (FIRST, SECOND)
    assert examples_of("", (FIRST, SECOND), num_visible=1) == (FIRST,)
    assert examples_of("", (FIRST, SECOND), num_visible=2) == ()


def test_an_example_with_another_answer_than_a_test_is_dropped() -> None:
    assert examples_of(CODEFORCES, (StdinTest("1 2", "4"), *HIDDEN)) == (SECOND,)
    rounded = "-----Example-----\nInput\n2\n\nOutput\n0.333\n"
    assert examples_of(rounded, (StdinTest("2", "0.33333333"), *HIDDEN)) == (StdinTest("2\n", "0.333\n"),)
    assert examples_of(rounded, (StdinTest("2", "0.43333333"), *HIDDEN)) == ()


def test_calls_in_a_statement_of_leetcode() -> None:
    hidden = (CallTest("f", ([1], 7), True),)
    statement = (
        'Example 1:\nInput: nums = [1, -2, "a, b"], k = 2\nOutput: true\nExplanation: a\n\n'
        "**Example 2:**\n\n**Input:** k = null, nums = []\n**Output:** [[0.5]]\n"
        "Example 3:\nInput: nums = [1,2], k = 1\nOutput: 5, nums = [2,2]\n"
        "Example 4:\nInput: nums = [1,2]\nOutput: 5\n"
    )
    first = CallTest("f", ([1, -2, "a, b"], 2), True)
    assert examples_of(statement, hidden, parameters=("nums", "k")) == (first, CallTest("f", ([], None), [[0.5]]))
    assert examples_of(statement, hidden)[0] == first


def test_apps_with_quotes_in_its_tests() -> None:
    row = {
        "problem_id": 2401,
        "question": 'Example 1:\nInput: s = "ab"\nOutput: true\nExample 2:\nInput: s = "c"\nOutput: false\n',
        "input_output": json.dumps({"fn_name": "f", "inputs": [['"ab"'], ['"z"']], "outputs": [True, False]}),
    }
    assert apps.to_problem(row).examples == (CallTest("f", ("ab",), True), CallTest("f", ("c",), False))


PROMPT = '''
def helper(n):
    """ >>> f(9) """

def f(xs, n):
    """ Add n to all.
    >>> f([1, 2], 3)
    [4, 5]
    >>> f([], n=3)
    []
    >>> g(1)
    2
    >>> f([1],
    ...   float("inf"))
    [inf]
    >>> print(f([1], 1))
    [2]
    >>> f([5], 1) == [6]
    >>> f([5], 2) == [7]
    True
    """
'''


def test_doctests_of_humaneval() -> None:
    test = "def check(candidate):\n    assert candidate([1, 2], 3) == [4, 5]\n    assert candidate([7], 7) == [14]\n"
    row = {"task_id": "HumanEval/0", "prompt": PROMPT, "entry_point": "f", "test": test}
    shown = ("f([1, 2], 3) == [4, 5]", "f([1], float('inf')) == [inf]", "f([5], 1) == [6]")
    assert humaneval.to_problem(row).examples == tuple(AssertTest(f"assert {one}") for one in shown)
    only_shown = "def check(candidate):\n    assert candidate([1, 2], 3) == [4, 5]\n"
    assert humaneval.to_problem(row | {"test": only_shown}).examples == ()


def test_mbpp_has_no_examples() -> None:
    row = {"task_id": 1, "text": "Double.", "code": "def f(x): return 2 * x", "test_list": ["assert f(1) == 2"]}
    problem = mbpp.to_problem(row)
    assert problem.examples == ()
    assert "shows all tests that grade a program" in reason_for_none(problem)
    more = mbpp.to_problem(row | {"hidden_test_list": ["assert f(2) == 4"]})
    assert more.examples == more.tests[:1]


def test_leetcode_shows_examples_in_the_order_of_the_parameters() -> None:
    row = {
        "task_id": "sub",
        "prompt": "import math\n",
        "entry_point": "Solution().sub",
        "starter_code": "class Solution:\n    def sub(self, a: int, b: int) -> int:\n        ",
        "problem_description": "Example 1:\n\nInput: b = 1, a = 3\nOutput: 2\n",
        "test": "def check(candidate):\n    assert candidate(a = 9, b = 1) == 8\n",
    }
    assert leetcode.to_problem(row).examples == (CallTest("sub", (3, 1), 2),)


def own(**fields: Any) -> Problem:
    tests = [{"stdin": "1 2\n", "expected": "3\n"}, {"stdin": "100 200\n", "expected": "300\n"}]
    return custom.to_problem({"task_id": "sum", "statement": "Add.", "tests": tests} | fields)


def test_examples_of_your_own_rows() -> None:
    explicit = [{"stdin": "4\n5\n", "expected": "9\n\n1\n"}]
    assert own().examples == ()
    assert own(num_visible_tests=1).examples == (FIRST,)
    assert own(num_visible_tests=1, examples=explicit).examples == (SECOND,)
    for problem in (own(), own(num_visible_tests=1), own(examples=explicit), own(num_visible_tests=1, examples=[])):
        assert custom.to_problem(custom.to_row(problem)) == problem
    assert "examples" not in custom.to_row(own(num_visible_tests=1))
    with pytest.raises(UnusableRowError, match="examples: all of the tests"):
        own(examples=[{"stdin": "100 200", "expected": "300"}, {"stdin": "1 2", "expected": "3"}])


def test_examples_leave_the_fingerprints_alone() -> None:
    problem = own()
    shown = replace(problem, examples=(FIRST,))
    assert fingerprints([problem]) == fingerprints([shown])
    assert short_fingerprints([problem]) == short_fingerprints([shown])


@given(st.lists(st.sampled_from([*STATEMENTS.values(), "Input", "Output:", "-----Example-----", "```", "x\n\n"])))
def test_any_statement_gives_whole_examples(parts: list[str]) -> None:
    found: tuple[Test, ...] = examples_of("\n".join(parts), HIDDEN)
    assert all(isinstance(one, StdinTest) and one.expected.strip() for one in found)

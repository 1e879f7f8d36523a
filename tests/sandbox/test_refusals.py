"""Problems whose values or texts do not fit through the grader are refused, with the place and the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rltf.problems.types import (
    AnswerRule,
    AssertTest,
    CallTest,
    Checker,
    CheckerForm,
    CheckTest,
    Order,
    Problem,
    ReferenceTest,
    StdinTest,
    Test,
)
from rltf.sandbox.admission import reason_to_refuse
from rltf.sandbox.codec import MAX_DEPTH
from rltf.settings import SandboxSettings

LIMITS = SandboxSettings(output_bytes=1000)
PROBLEM = Problem("p", "jsonl", "Add.", (StdinTest("1", "2"),))


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (StdinTest("1", "x" * 1000), r"tests\[0\]: expects 1000 bytes of output; the limit is 1000"),
        (StdinTest("\ud800", "1"), r"tests\[0\]: input: holds a lone surrogate"),
        (StdinTest("1", "\udc80"), "expected output: holds a lone surrogate"),
        (CallTest("f", (nested(MAX_DEPTH),), 1), "arguments: the value is nested deeper"),
        (CallTest("f", (1,), "x" * 1000), "expected value: the value takes more than 999 bytes"),
        (CallTest("f", (1,), object()), "expected value: a value of type object is not plain data"),
        (AssertTest(f"assert f(1) == {'x' * 1000!r}"), "expected value: the value takes more than"),
        (AssertTest("assert f(1) == 2", "x = '\ud800'"), "lone surrogate"),
        (AssertTest("assert f(1).val == 2"), "no plain value has"),
        (AssertTest("assert f(1) == 2", "import numpy.linalg as la"), r"tests\[0\]: imports numpy, which is"),
        (CheckTest("def check(c):\n  from pandas import Series\n  assert c(1) == 2", "f"), "imports pandas, which is"),
        (CheckTest("from .other import f\ndef check(c): assert c(1) == f(1)", "f"), "imports ., which is"),
    ],
)
def test_tests_that_no_program_can_pass_are_refused(test: Test, reason: str) -> None:
    found = reason_to_refuse(LIMITS)(replace(PROBLEM, tests=(test,)))
    assert found is not None
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found)


@pytest.mark.parametrize("field", ["task_id", "statement", "starter_code", "code_prefix"])
def test_texts_that_are_not_utf8_are_refused(field: str) -> None:
    changed: Any = {field: "a\ud800"}
    assert "lone surrogate" in str(reason_to_refuse(LIMITS)(replace(PROBLEM, **changed)))
    assert "references[0]" in str(reason_to_refuse(LIMITS)(replace(PROBLEM, references=("\ud800",))))


CHECK = "def check(input, expected, actual):\n    return True\n"
IN_ANY_ORDER = AnswerRule(any_order=Order.ITEMS)


@pytest.mark.parametrize(
    ("test", "checker", "reason"),
    [
        (AssertTest("assert f(1) == 2"), AnswerRule(ignore_case=True), "checker: the problem has only assertions"),
        (StdinTest("1", "2"), Checker("x = 1"), r"expected a function check\(input, expected, actual\)"),
        (StdinTest("1", "2"), Checker("def check(a, b, c"), "checker is not Python"),
        (CallTest("f", (1,), 2), Checker("exit(0)", CheckerForm.PROGRAM), "all tests must be stdin tests"),
        (StdinTest("1", "2"), IN_ANY_ORDER, "any_order is items; expected lines or tokens for stdin tests"),
        (CallTest("f", (1,), 2), AnswerRule(any_order=Order.LINES), "any_order is lines; expected items for calls"),
        (CallTest("f", (1,), [0] * 1001), IN_ANY_ORDER, r"tests\[0\]: 1001 items in any order; at most 1000"),
        (ReferenceTest("f", (1,)), None, r"tests\[0\]: expects what a reference returns"),
    ],
)
def test_checkers_that_do_not_fit_are_refused(test: Test, checker: AnswerRule | Checker | None, reason: str) -> None:
    found = reason_to_refuse(LIMITS)(replace(PROBLEM, tests=(test,), checker=checker))
    assert found is not None
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found)


@pytest.mark.parametrize("checker", [Checker(CHECK), Checker("exit(0)", CheckerForm.PROGRAM), AnswerRule(Order.LINES)])
def test_checkers_that_fit_are_accepted(checker: AnswerRule | Checker) -> None:
    assert reason_to_refuse(LIMITS)(replace(PROBLEM, checker=checker)) is None
    unordered = replace(PROBLEM, tests=(CallTest("f", (1,), [0] * 100),), checker=IN_ANY_ORDER)
    assert reason_to_refuse(LIMITS)(unordered) is None


def test_everything_else_is_accepted() -> None:
    tests = (
        StdinTest("1", "x" * 999),
        CallTest("f", ("\ud800",), [1.5, None, {"a": [True]}]),
        AssertTest("assert f(1) == Counter('aab')"),
        AssertTest("assert len(f(1)) == 2"),
        AssertTest("assert f(1) == 2", "import os.path, json as j\nfrom collections.abc import Set"),
    )
    assert reason_to_refuse(LIMITS)(replace(PROBLEM, tests=tests)) is None

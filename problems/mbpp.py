"""MBPP (Austin et al. 2021): rows of text, code and assert statements, including the hand-checked "sanitized" rows."""

from __future__ import annotations

import ast
from typing import Any

from rltf.problems.assertions import classes_in, function_under_test, parse_assertion, split_assertion
from rltf.problems.examples import examples_of
from rltf.problems.fields import text_of, texts_of
from rltf.problems.scope import parse_module
from rltf.problems.types import AssertTest, Problem, UnusableRowError

# The paper's splits: the first and last task id of each.
SPLITS = {"prompt": (1, 10), "test": (11, 510), "validation": (511, 600), "train": (601, 974)}


def task_id_of(row: Any) -> str | None:
    """The row's number, as text."""
    value = row.get("task_id") if isinstance(row, dict) else None
    return str(value) if isinstance(value, int | str) and str(value).isdigit() else None


def to_problem(row: Any) -> Problem:
    """An MBPP row as a `Problem`. The statement shows every assert of `test_list`, as the benchmark does.

    The asserts of `hidden_test_list`, which augmented rows have, are not shown. Raises UnusableRowError for a missing
    field, or a test that is not an assert statement.
    """
    task_id = task_id_of(row)
    if task_id is None:
        raise UnusableRowError("task_id: expected MBPP's number")
    statement = row.get("text") or row.get("prompt")
    if not isinstance(statement, str) or not statement.strip():
        raise UnusableRowError("text (prompt in the sanitized rows): missing or empty")
    code = _unix(text_of(row, "code"))
    setup = "\n".join([*texts_of(row, "test_imports"), _unix(row.get("test_setup_code") or "")]).strip()
    shown = [_unix(assertion).strip() for assertion in texts_of(row, "test_list")]
    assertions = [*shown, *texts_of(row, "hidden_test_list")]
    if not shown:
        raise UnusableRowError("test_list: no tests")
    if row.get("test"):
        raise UnusableRowError("test: MBPP rows keep their tests in test_list; no other tests can be run")
    tests = tuple(AssertTest(one, setup, classes_in(one, (code,))) for one in assertions)
    body = parse_module(code, "code").body
    defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for test in tests:
        split_assertion(test.assertion, test.setup, test.classes)
    return Problem(
        task_id=task_id,
        benchmark="mbpp",
        statement=statement,
        tests=tests,
        references=(code,),
        entry_point=function_under_test([parse_assertion(assertion) for assertion in assertions], defined),
        num_visible_tests=len(shown),
        examples=examples_of(statement, tests, num_visible=len(shown)),
    )


def to_row(problem: Problem) -> dict[str, Any]:
    """The MBPP row of a problem; tests that are not shown go into `hidden_test_list`."""
    tests = [test for test in problem.tests if isinstance(test, AssertTest)]
    shown = problem.num_visible_tests
    return {
        "task_id": int(problem.task_id),
        "text": problem.statement,
        "code": problem.references[0],
        "test_setup_code": tests[0].setup,
        "test_list": [test.assertion for test in tests[:shown]],
        "hidden_test_list": [test.assertion for test in tests[shown:]],
    }


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")

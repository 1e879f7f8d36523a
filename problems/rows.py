"""Problems as rows of their benchmark's own format, which `load` reads back as the same problems."""

from __future__ import annotations

import ast
import json
from typing import Any

from errors import UserError
from problems import apps, custom, humaneval, mbpp
from problems.types import AssertTest, CallTest, CheckTest, Problem, StdinTest, Test

_READERS = {
    "apps": apps.to_problem,
    "humaneval": humaneval.to_problem,
    "jsonl": custom.to_problem,
    "mbpp": mbpp.to_problem,
}


def row_of(problem: Problem) -> dict[str, Any]:
    """The row of a problem.

    Raises:
        UserError: a problem of a benchmark without rows.
    """
    writers = {"apps": _apps_row, "humaneval": _humaneval_row, "jsonl": _own_row, "mbpp": _mbpp_row}
    writer = writers.get(problem.benchmark)
    if writer is None:
        raise UserError(
            f"{problem.benchmark} problems are not read from rows; those of {', '.join(writers)} can be written"
        )
    return writer(problem)


def read_row(benchmark: str, row: dict[str, Any]) -> Problem:
    """The problem of a row that went through JSON."""
    return _READERS[benchmark](json.loads(json.dumps(row)))


def _apps_row(problem: Problem) -> dict[str, Any]:
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


def _mbpp_row(problem: Problem) -> dict[str, Any]:
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


def _humaneval_row(problem: Problem) -> dict[str, Any]:
    return {
        "task_id": problem.task_id,
        "prompt": problem.code_prefix,
        "entry_point": problem.entry_point,
        "canonical_solution": problem.references[0] if problem.references else "",
        "test": _check_module(problem),
    }


def _check_module(problem: Problem) -> str:
    """One `check(candidate)` of all tests: the asserts first, then what did not split."""
    module = ast.parse("def check(candidate): pass")
    body: list[ast.stmt] = []
    before: list[ast.stmt] = []
    candidate = "candidate"
    prompt = {ast.unparse(node) for node in ast.parse(problem.code_prefix).body}
    # What did not split goes last: it takes every statement behind it along.
    for test in sorted(problem.tests, key=_is_rest):
        if isinstance(test, AssertTest):
            before += ast.parse(test.setup).body
            body += ast.parse(test.assertion).body
        elif isinstance(test, CheckTest):
            *helpers, check = ast.parse(test.source).body
            assert isinstance(check, ast.FunctionDef)
            candidate = check.args.args[0].arg
            before += [node for node in helpers if ast.unparse(node) not in prompt]
            body += check.body
    before = list({ast.unparse(node): node for node in before}.values())
    function = module.body[0]
    assert isinstance(function, ast.FunctionDef)
    function.args.args[0].arg = candidate
    function.body = body
    module.body[:0] = before
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == problem.entry_point]
    for name in names:
        name.id = candidate
    return ast.unparse(ast.fix_missing_locations(module)) + "\n"


def _is_rest(test: Test) -> bool:
    """Whether it is a test function that did not split, rather than one assert with what it uses."""
    if not isinstance(test, CheckTest):
        return False
    check = ast.parse(test.source).body[-1]
    assert isinstance(check, ast.FunctionDef)
    return not all(isinstance(node, ast.Assert | ast.Import | ast.ImportFrom) for node in check.body)


def _own_row(problem: Problem) -> dict[str, Any]:
    return {
        "task_id": problem.task_id,
        "statement": problem.statement,
        "tests": [_own_test(test) for test in problem.tests],
        "references": list(problem.references),
        "difficulty": problem.difficulty,
        "starter_code": problem.starter_code,
        "num_visible_tests": problem.num_visible_tests,
    }


def _own_test(test: Test) -> dict[str, Any]:
    match test:
        case StdinTest(stdin, expected):
            return {"stdin": stdin, "expected": expected}
        case CallTest(function, arguments, expected, _):
            return {"call": function, "arguments": list(arguments), "expected": expected}
        case AssertTest(assertion, setup, _):
            return {"assert": assertion, "setup": setup}
        case CheckTest():
            raise UserError("rows of one's own hold no test functions")

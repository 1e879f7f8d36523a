"""HumanEval+ and MBPP+ of EvalPlus (Liu et al. 2023): many more inputs for HumanEval and MBPP.

Rows come in two formats. On the Hub, `test` is a module with the lists `inputs` and `results` or with a reference
function. It is read as data (`evalplus_module.py`). The rows of EvalPlus's releases hold the inputs as JSON, and their
canonical solution gives the answers. Every input becomes one test, and the benchmark's own rule for answers becomes the
problem's `checker`. A row is used with all of its inputs or not at all.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rltf.problems import humaneval, mbpp
from rltf.problems.assertions import classes_in, split_assertion
from rltf.problems.evalplus_inputs import mbpp_arguments
from rltf.problems.evalplus_module import TestModule, is_test_module, read_test_module, tolerance_of
from rltf.problems.evalplus_rules import RULE_OF_FUNCTION, Rule, checker_of
from rltf.problems.examples import examples_of
from rltf.problems.fields import text_of, texts_of
from rltf.problems.scope import parse_module
from rltf.problems.types import AssertTest, CallTest, Problem, ReferenceTest, Test, UnusableRowError

_MBPP_PREFIX = "Mbpp/"
humaneval_task_id = humaneval.task_id_of


def is_evalplus_row(row: Any) -> bool:
    """Whether a row has the inputs of EvalPlus, in the Hub's format or a release's."""
    if not isinstance(row, dict):
        return False
    return "base_input" in row or "plus_input" in row or is_test_module(row.get("test"))


def mbpp_task_id(row: Any) -> str | None:
    """MBPP's number, without the `Mbpp/` of the releases."""
    value = row.get("task_id") if isinstance(row, dict) else None
    return mbpp.task_id_of({"task_id": value.removeprefix(_MBPP_PREFIX) if isinstance(value, str) else value})


def humaneval_problem(row: Any) -> Problem:
    """A row of HumanEval+ as a `Problem` whose completions continue the prompt, as in HumanEval.

    Raises UnusableRowError for a missing field, or a test module that cannot be read.
    """
    task_id = humaneval_task_id(row)
    if task_id is None:
        raise UnusableRowError("task_id: missing")
    prompt, entry_point, solution = (text_of(row, key) for key in ("prompt", "entry_point", "canonical_solution"))
    module = _read(row, entry_point)
    tests = _tests(module, entry_point)
    return Problem(
        task_id=task_id,
        benchmark="humanevalplus",
        statement=prompt,
        tests=tests,
        references=(solution,),
        entry_point=entry_point,
        code_prefix=prompt,
        checker=checker_of(module.rule, module.tolerance),
        examples=examples_of(prompt, tests, function=entry_point),
    )


def mbpp_problem(row: Any) -> Problem:
    """A row of MBPP+ as a `Problem`. The statement shows the asserts of MBPP, which are tests as well.

    Raises UnusableRowError for a missing field, or a test module that cannot be read.
    """
    task_id = mbpp_task_id(row)
    if task_id is None:
        raise UnusableRowError("task_id: expected MBPP's number")
    if "base_input" in row:
        code, entry_point = text_of(row, "canonical_solution"), text_of(row, "entry_point")
        statement, assertions = _docstring(text_of(row, "prompt")), _assertions(text_of(row, "assertion"))
        setup = ""
        module = _released(row, entry_point, partial(mbpp_arguments, int(task_id)))
    else:
        code, statement = text_of(row, "code"), text_of(row, "prompt")
        assertions, setup = texts_of(row, "test_list"), "\n".join(texts_of(row, "test_imports"))
        module = read_test_module(text_of(row, "test"))
        entry_point = module.function
    shown = tuple(AssertTest(one, setup, classes_in(one, (code,))) for one in assertions)
    for test in shown:
        split_assertion(test.assertion, test.setup, test.classes)
    tests = (*shown, *_tests(module, entry_point))
    return Problem(
        task_id=task_id,
        benchmark="mbppplus",
        statement=statement,
        tests=tests,
        references=(code,),
        entry_point=entry_point,
        num_visible_tests=len(shown),
        checker=checker_of(module.rule, module.tolerance),
        examples=examples_of(statement, tests, num_visible=len(shown)),
    )


def _read(row: dict[str, Any], entry_point: str) -> TestModule:
    if "base_input" not in row:
        module = read_test_module(text_of(row, "test"))
        if module.function not in ("candidate", entry_point):
            raise UnusableRowError(f"test: calls {module.function}, but entry_point is {entry_point}")
        return module
    return _released(row, entry_point, tuple)


def _released(row: dict[str, Any], entry_point: str, arguments: Callable[[list[Any]], tuple[Any, ...]]) -> TestModule:
    """The tests of a release's row. `arguments` gives the values from JSON their types."""
    rule = RULE_OF_FUNCTION.get(entry_point, Rule.CLOSE)
    if rule is Rule.NOT_NONE:
        raise UnusableRowError("canonical_solution: returns an object that cannot be compared; use the Hub's row")
    try:
        inputs = [arguments(one) for one in _release_inputs(row)]
    except (TypeError, ValueError, AttributeError) as error:
        raise UnusableRowError(f"base_input, plus_input: not the arguments of {entry_point}: {error}") from error
    return TestModule(inputs, None, rule, tolerance_of(row.get("atol"), "atol"))


def _tests(module: TestModule, entry_point: str) -> tuple[Test, ...]:
    if module.results is None:
        return tuple(ReferenceTest(entry_point, arguments) for arguments in module.inputs)
    pairs = zip(module.inputs, module.results, strict=True)
    return tuple(CallTest(entry_point, arguments, expected) for arguments, expected in pairs)


def _release_inputs(row: dict[str, Any]) -> list[list[Any]]:
    """The inputs of a release's row. Some problems have no further ones: `plus_input` is then empty."""
    inputs: list[list[Any]] = []
    for key in ("base_input", "plus_input"):
        if key not in row:
            raise UnusableRowError(f"{key}: missing")
        found = row[key] or []
        if not isinstance(found, list) or not all(isinstance(one, list) for one in found):
            raise UnusableRowError(f"{key}: expected a list with a list of arguments per test")
        inputs += found
    if not inputs:
        raise UnusableRowError("base_input: no inputs")
    return inputs


def _docstring(prompt: str) -> str:
    """The text of a release's MBPP prompt: a docstring that ends with an assert."""
    text = ast.get_docstring(parse_module(prompt, "prompt"))
    statement = "\n".join(line for line in (text or "").splitlines() if not line.startswith("assert ")).strip()
    if not statement:
        raise UnusableRowError("prompt: expected a docstring that says what to write")
    return statement


def _assertions(source: str) -> Sequence[str]:
    """The asserts of MBPP in a release's row."""
    return [ast.unparse(node) for node in parse_module(source, "assertion").body if isinstance(node, ast.Assert)]

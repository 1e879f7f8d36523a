"""HumanEval+ and MBPP+: their test modules are read as data, and every input becomes a test."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rltf.errors import UserError
from rltf.problems import AssertTest, CallTest, Problem, load
from rltf.problems.prompts import render_prompt
from rltf.problems.spec import row_of
from rltf.problems.types import AnswerRule, Checker, ReferenceTest
from tests.benchmark_files import benchmark, needs_data

IS_FLOATS = "import numpy as np\nfrom math import inf\n\ndef is_floats(x) -> bool:\n    return isinstance(x, float)\n\n"
CLOSE = (
    "def assertion(out, exp, atol):\n    if atol == 0 and is_floats(exp):\n        atol = 1e-6\n"
    "    if out != exp and atol != 0:\n        assert np.allclose(out, exp, rtol=1e-07, atol=atol)\n"
    '    else:\n        assert out == exp, f"out: {out}, exp: {exp}"\n\n'
)
SETS = CLOSE.replace("    if out != exp", "    out = set(out)\n    exp = set(exp)\n    if out != exp")
NOT_NONE = (
    "def assertion(out, exp, atol):\n    if isinstance(out, bool):\n        exact_match = out == exp\n"
    "    else:\n        exact_match = exp == (out is not None)\n\n"
)
LOOP = "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(twice(*inp), exp, 0)\n"
MBPP_ROW = {
    "task_id": 7,
    "prompt": "Write a function to double.",
    "code": "def twice(x):\n    return 2 * x\n",
    "test_imports": [],
    "test_list": ["assert twice(1) == 2"],
    "test": IS_FLOATS + CLOSE + "inputs = [[1], [2**31], [(inf,)]]\nresults = [2, 2**32, (inf, inf)]\n" + LOOP,
}
HUMANEVAL_ROW = {
    "task_id": "HumanEval/7",
    "prompt": 'def twice(x):\n    """Doubles."""\n',
    "canonical_solution": "    return 2 * x\n",
    "entry_point": "twice",
    "test": IS_FLOATS
    + CLOSE
    + "def ref_func(x):\n    return 2 * x\n\ndef check(candidate):\n    inputs = [[1], [2.5]]\n"
    + "    for i, inp in enumerate(inputs):\n        assertion(candidate(*inp), ref_func(*inp), 0)\n",
}


def module(assertion: str = CLOSE, inputs: str = "[[1]]", results: str = "[2]", loop: str = LOOP) -> dict[str, Any]:
    return MBPP_ROW | {"test": f"{IS_FLOATS}{assertion}inputs = {inputs}\nresults = {results}\n{loop}"}


def read(tmp_path: Path, kind: str, row: dict[str, Any]) -> Problem:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    return load(f"{kind}:{file}").problems[0]


def test_every_input_of_a_module_becomes_a_test(tmp_path: Path) -> None:
    problem = read(tmp_path, "mbppplus", MBPP_ROW)
    assert problem.tests == (
        AssertTest("assert twice(1) == 2"),
        CallTest("twice", (1,), 2),
        CallTest("twice", (2**31,), 2**32),
        CallTest("twice", ((float("inf"),),), (float("inf"), float("inf"))),
    )
    assert problem.checker == AnswerRule(absolute=1e-6, relative=1e-7)
    assert (problem.task_id, problem.entry_point, problem.references) == ("7", "twice", (MBPP_ROW["code"],))
    prompt = render_prompt(problem)
    assert prompt == "Write a function to double.\nYour code should satisfy these tests:\nassert twice(1) == 2\n"


def test_a_reference_function_gives_the_answers(tmp_path: Path) -> None:
    problem = read(tmp_path, "humanevalplus", HUMANEVAL_ROW)
    assert problem.tests == (ReferenceTest("twice", (1,)), ReferenceTest("twice", (2.5,)))
    assert problem.code_prefix == render_prompt(problem) == HUMANEVAL_ROW["prompt"]
    with pytest.raises(UserError, match="humanevalplus problems have no row format"):
        row_of(problem)


def test_rows_of_evalplus_in_files_of_the_base_benchmark_keep_all_their_tests(tmp_path: Path) -> None:
    assert read(tmp_path, "mbpp", MBPP_ROW) == read(tmp_path, "mbppplus", MBPP_ROW)
    assert read(tmp_path, "humaneval", HUMANEVAL_ROW) == read(tmp_path, "humanevalplus", HUMANEVAL_ROW)


RELEASE = {"base_input": [[[1]]], "plus_input": [[[2]], [[]]], "atol": 0.001, "contract": "\n    assert x\n"}


def test_releases_give_the_arguments_their_types(tmp_path: Path) -> None:
    humaneval = {key: HUMANEVAL_ROW[key] for key in ("task_id", "prompt", "canonical_solution", "entry_point")}
    problem = read(tmp_path, "humanevalplus", humaneval | RELEASE)
    assert problem.tests == tuple(ReferenceTest("twice", (one,)) for one in ([1], [2], []))
    assert problem.checker == AnswerRule(absolute=0.001, relative=1e-7)
    row = {
        "task_id": "Mbpp/116",
        "prompt": '"""\nWrite a function to double.\nassert twice((1,)) == 2\n"""\n',
        "entry_point": "twice",
        "canonical_solution": "def twice(x):\n    return x\n",
        "assertion": "\nassert twice((1,)) == 2\nassert twice(()) == 0\n",
    }
    problem = read(tmp_path, "mbppplus", row | RELEASE)
    assert problem.tests[2:] == tuple(ReferenceTest("twice", (one,)) for one in ((1,), (2,), ()))
    assert (problem.task_id, problem.statement, problem.num_visible_tests) == ("116", "Write a function to double.", 2)


@pytest.mark.parametrize(
    ("number", "arguments", "expected"),
    [
        (2, [[1], [2]], ((1,), (2,))),
        (63, [[[1], [2]]], ([(1,), (2,)],)),
        (75, [[[1, 2]], 3], ([(1, 2)], 3)),
        (106, [[1], [2]], ([1], (2,))),
        (115, [[[1, 1], []]], ([{1}, {}],)),
        (124, ["1", "2j"], (1.0, 2j)),
        (252, ["1+1j"], (1 + 1j,)),
        (259, [[[1], [2]], [[3]]], (((1,), (2,)), ((3,),))),
        (278, [[1, [2]]], ((1, (2,)),)),
        (307, [[1], 2, 3], ((1,), 2, 3)),
        (580, [[1, [[2]]]], ((1, ((2,),)),)),
        (722, [{"a": [1, 2]}, 3], ({"a": (1, 2)}, 3)),
        (974, [[1], [2]], ([1], [2])),
    ],
)
def test_types_that_json_lost(number: int, arguments: list[Any], expected: tuple[Any, ...], tmp_path: Path) -> None:
    row = {"task_id": f"Mbpp/{number}", "base_input": [], "plus_input": [arguments], "atol": 0, "entry_point": "f"}
    row |= {
        "prompt": '"""\nText\n"""',
        "canonical_solution": "def f(*x):\n    return x",
        "assertion": "assert f() == ()",
    }
    test = read(tmp_path, "mbppplus", row).tests[1]
    assert isinstance(test, ReferenceTest)
    assert test.arguments == expected
    assert list(map(type, test.arguments)) == list(map(type, expected))


def accepts(problem: Problem, arguments: list[Any], expected: Any, actual: Any) -> bool:
    assert isinstance(problem.checker, Checker)
    namespace: dict[str, Any] = {}
    exec(problem.checker.source, namespace)
    return bool(namespace["check"](arguments, expected, actual))


def test_answers_that_are_compared_as_sets(tmp_path: Path) -> None:
    problem = read(tmp_path, "mbppplus", module(SETS, results="[(1, 2)]"))
    assert accepts(problem, [1], (1, 2), [2, 1, 2])
    assert not any(accepts(problem, [1], (1, 2), actual) for actual in ([1], None, [[1], [2]], 5))


def test_answers_that_only_have_to_be_something(tmp_path: Path) -> None:
    problem = read(tmp_path, "mbppplus", module(NOT_NONE, results="[True]"))
    assert all(accepts(problem, [1], True, actual) for actual in (True, "match", 0))
    assert not any(accepts(problem, [1], True, actual) for actual in (False, None))
    assert accepts(problem, [1], False, None)
    assert not accepts(problem, [1], False, "match")


@pytest.mark.parametrize("form", ["_poly(*candidate(*inp), inp)", "abs(_poly(*inp, candidate(*inp)))"])
def test_answers_that_are_roots(form: str, tmp_path: Path) -> None:
    test = (
        "import math\ndef _poly(xs, x):\n    return sum(c * math.pow(x, i) for i, c in enumerate(xs))\n"
        "def check(candidate):\n    inputs = [[[-4, 0, 1]]]\n    results = [2.0]\n"
        f"    for i, (inp, exp) in enumerate(zip(inputs, results)):\n        assert {form} <= 0.0001\n"
    )
    problem = read(tmp_path, "humanevalplus", HUMANEVAL_ROW | {"test": test})
    assert problem.tests == (CallTest("twice", ([-4, 0, 1],), 2.0),)
    assert all(accepts(problem, [[-4, 0, 1]], 2.0, actual) for actual in (2, -2.0, 2.00001))
    assert not any(accepts(problem, [[-4, 0, 1]], 2.0, actual) for actual in (1.9, "2", None, 1e300, float("nan")))


@pytest.mark.parametrize(
    ("function", "arguments", "expected", "right", "wrong"),
    [
        ("sum_div", [6], 6, [6, 0], [5, None]),
        ("surface_Area", [3, 4], 33, [33, 35], [34, "33"]),
        ("digit_distance_nums", [1, 23], 1, [1, 4], [2]),
    ],
)
def test_rules_of_the_evaluator(
    function: str, arguments: list[Any], expected: Any, right: list[Any], wrong: list[Any], tmp_path: Path
) -> None:
    row = {"task_id": "Mbpp/1", "base_input": [arguments], "plus_input": [], "atol": 0, "entry_point": function}
    row |= {"prompt": '"""\nText\n"""', "canonical_solution": f"def {function}(*x): ..."}
    problem = read(tmp_path, "mbppplus", row | {"assertion": f"assert {function}(1) == 1"})
    assert all(accepts(problem, arguments, expected, actual) for actual in right)
    assert not any(accepts(problem, arguments, expected, actual) for actual in wrong)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (module(inputs="[[np.array([1])]]"), r"test: inputs: not a constant: np.array\(\[1\]\)"),
        (module(results="[[0] * 10**9]"), "test: results: a value that is too large"),
        (module(results="[f(1)]"), r"test: results: not a constant: f\(1\)"),
        (module(results="[1 / 0]"), r"not a constant: \[1 / 0\]: division by zero"),
        (module(results="[1, 2]"), "1 inputs but 2 results"),
        (module(inputs="[1]"), "inputs: expected a list of arguments per test"),
        (module(inputs="[]", results="[]"), "inputs: expected a list with items"),
        (module(CLOSE.replace("out == exp", "out >= exp")), "assertion.* has an unknown form"),
        (module(CLOSE.replace("1e-07", "0.5")), "assertion.* has an unknown form"),
        (module(""), "no function assertion"),
        (module(loop=LOOP.replace("assertion(twice(*inp), exp, 0)", "assert twice(*inp)")), "unknown form: assert"),
        (module(loop=LOOP.replace("twice(*inp)", "twice(inp)")), "comparison of an unknown form"),
        (module(loop=LOOP.replace("exp, 0)", f"exp, {10**400})")), "the tolerance: expected a number, 0 or more"),
        (module(loop=LOOP + "print(1)\n"), "expected a loop over inputs at the end"),
        (MBPP_ROW | {"test": "assert twice(1) == 2"}, "test: expected a loop"),
        (MBPP_ROW | {"code": ""}, "code: missing or empty"),
        (MBPP_ROW | RELEASE, "canonical_solution: missing or empty"),
    ],
)
def test_rows_that_cannot_be_read(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        read(tmp_path, "mbppplus", row)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"plus_input": 5}, "plus_input: expected a list"),
        ({"plus_input": [5]}, "plus_input: expected a list"),
        ({"base_input": [], "plus_input": []}, "base_input: no inputs"),
        ({"atol": "0"}, "atol: expected a number"),
        ({"atol": 10**400}, "atol: expected a number, 0 or more"),
        ({"atol": math.inf}, "atol: expected a number, 0 or more"),
        ({"atol": math.nan}, "atol: expected a number, 0 or more"),
        ({"atol": -1}, "atol: expected a number, 0 or more"),
        ({"entry_point": "check_str"}, "canonical_solution: returns an object"),
        ({"entry_point": "are_equivalent"}, "EvalPlus accepts every answer"),
    ],
)
def test_releases_that_cannot_be_read(changed: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        read(tmp_path, "humanevalplus", HUMANEVAL_ROW | RELEASE | changed)
    without = {key: value for key, value in (HUMANEVAL_ROW | RELEASE).items() if key != "plus_input"}
    with pytest.raises(UserError, match="plus_input: missing"):
        read(tmp_path, "humanevalplus", without)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(
    ("spec", "num_problems", "num_tests", "num_checkers"),
    [
        (
            "humanevalplus:{}/humanevalplus/HumanEvalPlus-OriginFmt-third.jsonl.gz",
            55,
            {"CallTest": 39011, "ReferenceTest": 135},
            {"AnswerRule": 55},
        ),
        (
            "mbppplus:{}/mbppplus/MbppPlus-OriginFmt-third.jsonl.gz",
            126,
            {"CallTest": 13587, "AssertTest": 392},
            {"AnswerRule": 124, "Checker": 2},
        ),
    ],
)
def test_counts(spec: str, num_problems: int, num_tests: dict[str, int], num_checkers: dict[str, int]) -> None:
    loaded = benchmark(spec)
    assert (len(loaded.problems), loaded.rejected) == (num_problems, ())
    assert Counter(type(test).__name__ for problem in loaded.problems for test in problem.tests) == num_tests
    assert Counter(type(problem.checker).__name__ for problem in loaded.problems) == num_checkers

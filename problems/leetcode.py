"""LeetCodeDataset (Xia et al. 2025): a class `Solution` to write, and asserts that call one of its methods.

The row's `prompt` (imports, `ListNode`, `TreeNode` and their helpers) becomes the problem's preamble. Lists and trees
are made from plain lists beside the program, and its answer becomes a plain list before it is compared outside: an
object of the program never decides what is right.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from rltf.problems.constants import constant, shortened
from rltf.problems.examples import examples_of
from rltf.problems.fields import first_text, text_of
from rltf.problems.scope import parse_module
from rltf.problems.types import CallTest, Problem, UnusableRowError

_ENTRY_POINT = re.compile(r"Solution\(\)\.(\w+)")
_STARTER_FOLLOWS = re.compile(r"\s*Please complete the following python code precisely:")
# `from math import *` hides the builtin, which takes a modulus.
_RESTORED = "from builtins import pow\n"
_CALL_WITH_NODES = "_call_with_nodes"
_HELPERS = f"""
def {_CALL_WITH_NODES}(name, form, *arguments):
    def made(value):
        if isinstance(value, tuple):
            helper, values = value
            return globals()[helper](values)
        return [made(item) for item in value] if isinstance(value, list) else value

    def once(node):
        if id(node) in seen:
            raise ValueError("the answer has a cycle")
        seen.add(id(node))
        return node

    def list_values(node):
        values = []
        while node is not None:
            values.append(once(node).val)
            node = node.next
        return values

    def tree_values(root):
        values, nodes = [], [root]
        for node in nodes:
            node is None or once(node)
            values.append(None if node is None else node.val)
            nodes += [] if node is None else [node.left, node.right]
        while values and values[-1] is None:
            values.pop()
        return values

    seen = set()
    function = getattr(Solution(), name) if "Solution" in globals() else globals()[name]
    answer = function(*map(made, arguments))
    return answer if form == "value" else list_values(answer) if form == "list_node" else tree_values(answer)
"""
_MAKERS = {"is_same_list": "list_node", "is_same_tree": "tree_node"}
_MISSPELLED = {"Meidum": "Medium"}


def task_id_of(row: Any) -> str | None:
    """The row's `task_id`, the title in the problem's address."""
    return first_text(row, "task_id")


def to_problem(row: Any) -> Problem:
    """A row of LeetCodeDataset as a `Problem`.

    Raises UnusableRowError for a missing field, or an assertion of an unknown form.
    """
    task_id = task_id_of(row)
    if task_id is None:
        raise UnusableRowError("task_id: missing")
    meta = row["meta"] if isinstance(row.get("meta"), dict) else {}
    method = _ENTRY_POINT.fullmatch(text_of(row, "entry_point"))
    if method is None:
        raise UnusableRowError(f"entry_point: expected Solution().METHOD, got {row['entry_point']!r}")
    starter_code = text_of(row, "starter_code") if "starter_code" in row else text_of(meta, "lang_code")
    prompt = text_of(row, "prompt")
    parse_module(prompt, "prompt")
    parameters = _parameters(starter_code, method[1])
    tests = _tests(text_of(row, "test"), method[1], parameters)
    needs_nodes = any(test.function == _CALL_WITH_NODES for test in tests)
    completion, statement = row.get("completion"), _statement(row)
    difficulty = first_text(row, "difficulty") or first_text(meta, "difficulty")
    return Problem(
        task_id=task_id,
        benchmark="leetcode",
        statement=statement,
        tests=tests,
        references=(completion,) if isinstance(completion, str) and completion.strip() else (),
        difficulty=_MISSPELLED.get(difficulty or "", difficulty),
        entry_point=method[1],
        starter_code=starter_code,
        preamble=f"{prompt}\n{_RESTORED}{_HELPERS if needs_nodes else ''}",
        examples=() if needs_nodes else examples_of(statement, tests, parameters=parameters),
    )


def _statement(row: dict[str, Any]) -> str:
    """The description. Older releases have it only in `query`, followed by the starter code."""
    if "problem_description" in row:
        return text_of(row, "problem_description")
    return _STARTER_FOLLOWS.split(text_of(row, "query"))[0]


def _parameters(starter_code: str, method: str) -> list[str]:
    """The parameters of the method without `self`."""
    module = parse_module(f"{starter_code.rstrip()} ...", "starter_code")
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.name == method:
            return [argument.arg for argument in node.args.args[1:]]
    raise UnusableRowError(f"starter_code: no method {method}")


def _tests(source: str, method: str, parameters: list[str]) -> tuple[CallTest, ...]:
    body = parse_module(source, "test").body
    check = body[-1] if body else None
    if not isinstance(check, ast.FunctionDef) or not check.body or len(check.args.args) != 1:
        raise UnusableRowError("test: expected a function check(candidate)")
    return tuple(_test(node, check.args.args[0].arg, method, parameters) for node in check.body)


def _test(statement: ast.stmt, candidate: str, method: str, parameters: list[str]) -> CallTest:
    match statement:
        case ast.Assert(ast.Compare(ast.Call(ast.Name(name)) as call, [ast.Eq()], [expected])) if name == candidate:
            form, answer = "value", constant(expected)
        case ast.Assert(ast.Call(ast.Name(compare), [ast.Call(ast.Name(name)) as call, expected], [])) if (
            name == candidate and compare in _MAKERS
        ):
            form, answer = _MAKERS[compare], _node_values(_MAKERS[compare], expected)
        case _:
            raise UnusableRowError(f"test: a statement of an unknown form: {shortened(statement)}")
    arguments = [_argument(value) for value in _in_order(call, parameters)]
    if form == "value" and not any(_holds_nodes(argument) for argument in _in_order(call, parameters)):
        return CallTest(method, tuple(arguments), answer)
    return CallTest(_CALL_WITH_NODES, (method, form, *arguments), answer)


def _in_order(call: ast.Call, parameters: list[str]) -> list[ast.expr]:
    """The arguments of a call in the order of the parameters: a program may call its parameters otherwise."""
    named: Mapping[str | None, ast.expr] = {keyword.arg: keyword.value for keyword in call.keywords}
    values = [*call.args, *(named[name] for name in parameters[len(call.args) :] if name in named)]
    if len(values) != len(parameters) or len(values) != len(call.args) + len(named):
        raise UnusableRowError(f"test: not the arguments {', '.join(parameters)}: {shortened(call)}")
    return values


def _holds_nodes(expression: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id in _MAKERS.values() for node in ast.walk(expression))


def _argument(expression: ast.expr) -> Any:
    """A constant, in which a pair (helper, values) stands for a list or tree to be made beside the program."""
    match expression:
        case ast.Call(ast.Name(helper), [values], []) if helper in _MAKERS.values():
            return helper, constant(values)
        case ast.List(items) if _holds_nodes(expression):
            return [_argument(item) for item in items]
    return constant(expression)


def _node_values(helper: str, expression: ast.expr) -> list[Any]:
    """The values of an expected list or tree, in the form in which the program's answer comes out."""
    match expression:
        case ast.Constant(None):
            return []
        case ast.Call(ast.Name(name), [values], []) if name == helper:
            found = constant(values)
            if isinstance(found, list):
                return found if helper == "list_node" else _tree_values(found)
    raise UnusableRowError(f"test: expected {helper}([...]), got {shortened(expression)}")


def _tree_values(values: list[Any]) -> list[Any]:
    """The values of a tree, level by level, without those that `tree_node` does not use and without None at the end."""
    num_open, used = 1, 1
    while num_open and used < len(values):
        num_open += sum(value is not None for value in values[used : used + 2]) - 1
        used += 2
    found = values[:used]
    while found and found[-1] is None:
        found.pop()
    return found

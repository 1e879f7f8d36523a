"""Inputs of tests: what a program runs on, without the answer; and the tests that answers turn them into."""

from __future__ import annotations

import ast
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rltf.augmentation.stdin import learn_inputs
from rltf.augmentation.values import learn_arguments
from rltf.problems.assertions import Closeness, Relation, Truth, split_assertion
from rltf.problems.syntax import expression_tree, syntax_tree
from rltf.problems.types import AssertTest, CallTest, Problem, StdinTest, Test
from rltf.sandbox.compare import FLOAT_TOLERANCE, values_match
from rltf.sandbox.jobs import CallJob, ExpressionJob, Job, RunResult, StdinJob

MAX_ANSWER_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class StdinInput:
    """A standard input."""

    stdin: str

    @property
    def key(self) -> str:
        return " ".join(self.stdin.split())

    @property
    def job(self) -> Job:
        return StdinJob(self.stdin.encode())

    def test(self, result: RunResult) -> Test | None:
        """The test with the answer in `result`; None if the answer is blank, too long, or not text."""
        try:
            answer = result.stdout.decode()
        except UnicodeDecodeError:
            return None
        is_usable = answer.strip() and len(answer) <= MAX_ANSWER_CHARACTERS
        return StdinTest(self.stdin, answer) if is_usable else None


@dataclass(frozen=True, slots=True)
class CallInput:
    """The arguments of a call. With `unwrap`, answers go into a list of one item, like the problem's other answers."""

    function: str
    arguments: tuple[Any, ...]
    unwrap: bool

    @property
    def key(self) -> str:
        return repr(self.arguments)

    @property
    def job(self) -> Job:
        return CallJob(self.function, self.arguments)

    def test(self, result: RunResult) -> Test | None:
        """The test with the answer in `result`; None if it is None or JSON cannot hold it."""
        plain = through_json(result.value)
        if plain is None:
            return None
        return CallTest(self.function, self.arguments, [plain] if self.unwrap else plain, self.unwrap)


@dataclass(frozen=True, slots=True)
class AssertInput:
    """An expression that calls `function` once with `arguments`. `shape` says how the assertion judges its value."""

    shape: Relation | Truth | Closeness
    setup: str
    function: str
    arguments: tuple[Any, ...]

    @property
    def key(self) -> str:
        """The expression."""
        tree = expression_tree(self.shape.source)
        (call,) = _calls(tree, self.function)
        call.args = [expression_tree(repr(argument)).body for argument in self.arguments]
        return ast.unparse(tree)

    @property
    def job(self) -> Job:
        return ExpressionJob(self.key, self.setup)

    def test(self, result: RunResult) -> Test | None:
        """The test with the answer in `result`; None if it is None or no literal is exactly equal to it."""
        value, source, literal = result.value, self.key, _literal(result.value)
        if value is None or literal is None:
            return None
        match self.shape:
            case Truth():
                condition = source if value else f"not {source}"
            case Closeness(relative=relative, absolute=absolute) if isinstance(value, int | float):
                condition = f"math.isclose({source}, {literal}, rel_tol={relative!r}, abs_tol={absolute!r})"
            case Relation(operator="is") if isinstance(value, bool):
                condition = f"{source} is {literal}"
            case Relation(operator="==") if isinstance(value, float) and not value.is_integer():
                tolerance = f"{FLOAT_TOLERANCE:g}"
                condition = f"math.isclose({source}, {literal}, rel_tol={tolerance}, abs_tol={tolerance})"
            case Relation(operator="==") if not _holds_fraction(literal):
                condition = f"{source} == {literal}"
            case _:
                return None
        return AssertTest(f"assert {condition}", self.setup)


Input = StdinInput | CallInput | AssertInput


@dataclass(frozen=True, slots=True)
class Candidate:
    """An input that may become a test. `parent` is the number of the test that it varies, if any."""

    input: Input
    generator: str
    parent: int | None = None


def input_of(test: Test, function: str | None) -> Input | None:
    """The input of a test; None if it cannot be separated from the answer.

    An assertion must call `function`, the problem's entry point, exactly once and with literals.
    """
    match test:
        case StdinTest(stdin, _):
            return StdinInput(stdin)
        case CallTest(name, called_with, _, unwrap):
            return CallInput(name, called_with, unwrap)
        case AssertTest(assertion, setup, classes) if function is not None:
            shape = split_assertion(assertion, setup, classes)
            if isinstance(shape, Relation | Truth | Closeness):
                arguments = call_arguments(shape.source, function)
                return None if arguments is None else AssertInput(shape, setup, function, arguments)
    return None


def inputs_of(problem: Problem) -> dict[int, Input]:
    """The inputs of a problem's tests by the number of the test, without those that cannot be told."""
    found = {number: input_of(test, problem.entry_point) for number, test in enumerate(problem.tests)}
    return {number: one for number, one in found.items() if one is not None}


def vary_inputs(problem: Problem, rng: random.Random) -> Iterator[Candidate]:
    """Endless variations of the problem's inputs, test after test; none if it has no inputs."""
    known = inputs_of(problem)
    vary_stdin = learn_inputs([one.stdin for one in known.values() if isinstance(one, StdinInput)])
    by_arity: defaultdict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for one in known.values():
        if not isinstance(one, StdinInput):
            by_arity[len(one.arguments)].append(one.arguments)
    rules = {arity: learn_arguments(found) for arity, found in by_arity.items()}
    while known:
        for number, one in known.items():
            varied: Input
            if isinstance(one, StdinInput):
                varied = StdinInput(vary_stdin(one.stdin, rng))
            else:
                varied = replace(one, arguments=rules[len(one.arguments)](one.arguments, rng))
            yield Candidate(varied, "variation", number)


def call_arguments(source: str, function: str) -> tuple[Any, ...] | None:
    """The arguments of the only call of `function` in an expression, if all of them are positional literals."""
    try:
        calls = _calls(expression_tree(source), function)
        if len(calls) != 1 or calls[0].keywords:
            return None
        return tuple(ast.literal_eval(argument) for argument in calls[0].args)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _calls(tree: ast.AST, function: str) -> list[ast.Call]:
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node for node in nodes if isinstance(node.func, ast.Name) and node.func.id == function]


def through_json(value: Any) -> Any:
    """The value as JSON gives it back, with lists for tuples; None if JSON or a row cannot hold it."""
    if _literal(value) is None:
        return None
    try:
        plain = json.loads(json.dumps(value))
    except TypeError:
        return None
    return plain if values_match(value, plain) else None


def _literal(value: Any) -> str | None:
    """The literal that equals a value; None if there is none, or only a long one."""
    try:
        text = repr(_with_plain_dicts(value))
        is_usable = len(text) <= MAX_ANSWER_CHARACTERS and ast.literal_eval(expression_tree(text)) == value
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return text if is_usable else None


def _with_plain_dicts(value: Any) -> Any:
    """The value with every `Counter` and the like replaced by an equal dict."""
    if isinstance(value, dict):
        return {key: _with_plain_dicts(item) for key, item in value.items()}
    return type(value)(map(_with_plain_dicts, value)) if isinstance(value, list | tuple) else value


def _holds_fraction(literal: str) -> bool:
    """Whether it contains a number that another right program may compute slightly differently."""
    values = [node.value for node in ast.walk(syntax_tree(literal)) if isinstance(node, ast.Constant)]
    return any(isinstance(one, complex) or (isinstance(one, float) and not one.is_integer()) for one in values)

"""Inputs of tests: what a program is run on, without the answer."""

from __future__ import annotations

import ast
import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from augmentation.stdin import InputShape
from augmentation.values import Shape, learn_arguments
from problems.assertions import Closeness, Relation, Truth, split_assertion
from problems.types import AssertTest, CallTest, Problem, StdinTest, Test
from sandbox.jobs import CallJob, ExpressionJob, Job, RunResult, StdinJob

MAX_ANSWER_CHARACTERS = 20_000
_TOLERANCE = 1e-6


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
        """The test whose answer `result` holds; None for an answer that is blank, too long, or no text."""
        try:
            answer = result.stdout.decode()
        except UnicodeDecodeError:
            return None
        usable = answer.strip() and len(answer) <= MAX_ANSWER_CHARACTERS
        return StdinTest(self.stdin, answer) if usable else None


@dataclass(frozen=True, slots=True)
class CallInput:
    """The arguments of a call. `unwrap`: answers are written in a list of one, as the problem's others are."""

    function: str
    arguments: tuple[Any, ...]
    unwrap: bool

    @property
    def key(self) -> str:
        return repr(self.arguments)

    @property
    def job(self) -> Job:
        return CallJob(self.function, self.arguments)

    def with_arguments(self, arguments: tuple[Any, ...]) -> CallInput:
        """The same call of other arguments."""
        return CallInput(self.function, arguments, self.unwrap)

    def test(self, result: RunResult) -> Test | None:
        """The test whose answer `result` holds; None for an answer that JSON cannot hold, or for None."""
        value = result.value
        if value is None or not _fits(value, _is_json):
            return None
        plain = json.loads(json.dumps(value))
        return CallTest(self.function, self.arguments, [plain] if self.unwrap else plain, self.unwrap)


@dataclass(frozen=True, slots=True)
class AssertInput:
    """An expression that calls `function` once with `arguments`; `shape` says how the assertion judges its value."""

    shape: Relation | Truth | Closeness
    setup: str
    function: str
    arguments: tuple[Any, ...]

    @property
    def source(self) -> str:
        return _with_arguments(self.shape.source, self.function, self.arguments)

    @property
    def key(self) -> str:
        return self.source

    @property
    def job(self) -> Job:
        return ExpressionJob(self.source, self.setup)

    def with_arguments(self, arguments: tuple[Any, ...]) -> AssertInput:
        """The same expression with other arguments."""
        return AssertInput(self.shape, self.setup, self.function, arguments)

    def test(self, result: RunResult) -> Test | None:
        """The test whose answer `result` holds; None for an answer that no literal says exactly, or for None."""
        value, source = result.value, self.source
        if value is None or not _fits(value, _is_literal_value):
            return None
        value = _with_plain_dicts(value)
        match self.shape:
            case Truth():
                return AssertTest(f"assert {'' if value else 'not '}{source}", self.setup)
            case Closeness(_, _, absolute, relative) if isinstance(value, int | float):
                if relative == 0:
                    return AssertTest(f"assert abs({source} - {value!r}) <= {absolute!r}", self.setup)
                text = f"assert math.isclose({source}, {value!r}, rel_tol={relative!r}, abs_tol={absolute!r})"
                return AssertTest(text, self.setup)
            case Relation(operator="is") if value is True or value is False:
                return AssertTest(f"assert {source} is {value}", self.setup)
            case Relation(operator="==") if isinstance(value, float) and not value.is_integer():
                allowed = _TOLERANCE * max(1, abs(value))
                return AssertTest(f"assert abs({source} - {value!r}) <= {allowed:.6g}", self.setup)
            case Relation(operator="==") if not _holds_fraction(value):
                return AssertTest(f"assert {source} == {value!r}", self.setup)
        return None


Input = StdinInput | CallInput | AssertInput


@dataclass(frozen=True, slots=True)
class Candidate:
    """An input that may become a test. `parent` is the number of the test that it varies, if it does."""

    input: Input
    generator: str
    parent: int | None = None


def input_of(test: Test, function: str | None) -> Input | None:
    """The input of a test; None where it cannot be told from the answer.

    An assertion must call `function`, the problem's entry point, once and with literals.
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


def vary_inputs(problem: Problem, rng: random.Random) -> Iterator[Candidate]:
    """Variations of the problem's inputs without end, test after test; none where no input can be varied."""
    inputs = [(number, input_of(test, problem.entry_point)) for number, test in enumerate(problem.tests)]
    known = [(number, one) for number, one in inputs if one is not None]
    stdin = InputShape([one.stdin for _, one in known if isinstance(one, StdinInput)])
    shapes = _argument_shapes([one for _, one in known if not isinstance(one, StdinInput)])
    while known:
        for number, one in known:
            if isinstance(one, StdinInput):
                yield Candidate(StdinInput(stdin.vary(one.stdin, rng)), "variation", number)
            else:
                varied = shapes[len(one.arguments)].vary(one.arguments, rng)
                yield Candidate(one.with_arguments(varied), "variation", number)


def _argument_shapes(calls: Sequence[CallInput | AssertInput]) -> dict[int, Shape]:
    groups: defaultdict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for call in calls:
        groups[len(call.arguments)].append(call.arguments)
    return {arity: learn_arguments(group) for arity, group in groups.items()}


def _calls(tree: ast.AST, function: str) -> list[ast.Call]:
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node for node in nodes if isinstance(node.func, ast.Name) and node.func.id == function]


def call_arguments(source: str, function: str) -> tuple[Any, ...] | None:
    """The arguments of the one call of `function` in an expression, where all are literals and none has a name."""
    try:
        calls = _calls(ast.parse(source, mode="eval"), function)
        if len(calls) != 1 or calls[0].keywords:
            return None
        return tuple(ast.literal_eval(argument) for argument in calls[0].args)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _with_arguments(source: str, function: str, arguments: tuple[Any, ...]) -> str:
    tree = ast.parse(source, mode="eval")
    (call,) = _calls(tree, function)
    call.args = [ast.parse(repr(argument), mode="eval").body for argument in arguments]
    return ast.unparse(tree)


def _fits(value: Any, is_writable: Callable[[Any], bool]) -> bool:
    """Whether an answer can be written in a row."""
    try:
        return is_writable(value) and _is_short(value)
    except RecursionError:  # nested deeper than a row should be
        return False


def _with_plain_dicts(value: Any) -> Any:
    """The value with a `Counter` and the like as the dict that equals it."""
    if isinstance(value, dict):
        return {key: _with_plain_dicts(item) for key, item in value.items()}
    return type(value)(map(_with_plain_dicts, value)) if isinstance(value, list | tuple) else value


def _is_short(value: Any) -> bool:
    try:
        return len(repr(value)) <= MAX_ANSWER_CHARACTERS
    except ValueError:  # an integer of more digits than the interpreter writes
        return False


def _is_json(value: Any) -> bool:
    """Whether JSON gives the value back, tuples as lists."""
    if isinstance(value, list | tuple):
        return all(_is_json(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def _is_literal_value(value: Any) -> bool:
    if isinstance(value, list | tuple | set):
        return all(_is_literal_value(item) for item in value)
    if isinstance(value, dict):
        return all(_is_literal_value(part) for pair in value.items() for part in pair)
    if isinstance(value, float | complex):
        return isinstance(value, float) and math.isfinite(value)
    return value is None or isinstance(value, bool | int | str | bytes)


def _holds_fraction(value: Any) -> bool:
    """Whether there is a float inside that another right program may compute a little differently."""
    if isinstance(value, dict):
        return any(_holds_fraction(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple | set):
        return any(_holds_fraction(item) for item in value)
    return isinstance(value, float) and not value.is_integer()

"""Examples: tests that a statement shows. A model may read what its program does on them, and on no other test.

| statement | what is read |
|---|---|
| APPS, Codeforces, AtCoder, CodeChef | blocks under `Input` and `Output` in the examples, or `Sample Input 1` |
| LeetCode | `Input: nums = [1, 2], k = 3` and `Output: 4` |
| HumanEval, KodCode | `>>> f(1, 2)` and the line with the value, or `>>> f(1, 2) == 3` |

A statement whose examples cannot be read exactly has none here. The examples of data sets that have a column for them
are the first tests.
"""

from __future__ import annotations

import ast
import doctest
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rltf.problems.constants import constant
from rltf.problems.fingerprints import canonical
from rltf.problems.syntax import expression_tree, syntax_tree
from rltf.problems.types import AssertTest, CallTest, Problem, ReferenceTest, StdinTest, Test, UnusableRowError

_DECORATION = re.compile(r"^[\s#*_-]+|[\s#*_:-]+$")
_SAMPLE = re.compile(r"(?:sample|example)s?[ -]*(input|output)s?(?: *(?:case|for)? *#?\d+)?", re.IGNORECASE)
_PLAIN = re.compile(r"(input|output)(?: *#?\d+)?", re.IGNORECASE)
_EXAMPLES = re.compile(r"(?:examples?|samples?|sample tests?)(?: *#?\d+)?", re.IGNORECASE)
_COMMENTS = re.compile(
    r"(?:explanations?|notes?|source|hints?)(?: (?:of|for|to) .{0,40}?)?(?: *#?\d+)?(?::.*)?", re.IGNORECASE
)
_MAX_HEADING = 200  # characters
_SECTION = re.compile(r"\s*(?:-{3,}.*-{3,}|##+ .*)\s*")
_PROSE = re.compile(r"[\"'(]?[A-Z][\w']*(?: [\w'`\"(),.:;$^{}\\-]+){3}")
_INLINE = re.compile(r"^\W*Input\W*:[* ]*(.+?)\s*\n\W*Output\W*:[* ]*([^\n]+)", re.IGNORECASE | re.MULTILINE)
_ROUNDED = 1e-3
_JSON_NAMES = {"true": True, "false": False, "null": None}


def examples_of(
    statement: str,
    tests: Sequence[Test],
    *,
    num_visible: int = 0,
    parameters: Sequence[str] = (),
    function: str | None = None,
) -> tuple[Test, ...]:
    """The examples of a problem: its first `num_visible` tests, or else those that its statement shows.

    `parameters` are the names of a called function's parameters, in order. `function` is the one that `>>>` lines call.
    There are none if the examples are all of the tests: what a program does on them would give away how it is graded.
    """
    found: dict[str, Test] = {}
    for example in tests[:num_visible] or _read(statement, tests, parameters, function):
        found.setdefault(_input_of(example), example)
    if not found or not hide_some(tuple(found.values()), tests):
        return ()
    for test in tests:
        place = _input_of(test)
        if place in found and _contradict(found[place], test):
            del found[place]
    return tuple(found.values())


def hide_some(examples: Sequence[Test], tests: Sequence[Test]) -> bool:
    """Whether a test has an input that no example has."""
    shown = set(map(_input_of, examples))
    return any(_input_of(test) not in shown for test in tests)


def reason_for_none(problem: Problem) -> str:
    """Why a problem without examples has none."""
    if problem.num_visible_tests >= len(problem.tests):
        return "the statement shows all tests that grade a program, so none of them can be an example"
    return "the statement has no examples that can be read exactly, or they are all of its tests"


def _read(
    statement: str, tests: Sequence[Test], parameters: Sequence[str], function: str | None
) -> Iterator[CallTest | StdinTest | AssertTest]:
    match tests[0]:
        case StdinTest():
            yield from _stdin_examples(statement)
        case _ if function is not None:
            yield from _doctests(statement, function, as_calls=isinstance(tests[0], CallTest | ReferenceTest))
        case CallTest(name, arguments):
            yield from _inline_calls(statement, name, parameters, len(arguments))


def _stdin_examples(statement: str) -> Iterator[StdinTest]:
    blocks = list(_blocks(statement))
    inputs, outputs = blocks[::2], blocks[1::2]
    kinds = [kind for kind, _ in blocks]
    if kinds != ["input", "output"] * len(outputs):
        return
    for (_, stdin), (_, expected) in zip(inputs, outputs, strict=True):
        answer = _without_prose(expected)
        if answer.strip():
            yield StdinTest(_text(stdin), answer)


def _blocks(statement: str) -> Iterator[tuple[str, str]]:
    """The blocks of input and output in the examples, in order."""
    kind, lines, in_examples = "", [], False
    for line in [*statement.splitlines(), "-----End-----"]:
        heading = _DECORATION.sub("", line) if len(line) <= _MAX_HEADING else ""
        sample, plain = _SAMPLE.fullmatch(heading), _PLAIN.fullmatch(heading)
        begins = sample or (plain if in_examples and not _SECTION.fullmatch(line) else None)
        is_examples = bool(_EXAMPLES.fullmatch(heading))
        ends = _SECTION.fullmatch(line) or _COMMENTS.fullmatch(heading) if heading else None
        if not (begins or is_examples or ends):
            lines.append(line)
            continue
        if kind:
            yield kind, "\n".join(lines)
        kind, lines = (begins[1].lower() if begins else ""), []
        in_examples = is_examples or bool(begins)
    assert not kind


def _text(block: str) -> str:
    """A block without the blank lines and the code fence around it."""
    lines = block.split("\n")
    while lines and not lines[0].strip():
        del lines[0]
    if lines and lines[0].startswith("```"):
        end = next((number for number, line in enumerate(lines) if number and line.startswith("```")), len(lines))
        lines = lines[1:end]
    while lines and not lines[-1].strip():
        del lines[-1]
    return "".join(f"{line}\n" for line in lines)


def _without_prose(block: str) -> str:
    """The text of an output. AtCoder explains an example in the paragraphs after it, without a heading."""
    kept: list[str] = []
    for paragraph in re.split(r"\n[ \t]*\n", _text(block)):
        if kept and _PROSE.match(paragraph.strip()):
            break
        kept.append(paragraph)
    return _text("\n\n".join(kept))


def _inline_calls(statement: str, name: str, parameters: Sequence[str], num_arguments: int) -> Iterator[CallTest]:
    for found in _INLINE.finditer(statement):
        try:
            call = expression_tree(f"f({found[1]})").body
            expected = _value(expression_tree(found[2].strip()).body)
            assert isinstance(call, ast.Call)
            arguments = [_value(one) for one in call.args]
            named = {str(one.arg): _value(one.value) for one in call.keywords}
        except (UnusableRowError, SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        order = parameters if set(parameters) == set(named) else list(named)
        arguments += [named[parameter] for parameter in order]
        if len(arguments) == num_arguments:
            yield CallTest(name, tuple(arguments), expected)


def _value(expression: ast.expr) -> Any:
    """The value of a constant, in Python or in JSON."""
    return constant(_FromJson().visit(expression))


class _FromJson(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(_JSON_NAMES[node.id]) if node.id in _JSON_NAMES else node


def _doctests(statement: str, function: str, *, as_calls: bool) -> Iterator[CallTest | AssertTest]:
    """The `>>>` lines that call `function` with constants."""
    try:
        lines = doctest.DocTestParser().get_examples(_docstring(statement, function))
    except ValueError:  # inconsistent indentation
        return
    for line in lines:
        try:
            call, want = _asked_and_wanted(line)
            if not isinstance(call, ast.Call) or ast.unparse(call.func) != function or call.keywords:
                continue
            arguments, expected = tuple(map(constant, call.args)), constant(want)
        except (UnusableRowError, SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        if as_calls:
            yield CallTest(function, arguments, expected)
        else:
            yield AssertTest(f"assert {ast.unparse(call)} == {ast.unparse(want)}")


def _asked_and_wanted(line: doctest.Example) -> tuple[ast.expr, ast.expr]:
    """The two sides of `>>> f(1)` and `2`, or of `>>> f(1) == 2` with nothing below."""
    source = expression_tree(line.source.strip()).body
    match source:
        case ast.Compare(call, [ast.Eq()], [want]) if not line.want:
            return call, want
    return source, expression_tree(line.want.strip()).body


def _docstring(statement: str, function: str) -> str:
    """The docstring of the function if the statement is Python that defines it, or else the statement."""
    try:
        body = syntax_tree(statement).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return statement
    found = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == function]
    return (ast.get_docstring(found[-1]) or "") if found else statement


def _input_of(test: Test) -> str:
    """What a test gives a program. Two tests of a problem with the same input are the same test."""
    match test:
        case StdinTest(stdin):
            return " ".join(stdin.split())
        case CallTest(_, arguments) | ReferenceTest(_, arguments):
            return canonical([_unquoted(one) for one in arguments])
        case AssertTest(assertion):
            match syntax_tree(assertion).body:
                case [ast.Assert(ast.Compare(ast.Call(_, sources, []), [ast.Eq()], _))]:
                    return _canonical_arguments(sources)
    return canonical(test)


def _canonical_arguments(sources: Sequence[ast.expr]) -> str:
    try:
        return canonical([_unquoted(constant(one)) for one in sources])
    except UnusableRowError:
        return ", ".join(map(ast.unparse, sources))


def _contradict(example: Test, test: Test) -> bool:
    """Whether two tests with the same input have different answers: then there are several right ones."""
    match example, test:
        case StdinTest(_, shown), StdinTest(_, expected):
            return not _same_words(shown.split(), expected.split())
        case CallTest(_, _, shown), CallTest(_, _, expected, unwrap):
            return bool(_unquoted(shown) != _unquoted(expected[0] if unwrap else expected))
    return False


def _same_words(first: list[str], second: list[str]) -> bool:
    """Whether two outputs agree. Statements round numbers in their own way."""
    return len(first) == len(second) and all(map(_same_word, first, second))


def _same_word(first: str, second: str) -> bool:
    try:
        return first == second or ("." in first and math.isclose(float(first), float(second), rel_tol=_ROUNDED))
    except ValueError:
        return False


def _unquoted(value: Any) -> Any:
    """A value whose texts have no quotes around them, which some tests of APPS add."""
    if isinstance(value, list | tuple):
        return [_unquoted(one) for one in value]
    return value.strip('"') if isinstance(value, str) else value

"""Inputs that a model proposes. What it says of answers is not read."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from augmentation.inputs import AssertInput, CallInput, Candidate, StdinInput, call_arguments, input_of
from evaluation.sources import ProgramSource
from problems.prompts import QUESTION
from problems.types import Problem

_NUM_SHOWN = 3
_SEPARATOR = re.compile(r"^[ \t]*(?:-{3,}|={3,}|#{2,}.*)[ \t]*$", re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*```[^\n`]*$", re.MULTILINE)
_MAX_STDIN_CHARACTERS = 20_000


def question(problem: Problem) -> Problem:
    """The request for inputs of a problem, as something that a model can be asked; tests are the problem's own."""
    shown = [one for test in problem.tests if (one := input_of(test, problem.entry_point)) is not None][:_NUM_SHOWN]
    if all(isinstance(one, StdinInput) for one in shown):
        wanted = (
            "inputs that a program for it must handle, each as it stands on standard input, with a line --- between"
        )
        examples = "\n---\n".join(one.stdin.rstrip("\n") for one in shown if isinstance(one, StdinInput))
        opening = f"```\n{examples}\n---\n"
    else:
        wanted = "calls with arguments that a program for it must handle, one on each line, without their values"
        examples = "\n".join(_call(one) for one in shown if not isinstance(one, StdinInput))
        opening = f"```python\n{examples}\n"
    text = (
        f"# Problem\n{problem.statement.strip()}\n\n# Task\nWrite ten more {wanted}: small, large, empty, equal "
        f"and extreme ones, all within what the problem allows. Use one code block.\n\n# Inputs\n{opening}"
    )
    return replace(problem, benchmark=QUESTION, statement=text, code_prefix="")


def propose(problems: Sequence[Problem], source: ProgramSource, name: str) -> Mapping[str, list[Candidate]]:
    """The inputs that a model writes for each problem, by task id; what cannot be read as an input is passed over."""
    by_id = {problem.task_id: problem for problem in problems}
    proposed: defaultdict[str, list[Candidate]] = defaultdict(list)
    for answer, _ in source.programs(tuple(question(problem) for problem in problems), 0):
        problem = by_id[str(answer.task_id)]
        proposed[problem.task_id] += [Candidate(one, f"model {name}") for one in read_inputs(problem, answer.code)]
    return proposed


def read_inputs(problem: Problem, text: str) -> Iterator[StdinInput | CallInput | AssertInput]:
    """The inputs in a model's answer: calls of the problem's function, or standard inputs between `---` lines."""
    known = [one for test in problem.tests if (one := input_of(test, problem.entry_point)) is not None]
    pattern = next((one for one in known if not isinstance(one, StdinInput)), None)
    if pattern is None:
        for part in _SEPARATOR.split(_block(text)):
            stdin = part.strip("\n") + "\n"
            if stdin.strip() and len(stdin) <= _MAX_STDIN_CHARACTERS:
                yield StdinInput(stdin)
        return
    arities = {len(one.arguments) for one in known if not isinstance(one, StdinInput)}
    for line in text.split("\n"):
        arguments = _read_call(line, pattern.function)
        if arguments is not None and len(arguments) in arities and _can_be_sent(pattern, arguments):
            yield pattern.with_arguments(arguments)


def _block(text: str) -> str:
    """The inside of the first code block, or what stands before the mark that closes the one the request opened."""
    parts = _FENCE.split(text)
    if len(parts) == 2:
        return max(parts, key=len)  # cut off at the length limit, or the end of the request's own block
    return parts[1] if len(parts) > 2 else text


def _call(one: CallInput | AssertInput) -> str:
    return f"{one.function}({', '.join(map(repr, one.arguments))})"


def _read_call(line: str, function: str) -> tuple[object, ...] | None:
    """The arguments of the first call of `function` in a line, whatever stands around it."""
    start = line.find(f"{function}(")
    if start < 0:
        return None
    depth = 0
    for end in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[end], 0)
        if line[end] == ")" and depth <= 0:
            arguments = call_arguments(line[start : end + 1], function)
            if arguments is not None:
                return arguments
    return None


def _can_be_sent(pattern: CallInput | AssertInput, arguments: tuple[object, ...]) -> bool:
    """Whether the row format can hold them: call tests are JSON."""
    if isinstance(pattern, AssertInput):
        return True
    try:
        return bool(ast.literal_eval(repr(json.loads(json.dumps(arguments)))) == list(arguments))
    except (TypeError, ValueError):
        return False

"""Inputs that a model proposes. Whatever it says about answers is ignored."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice

from rltf.augmentation.inputs import CallInput, Candidate, Input, StdinInput, call_arguments, inputs_of, through_json
from rltf.evaluation.sources import ProgramSource
from rltf.problems import LoadedProblems
from rltf.problems.prompts import QUESTION
from rltf.problems.types import Problem

_NUM_SHOWN = 3
_SEPARATOR = re.compile(r"^[ \t]*(?:-{3,}|={3,}|#{2,}.*)[ \t]*$", re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*```[^\n`]*$", re.MULTILINE)
_MAX_STDIN_CHARACTERS = 20_000


def question(problem: Problem) -> Problem:
    """A request for inputs, as a problem that a model can be asked. Its tests are those of the given problem."""
    shown = list(islice(inputs_of(problem).values(), _NUM_SHOWN))
    calls = [
        f"{one.function}({', '.join(map(repr, one.arguments))})" for one in shown if not isinstance(one, StdinInput)
    ]
    if calls:
        wanted = "calls with arguments that a program for it must handle, one per line, without their values"
        opening = "```python\n" + "".join(f"{call}\n" for call in calls)
    else:
        wanted = "inputs that a program for it must handle, as they appear on standard input, with a line --- between"
        stdins = [one.stdin.rstrip("\n") for one in shown if isinstance(one, StdinInput)]
        opening = "```\n" + "".join(f"{stdin}\n---\n" for stdin in stdins)
    text = (
        f"# Problem\n{problem.statement.strip()}\n\n# Task\nWrite ten more {wanted}: small, large, empty, equal "
        f"and extreme ones, all within what the problem allows. Use one code block.\n\n# Inputs\n{opening}"
    )
    return replace(problem, benchmark=QUESTION, statement=text, code_prefix="")


def propose(problems: Sequence[Problem], source: ProgramSource, name: str) -> Mapping[str, list[Candidate]]:
    """The inputs that a model writes for each problem, by task id. Text that is not an input is skipped."""
    by_id = {problem.task_id: problem for problem in problems}
    proposed: defaultdict[str, list[Candidate]] = defaultdict(list)
    questions = tuple(question(problem) for problem in problems)
    with closing(source):
        for found in source.prepare(LoadedProblems(questions, rejected=()), k=1).left(()):
            if found is None:
                continue
            answer, _ = found
            problem = by_id[str(answer.task_id)]
            proposed[problem.task_id] += [Candidate(one, f"model {name}") for one in read_inputs(problem, answer.code)]
    return proposed


def read_inputs(problem: Problem, text: str) -> Iterator[Input]:
    """The inputs in a model's answer: calls of the problem's function, or standard inputs between `---` lines."""
    calls = [one for one in inputs_of(problem).values() if not isinstance(one, StdinInput)]
    if not calls:
        for part in _SEPARATOR.split(_block(text)):
            stdin = part.strip("\n") + "\n"
            if stdin.strip() and len(stdin) <= _MAX_STDIN_CHARACTERS:
                yield StdinInput(stdin)
        return
    arities = {len(one.arguments) for one in calls}
    for line in text.split("\n"):
        arguments = _read_call(line, calls[0].function)
        if isinstance(calls[0], CallInput) and arguments is not None:
            plain = through_json(list(arguments))
            arguments = None if plain is None else tuple(plain)
        if arguments is not None and len(arguments) in arities:
            yield replace(calls[0], arguments=arguments)


def _block(text: str) -> str:
    """The content of the first code block, or the text before the fence that closes the block of the request."""
    parts = _FENCE.split(text)
    if len(parts) == 2:
        return max(parts, key=len)  # cut off at the length limit, or the end of the request's own block
    return parts[1] if len(parts) > 2 else text


def _read_call(line: str, function: str) -> tuple[object, ...] | None:
    """The arguments of the first call of `function` in a line, whatever surrounds it."""
    start = line.find(f"{function}(")
    ends = (found.end() for found in re.finditer(r"\)", line) if 0 <= start < found.start())
    attempts = (call_arguments(line[start:end], function) for end in ends)
    return next((arguments for arguments in attempts if arguments is not None), None)

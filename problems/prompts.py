"""What a model is shown of a problem, which part of its answer is the program, and what of it is run.

Supervised training, reinforcement learning and evaluation all come here, so that they see the same characters.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any, Protocol

from problems.site_imports import site_imports
from problems.types import AssertTest, CallTest, Problem, StdinTest

QUESTION = "question"
"""The `benchmark` of what is no programming problem: its statement is asked as it stands."""
_CHAT_REQUEST = "Write a Python program for the task below. Answer with one Python code block and nothing else.\n\n"
_CHAT_CONTINUATION = "Complete the Python function below. Answer with one code block that holds all of it.\n\n"
_FENCE = re.compile(r"^[ \t]*```[^\n`]*$", re.MULTILINE)
# What base models write after the function they were asked to continue (the stop sequences of Chen et al. 2021).
_AFTER_FUNCTION = re.compile(r"\n(?=(?:def|class|if|print)\b|[#@]|```)")
_SOLUTION = re.compile(r"^class Solution\b", re.MULTILINE)
_FUTURE_IMPORT = re.compile(r"^from __future__ import", re.MULTILINE)


class ChatTokenizer(Protocol):
    """The part of a transformers tokenizer that chat prompts need."""

    chat_template: Any

    def apply_chat_template(self, conversation: Any, *, tokenize: bool, add_generation_prompt: bool) -> Any:
        """Render a conversation as text."""


def render_prompt(problem: Problem, tokenizer: ChatTokenizer | None = None) -> str:
    """The prompt of a problem; with a `tokenizer`, in its chat template.

    The formats are those of the benchmarks' papers: APPS's question and answer marks, MBPP's text and asserts,
    HumanEval's function head. A chat prompt holds the template's own special tokens: encode it without adding others.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    if tokenizer is None:
        return _FORMATS.get(problem.benchmark, _by_tests)(problem)
    if not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template; set model.chat_template to false")
    message = {"role": "user", "content": chat_message(problem)}
    return str(tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True))


def chat_message(problem: Problem) -> str:
    """What a user would write to a chat model."""
    if problem.benchmark == QUESTION:
        return problem.statement
    request = _CHAT_CONTINUATION if problem.code_prefix else _CHAT_REQUEST
    return request + _FORMATS.get(problem.benchmark, _by_tests)(problem).strip() + "\n"


def _apps(problem: Problem) -> str:
    kind = "Standard Input" if isinstance(problem.tests[0], StdinTest) else "Call-Based"
    return f"\nQUESTION:\n{problem.statement}\n{problem.starter_code}\nUse {kind} format\nANSWER:\n"


def _mbpp(problem: Problem) -> str:
    shown = problem.tests[: problem.num_visible_tests]
    assertions = "\n".join(test.assertion for test in shown if isinstance(test, AssertTest))
    return f"{problem.statement}\nYour code should satisfy these tests:\n{assertions}\n"


def _by_tests(problem: Problem) -> str:
    return _mbpp(problem) if isinstance(problem.tests[0], AssertTest) and problem.num_visible_tests else _apps(problem)


_FORMATS: dict[str, Callable[[Problem], str]] = {
    "humaneval": lambda problem: problem.code_prefix,
    "starter": lambda problem: f"{problem.statement}\n",
    QUESTION: lambda problem: problem.statement,
}


def extract_program(problem: Problem, text: str) -> tuple[int, int]:
    """The span of characters [start, end) of a completion that is its program.

    The inside of the last code fence that closes, or of one that the length limit left open; without a fence (base
    models) the whole text, but where the completion continues a function, only up to the end of that function. Text
    with fences that is Python as it stands (in a docstring) is taken whole, and so is the answer to a `QUESTION`.
    """
    if problem.benchmark == QUESTION:
        return 0, len(text)
    fences = list(_FENCE.finditer(text))
    if fences and not _is_python(problem.code_prefix + text) and not _is_python(text):
        closed = len(fences) // 2 * 2
        opening = fences[closed - 2] if closed else fences[0]
        start = min(opening.end() + 1, len(text))
        return start, max(start, fences[closed - 1].start()) if closed else len(text)
    if problem.code_prefix and text.lstrip("\n")[:1].isspace():
        after = _AFTER_FUNCTION.search(text, len(text) - len(text.lstrip()))
        return 0, after.start() + 1 if after else len(text)
    return 0, len(text)


def source_before(problem: Problem, program: str) -> str:
    """The source that a submitted program is put behind when it is run; empty where a program stands alone.

    A program may continue the problem's `code_prefix`, or define the whole function again behind it, using its imports
    and helper functions. Call-based problems come from sites that import what their programs use (`List`), so the names
    that the program uses and does not define are imported for it; so they are for a class `Solution` under asserts. A
    program with `__future__` imports, which have to come first, stands alone in any case.
    """
    if _has_future_import(problem.code_prefix, program):
        return ""
    if problem.code_prefix:
        return problem.code_prefix
    if isinstance(problem.tests[0], CallTest) or (
        isinstance(problem.tests[0], AssertTest) and _SOLUTION.search(program)
    ):
        return site_imports(program)
    return ""


def _has_future_import(prefix: str, program: str) -> bool:
    if "__future__" not in program:
        return False
    for source in (program, prefix + program):
        if _is_python(source):
            body = ast.parse(source).body
            return any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in body)
    return bool(_FUTURE_IMPORT.search(program))


def _is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # what the parser says of text that is no program
        return False
    return True

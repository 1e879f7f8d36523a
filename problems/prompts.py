"""What a model is shown of a problem.

Supervised training, reinforcement learning and evaluation all come here, so that they see the same characters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from problems.types import AssertTest, Problem, StdinTest

QUESTION = "question"
"""The `benchmark` of what is no programming problem: its statement is asked as it stands."""
_CHAT_REQUEST = "Write a Python program for the task below. Answer with one Python code block and nothing else.\n\n"
_CHAT_CONTINUATION = "Complete the Python function below. Answer with one code block that holds all of it.\n\n"


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

"""Problems and completions that the tests of all adapters share, with the scores that they deserve."""

from __future__ import annotations

import json
from typing import Any

SQUARE: dict[str, Any] = {
    "task_id": "square",
    "statement": "Read a number and print its square.",
    "tests": [{"stdin": "5\n", "expected": "25\n"}, {"stdin": "2\n", "expected": "4\n"}],
}
MBPP: dict[str, Any] = {
    "task_id": 2,
    "text": "Write a function to double a number.",
    "code": "def double(n):\n    return 2 * n",
    "test_list": ["assert double(2) == 4", "assert double(-1) == -2", "assert double(0) == 0"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
BROKEN: dict[str, Any] = {
    "task_id": "broken",
    "statement": "Its only test fails before it calls the program.",
    "tests": [{"assert": "assert f(1) == 1", "setup": "1 / 0"}],
}
ROW = json.dumps(SQUARE)
BROKEN_ROW = json.dumps(BROKEN)

RIGHT = "Here is the program.\n```python\nprint(int(input()) ** 2)\n```\nIt prints the square."
HALF = "```python\nprint(25)\n```"
WRONG = "I cannot write programs."
ANY = "```python\ndef f(n):\n    return n\n```"
PASS = {RIGHT: 1.0, HALF: 0.0, WRONG: 0.0}
PASS_RATIO = {RIGHT: 1.0, HALF: 0.5, WRONG: 0.0}


def said(text: str) -> list[dict[str, str]]:
    """A chat in which the model says `text`."""
    return [{"role": "assistant", "content": text}]

"""The grader in five lines: rows of problems and what a model wrote, and a typed verdict on each.

python -m examples.grade
"""

from __future__ import annotations

import json
from pathlib import Path

from grader import Grader

ROWS = [json.loads(line) for line in Path(__file__).with_name("own_problems.jsonl").read_text().splitlines()]
COMPLETIONS = [
    "```python\na, b = map(int, input().split())\nprint(a + b)\n```",
    "Just subtract:\n```python\na, b = map(int, input().split())\nprint(a - b)\n```",
    "def reverse_words(text):\n    return 1 / 0\n",
]


def main() -> None:
    """Grade three completions of two problems."""
    problems = [ROWS[0], ROWS[0], ROWS[1]]
    with Grader(workers=2) as grader:
        verdicts = grader.grade_completions(problems, COMPLETIONS)
    for verdict in verdicts:
        passed = sum(test.value == "passed" for test in verdict.tests)
        error = f" ({verdict.error.type} at line {verdict.error.line})" if verdict.error else ""
        print(f"{verdict.task_id}: {verdict.outcome}, {passed} of {len(verdict.tests)} tests{error}")


if __name__ == "__main__":
    main()

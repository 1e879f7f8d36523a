"""BigCodeBench (Zhuo et al. 2024): a function to complete that uses libraries, and a `unittest.TestCase`.

Most of its problems need packages, which the jail has only if `sandbox.packages` names them.
"""

from __future__ import annotations

from typing import Any

from rltf.problems.constants import constant
from rltf.problems.fields import first_text, text_of
from rltf.problems.scope import parse_module
from rltf.problems.syntax import expression_tree
from rltf.problems.types import Problem, UnusableRowError
from rltf.problems.unittest_module import imported_modules, read_unittest_module


def task_id_of(row: Any) -> str | None:
    """The row's `task_id` (`BigCodeBench/0`)."""
    return first_text(row, "task_id")


def to_problem(row: Any) -> Problem:
    """A row of BigCodeBench as a `Problem` whose completions continue `complete_prompt`.

    The statement is `instruct_prompt`, so the template `{statement}` gives BigCodeBench-Instruct. Raises
    UnusableRowError for a missing field, or tests that need more than values.
    """
    task_id = task_id_of(row)
    if task_id is None:
        raise UnusableRowError("task_id: missing")
    keys = ("complete_prompt", "instruct_prompt", "test", "entry_point", "canonical_solution")
    prompt, statement, test, entry_point, solution = (text_of(row, key) for key in keys)
    imported = imported_modules(parse_module(prompt, "complete_prompt"), parse_module(test, "test"))
    modules = dict.fromkeys(module.partition(".")[0] for module in (*_libraries(row), *imported))
    return Problem(
        task_id=task_id,
        benchmark="bigcodebench",
        statement=statement,
        tests=read_unittest_module(test, prompt, entry_point),
        references=(solution,),
        entry_point=entry_point,
        code_prefix=prompt,
        modules=tuple(modules),
    )


def _libraries(row: dict[str, Any]) -> list[str]:
    """The row's `libs`, a list that the Hub holds as text."""
    value = row.get("libs")
    try:
        found = constant(expression_tree(value).body) if isinstance(value, str) else value
    except (SyntaxError, ValueError) as error:
        raise UnusableRowError(f"libs: not a list: {value}") from error
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UnusableRowError("libs: expected a list of names")
    return found

"""KodCode (Xu et al. 2025): a question, and a module of pytest functions about the functions and classes to write."""

from __future__ import annotations

import ast
from typing import Any

from rltf.problems.examples import examples_of
from rltf.problems.fields import first_text, text_of
from rltf.problems.pytest_module import read_pytest_module
from rltf.problems.scope import parse_module
from rltf.problems.types import Problem, UnusableRowError


def task_id_of(row: Any) -> str | None:
    """The row's `question_id`."""
    return first_text(row, "question_id")


def to_problem(row: Any) -> Problem:
    """A row of KodCode as a `Problem`. Raises UnusableRowError for a missing field, or a test that cannot be used."""
    task_id = task_id_of(row)
    if task_id is None:
        raise UnusableRowError("question_id: missing")
    question, solution = text_of(row, "question"), text_of(row, "solution")
    module = read_pytest_module(text_of(row, "test"), solution)
    if not module.names:
        raise UnusableRowError("test: imports nothing from the program")
    return Problem(
        task_id=task_id,
        benchmark="kodcode",
        statement=question,
        tests=module.tests,
        references=(solution,),
        difficulty=first_text(row, "gpt_difficulty"),
        entry_point=module.names[0],
        starter_code=_declarations(solution, module.names, question),
        examples=examples_of(question, module.tests, function=module.names[0]),
    )


def _declarations(solution: str, names: tuple[str, ...], question: str) -> str:
    """The first lines of what the tests call, unless the question already shows them: nothing else names it."""
    lines = []
    for node in parse_module(solution, "solution").body:
        match node:
            case ast.FunctionDef(name=name) if name in names and f"def {name}(" not in question:
                returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
                lines.append(f"def {name}({ast.unparse(node.args)}){returns}:")
            case ast.ClassDef(name=name) if name in names and f"class {name}" not in question:
                bases = ", ".join(map(ast.unparse, node.bases))
                lines.append(f"class {name}({bases}):" if bases else f"class {name}:")
    return "\n".join(lines)

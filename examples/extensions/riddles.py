"""A benchmark: rows with a question and pairs of input and output become problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rltf.problems import Problem, StdinTest, UnusableRowError


def to_problem(row: Mapping[str, Any]) -> Problem:
    """`{"task_id": 1, "question": "...", "examples": [["2 3", "5"]], "level": "easy"}`"""
    if row.get("language") not in (None, "python"):
        raise UnusableRowError(f"language: {row['language']}, but only python is supported")
    return Problem(
        task_id=str(row["task_id"]),
        benchmark="riddles",
        statement=row["question"],
        tests=tuple(StdinTest(stdin, expected) for stdin, expected in row["examples"]),
        difficulty=row.get("level"),
    )

"""EvalPlus (Liu et al. 2023): MBPP+ and HumanEval+, whose rows look like the base benchmarks' and test much more."""

from __future__ import annotations

import re
from typing import Any

from problems.errors import UnusableRowError

_INPUTS = re.compile(r"^[ \t]*inputs[ \t]*=", re.MULTILINE)
_ANSWERS = re.compile(r"^[ \t]*results[ \t]*=|\b(?:assertion|ref_func)\(", re.MULTILINE)
_COLUMNS = ("base_input", "plus_input")


def refuse_evalplus(row: Any, name: str, kind: str) -> None:
    """Refuse a row of EvalPlus, rather than read it as its base tests.

    Raises:
        UnusableRowError: says so.
    """
    if not isinstance(row, dict):
        return
    test = row.get("test")
    has_inputs = isinstance(test, str) and _INPUTS.search(test) and _ANSWERS.search(test)
    if has_inputs or any(column in row for column in _COLUMNS):
        raise UnusableRowError(
            f"a row of {name} from EvalPlus: its inputs and tolerances are not supported yet; use {kind}:... with the "
            "benchmark's own file for the base tests"
        )

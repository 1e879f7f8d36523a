"""The four classes of a program's outcome that a critic tells apart (Le et al. 2022, CodeRL). Needs no torch."""

from __future__ import annotations

from rltf.sandbox.verdict import Outcome

ERROR_CLASSES = ("syntax_error", "runtime_error", "failed", "passed")
_CLASS_OF = {
    Outcome.SYNTAX_ERROR: 0,
    Outcome.RUNTIME_ERROR: 1,
    Outcome.TIMEOUT: 1,
    Outcome.MEMORY_LIMIT: 1,
    Outcome.OUTPUT_LIMIT: 1,
    Outcome.FAILED: 2,
    Outcome.PASSED: 3,
}


def error_class(outcome: Outcome) -> int:
    """The index into `ERROR_CLASSES` of a program's outcome.

    Raises KeyError for `infrastructure_error`, which says nothing about a program, and for `skipped`.
    """
    return _CLASS_OF[outcome]

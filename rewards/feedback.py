"""The rewards of single programs: coarse, adaptive, and where the fine penalty of an error falls.

Liu et al. 2023 (RLTF), section 3.2, with the gaps closed as docs/method.md says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rewards.syntax_facts import code_lines, unclosed_triple_quote_line, unmatched_dedent_line
from rewards.types import Category, Sample
from sandbox.verdict import Outcome, Verdict
from settings import AdaptiveScope

FINE_PENALTY = -0.3

_COARSE = {
    Outcome.PASSED: 1.0,
    Outcome.FAILED: -0.3,
    Outcome.RUNTIME_ERROR: -0.6,
    Outcome.TIMEOUT: -0.6,
    Outcome.MEMORY_LIMIT: -0.6,
    Outcome.OUTPUT_LIMIT: -0.6,
    Outcome.SYNTAX_ERROR: -1.0,
}
_NOT_AN_ERROR = (Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED)


def coarse_rewards(verdicts: Sequence[Verdict]) -> NDArray[np.float64]:
    """R_coarse of each program [N]. Raises ValueError for an outcome that is never scored."""
    for verdict in verdicts:
        if verdict.outcome not in _COARSE:
            raise ValueError(f"completion {verdict.completion_id!r}: outcome {verdict.outcome} is never scored")
    return np.array([_COARSE[verdict.outcome] for verdict in verdicts], dtype=np.float64)


def adaptive_rewards(verdicts: Sequence[Verdict], scope: AdaptiveScope) -> NDArray[np.float64]:
    """R_adaptive = -0.3 + 1.3 * N_pass / (N_pass + N_fail) of each program [N], 0 where `scope` leaves it out.

    A test that crashed, timed out or was skipped counts as not passed. `ran` leaves out syntax errors only, the other
    scopes everything but wrong answers.
    """
    ratios = np.array([verdict.pass_ratio for verdict in verdicts], dtype=np.float64)
    outcomes = [verdict.outcome for verdict in verdicts]
    if scope is AdaptiveScope.RAN:
        inside = [outcome is not Outcome.SYNTAX_ERROR for outcome in outcomes]
    else:
        inside = [outcome is Outcome.FAILED for outcome in outcomes]
    return np.where(inside, -0.3 + 1.3 * ratios, 0.0)


def error_category(sample: Sample, *, located: bool, timeout: Category, unlocated: Category) -> Category | None:
    """Where the fine penalty of the program's first error (in test order) falls; None for no error but wrong answers.

    Decided by what the grader saw, the class of the error and the source, never by a message, which differs between
    versions of Python. `located` says whether the error's line has tokens, `timeout` is the category of a timeout,
    `unlocated` that of an error without a line. A program reports its own runtime errors: where `unlocated` is GLOBAL,
    a line without code counts as none, so that neither hiding a line nor naming a comment makes the penalty smaller.
    """
    verdict = sample.verdict
    if verdict.outcome is Outcome.SYNTAX_ERROR:
        return _syntax_category(sample, located, unlocated)
    first = next((test for test in verdict.tests if test not in _NOT_AN_ERROR), verdict.outcome)
    kind, number = (None, None) if verdict.error is None else (verdict.error.type, verdict.error.line)
    if unlocated is Category.GLOBAL:
        located = located and number in code_lines(sample.program)
    match first:
        case Outcome.TIMEOUT:
            return timeout
        case Outcome.OUTPUT_LIMIT:
            return Category.GLOBAL
        case Outcome.MEMORY_LIMIT:
            return Category.LINE if located and kind == "MemoryError" else Category.GLOBAL
        case Outcome.RUNTIME_ERROR if kind == "RecursionError":
            return Category.GLOBAL
        case Outcome.RUNTIME_ERROR:
            return Category.LINE if located else unlocated
    return None


def _syntax_category(sample: Sample, located: bool, unlocated: Category) -> Category:
    """A program cut off at the length limit is no one line's fault; some errors' lines are not where the mistake is."""
    if sample.truncated:
        return Category.GLOBAL
    error = sample.verdict.error
    if error is None:
        return unlocated
    elsewhere = (
        error.type == "TabError"
        or (error.type == "IndentationError" and unmatched_dedent_line(sample.program) == error.line)
        or (error.type == "SyntaxError" and unclosed_triple_quote_line(sample.program) == error.line)
    )
    return Category.LINE if located and not elsewhere else unlocated

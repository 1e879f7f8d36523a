"""Benchmarks as one type.

Every benchmark (`starter`, `apps`, `mbpp`, `humaneval`, rows of one's own) becomes a tuple of `Problem`s. Invariants:
a `Problem` has at least one test; everything a test needs was checked when it was loaded; a row that cannot be used is
named with its file, line and reason, never skipped in silence. This room knows neither Ray nor a model.
"""

from problems.errors import RejectedRow, describe_rejected
from problems.spec import LoadedProblems, load
from problems.types import AssertTest, CallTest, CheckTest, Problem, StdinTest, Test

__all__ = [
    "AssertTest",
    "CallTest",
    "CheckTest",
    "LoadedProblems",
    "Problem",
    "RejectedRow",
    "StdinTest",
    "Test",
    "describe_rejected",
    "load",
]

"""Benchmarks as one type.

Every benchmark (`starter`, `apps`, `mbpp` and others, your own rows) becomes a tuple of `Problem`s. Invariants: a
`Problem` has at least one test; loading it checks everything its tests need; a row that cannot be used is reported
with file, line and reason, never skipped silently. This room does not know Ray, models or any other room.
"""

from problems.spec import LoadedProblems, load
from problems.types import AssertTest, CallTest, CheckTest, Problem, RejectedRow, StdinTest, Test, describe_rejected

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

"""Benchmarks as one type.

Every benchmark (docs/problem-sets.md) and your own rows become a tuple of `Problem`s. Invariants: a `Problem` has at
least one test; loading it checks everything its tests need; a row that cannot be used is reported with file, line and
reason, never skipped silently. This room knows neither Ray nor models, and no room but the settings.
"""

from rltf.problems.benchmark import Benchmark
from rltf.problems.spec import LoadedProblems, load
from rltf.problems.types import (
    AssertTest,
    CallTest,
    CheckTest,
    Problem,
    RejectedRow,
    StdinTest,
    Test,
    UnusableRowError,
    describe_rejected,
)

__all__ = [
    "AssertTest",
    "Benchmark",
    "CallTest",
    "CheckTest",
    "LoadedProblems",
    "Problem",
    "RejectedRow",
    "StdinTest",
    "Test",
    "UnusableRowError",
    "describe_rejected",
    "load",
]

"""Benchmarks as one type.

Every benchmark (docs/problem-sets.md) and your own rows become a tuple of `Problem`s. Invariants: a `Problem` has at
least one test; loading it checks everything its tests need; a row that cannot be used is reported with file, line and
reason, never skipped silently. This room knows neither Ray nor models, and no room but the settings.
"""

from rltf.problems.benchmark import Benchmark as Benchmark
from rltf.problems.spec import LoadedProblems as LoadedProblems
from rltf.problems.spec import load as load
from rltf.problems.types import AssertTest as AssertTest
from rltf.problems.types import CallTest as CallTest
from rltf.problems.types import CheckTest as CheckTest
from rltf.problems.types import Problem as Problem
from rltf.problems.types import RejectedRow as RejectedRow
from rltf.problems.types import StdinTest as StdinTest
from rltf.problems.types import Test as Test
from rltf.problems.types import UnusableRowError as UnusableRowError
from rltf.problems.types import describe_rejected as describe_rejected

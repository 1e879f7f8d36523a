"""The benchmark files in the folder BENCHMARK_DATA. Each is read once in a process."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from rltf.problems import load
from rltf.problems.spec import LoadedProblems
from rltf.sandbox.admission import reason_to_refuse
from rltf.settings import SandboxSettings

DATA = Path(os.environ.get("BENCHMARK_DATA", "absent")).resolve()
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="BENCHMARK_DATA is not a folder with benchmark data")


@cache
def benchmark(spec: str) -> LoadedProblems:
    """The problems of a SPEC, which has `{}` instead of the folder. What the sandbox would refuse is in `rejected`."""
    return load(spec.format(DATA), reason_to_refuse(SandboxSettings()))

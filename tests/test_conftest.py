"""Ray and vLLM start in marked tests only, whatever starts them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
NEEDS_MARK = "this test needs pytest.mark.ray"
STARTS = """
import os, subprocess, sys
import pytest

RAY = "import ray; ray.init(address='local', num_cpus=1, include_dashboard=False)"

@pytest.fixture
def started():
    exec(RAY)

def test_ray(): exec(RAY)
def test_ray_in_a_fixture(started): pass
def test_ray_in_another_process(): subprocess.run([sys.executable, "-c", RAY], check=True)
def test_vllm(): from vllm import LLM; LLM("/no/model")

@pytest.mark.ray
def test_marked(): assert not {"RAY_TMPDIR", "VLLM_CONFIGURE_LOGGING"} & set(os.environ)
"""


@pytest.mark.slow
def test_neither_starts_without_the_mark(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "VLLM_CONFIGURE_LOGGING"):  # set for this test itself
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())
    pytester.makeini("[pytest]\nmarkers =\n    ray: starts Ray or vLLM\n    xdist_group: a group\n")
    pytester.makepyfile(STARTS)
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    done.assert_outcomes(passed=1, failed=3, errors=1)
    sections = re.split(r"^_+ (?:ERROR at setup of )?test_", done.stdout.str(), flags=re.MULTILINE)[1:]
    assert len(sections) == 4
    assert all(NEEDS_MARK in section for section in sections)

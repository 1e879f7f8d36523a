"""What all tests share: a tiny real model folder, one small Ray for the session, and the rules of the test tiers.

A test that starts Ray or vLLM has the mark `ray`: by itself if it asks for one of the fixtures below, or from its file.
In every other test, both refuse to start, in this process and in those that the test starts.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch, because tests share the cores

import pytest
from hypothesis import settings

from tests.tiny_model import build_tiny_model

# Properties are about values, so they must not fail because a machine is busy. `make test-fast` tries few values, and
# `make test-long` many.
settings.register_profile("any_machine", deadline=None)
settings.register_profile("few", deadline=None, max_examples=20)
settings.register_profile("many", deadline=None, max_examples=1000)
settings.load_profile("any_machine")


STARTS_RAY = {"ray_session", "running", "vllm_process"}
NEEDS_MARK = "this test needs pytest.mark.ray"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts Ray, and run it first: it takes longest.

    With several workers, one of them runs whole jobs and one runs single actors, each with a Ray of its own, since both
    wait for imports of one core most of the time. The tests of any other file stay together: they share sandboxes.
    """
    for item in items:
        if isinstance(item, pytest.Function) and STARTS_RAY & set(item.fixturenames):
            item.add_marker(pytest.mark.ray)
        file = item.nodeid.partition("::")[0]
        if item.get_closest_marker("ray") is not None:
            file = "jobs" if file.startswith("tests/controller/") else "actors"
        item.add_marker(pytest.mark.xdist_group(file))
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Keep Ray and vLLM from starting in a test without the mark, or in a fixture that it asks for."""
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("ray") is None:
            patch.setenv("RAY_TMPDIR", f"/dev/null/{NEEDS_MARK}")  # where Ray makes the folder of its session
            patch.setenv("VLLM_CONFIGURE_LOGGING", NEEDS_MARK)  # a number, read when vLLM builds an engine
        return (yield)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face model folder (config, weights, tokenizer) with about 100,000 parameters. Do not change it."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A private Ray for this test session: 8 logical CPUs and an object store of 200 MB."""
    import ray

    ray.init(
        address="local",  # never another Ray on this machine
        num_cpus=8,
        object_store_memory=200 * 1024 * 1024,
        include_dashboard=False,
        configure_logging=False,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()

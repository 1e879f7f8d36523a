"""Fixtures shared by all rooms: a tiny real model folder, and one small Ray for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch, because tests share the cores

import pytest
from hypothesis import settings

from tests.tiny_model import build_tiny_model

# Properties are about values, so they must not fail because a machine is busy.
settings.register_profile("any_machine", deadline=None)
settings.load_profile("any_machine")


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

"""The environments of trainers that do not go with the locks, for tests with the real libraries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rltf.errors import UserError
from scripts.trainer_venv import make


def interpreter(name: str) -> Path:
    """The interpreter of an environment. Skips the test if it cannot be made, but not in CI."""
    try:
        return make(name)
    except UserError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))

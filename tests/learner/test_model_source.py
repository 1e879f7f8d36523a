"""A model that cannot be found is reported quickly, whatever the Hub does."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from rltf.errors import UserError
from rltf.learner import model_source
from rltf.learner.model_source import model_folder


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(model_source, "HUB_ANSWER_S", 0.2)
        yield


@pytest.mark.usefixtures("silent_hub")
def test_silent_hub_times_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nobody/nothing is not a local folder and was not found on the Hub"):
        model_folder("nobody/nothing", (), tmp_path, seed=0)


def test_unreachable_hub_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="give a model folder, or a Hub id and access to the Hub"):
        model_folder("nobody/nothing", (), tmp_path, seed=0)

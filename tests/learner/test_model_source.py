"""A model that cannot be found is reported quickly, whatever the Hub does."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import LlamaConfig

from rltf.errors import UserError
from rltf.learner import model_source
from rltf.learner.model_source import architecture, model_folder


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


def test_an_architecture_is_found_without_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    LlamaConfig(hidden_size=64, attention_dropout=0.5).save_pretrained(tmp_path)
    fetched: list[object] = []

    def snapshot_download(name: str, **options: object) -> str:
        fetched.append((name, options["allow_patterns"]))
        return str(tmp_path)

    monkeypatch.setattr(model_source, "snapshot_download", snapshot_download)
    monkeypatch.setattr(model_source, "_hub_answers", lambda: True)
    for name in (str(tmp_path), "somebody/something"):
        config = architecture(name)
        assert config is not None
        assert (config.hidden_size, config.attention_dropout) == (64, 0.0)
    assert fetched == [("somebody/something", ["config.json"])]
    assert architecture("tiny") is architecture("folder/model.gguf") is None


@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing/a.gguf"])
def test_a_full_disk_is_not_taken_for_an_absent_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    for function in ("snapshot_download", "hf_hub_download"):
        monkeypatch.setattr(f"rltf.learner.model_source.{function}", fail)
    message = rf"{name} cannot be downloaded: No space left on device: {tmp_path}; make room, or set HF_HOME"
    with pytest.raises(UserError, match=message):
        model_folder(name, (), tmp_path, seed=0)

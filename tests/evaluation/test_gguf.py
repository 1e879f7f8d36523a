"""`rltf evaluate --model NAME.gguf` samples from the same folder that training uses, or says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rltf.evaluate import main
from rltf.evaluation.model import SampledModel
from rltf.settings import CACHE_DIR
from tests.gguf_files import write_gguf


def test_dequantized_into_the_cache_of_training(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_gguf(tmp_path / "NAME.gguf", tiny_model_dir)
    model = SampledModel(name=str(file), num_samples=1, temperature=0.0, top_p=1.0, max_tokens=8, seed=0)
    found = model.identity
    assert (found["model"], found["max_length"]) == (str(file), 256)  # the length is the file's context
    assert [path.name.partition("-")[0] for path in (tmp_path / CACHE_DIR).iterdir()] == ["gguf"]


def test_truncated_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "NAME.gguf").write_bytes(b"GGUF\x03")
    assert main(["--model", "NAME.gguf", "--problems", "starter:test[0:1]", "--output", "out"]) == 2
    assert "NAME.gguf: it is truncated or damaged" in capsys.readouterr().err

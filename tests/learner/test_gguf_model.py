"""Models from GGUF files: the same model as a plain folder, and one message for each file that cannot be read."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from rltf.errors import UserError
from rltf.learner.model_source import model_folder
from rltf.transport.model_folder import check_model_folder, end_token_ids, load_model, load_tokenizer
from tests import gguf_files
from tests.families import build_family
from tests.gguf_files import gguf, write_gguf, write_undequantizable
from tests.jobs import python
from tests.tiers import examples, first_fast

TEXT = "def solve(values):\n    return sum(values)  # naïve 日本 2024\n"


def plain(model_dir: Path, quantization: Any) -> Any:
    """The model with its matrices as the quantization leaves them."""
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                stored = gguf.quantize(parameter.numpy(), quantization)
                parameter.copy_(torch.from_numpy(gguf.dequantize(stored, quantization)))
    return model


@pytest.fixture(scope="module")
def qwen_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_family("qwen2", tmp_path_factory.mktemp("qwen2"), chat=True)


@pytest.fixture(scope="module")
def llama_file(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    return write_gguf(tmp_path_factory.mktemp("llama") / "tiny.gguf", tiny_model_dir)


@pytest.mark.parametrize("quantization", first_fast(["Q4_0", "F16", "BF16", "Q8_0", "Q4_1"]))
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_same_model(family: str, quantization: str, tmp_path: Path, tiny_model_dir: Path, qwen_dir: Path) -> None:
    source = tiny_model_dir if family == "llama" else qwen_dir
    kind = gguf.GGMLQuantizationType[quantization]
    file = write_gguf(tmp_path / "NAME.gguf", source, kind)
    folder = model_folder(str(file), (), tmp_path / "cache", seed=0)
    config = json.loads((folder / "config.json").read_text())
    assert (config["dtype"], "quantization_config" in config) == ("float32", False)
    ids = torch.arange(1, 200)[None]
    with torch.no_grad():
        found, expected = load_model(folder, torch.float32)(ids).logits, plain(source, kind)(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_tokenizer_with_its_template(tmp_path: Path, qwen_dir: Path) -> None:
    file = write_gguf(tmp_path / "NAME.gguf", qwen_dir)
    folder = model_folder(str(file), (), tmp_path / "cache", seed=0)
    tokenizers = [load_tokenizer(path) for path in (folder, qwen_dir)]
    chat = [{"role": "user", "content": TEXT}]
    texts = [one.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for one in tokenizers]
    assert texts[0] == texts[1]
    assert tokenizers[0](texts[0])["input_ids"] == tokenizers[1](texts[1])["input_ids"]
    ends = [end_token_ids(path, one, chat=True) for path, one in zip((folder, qwen_dir), tokenizers, strict=True)]
    assert set(ends[0]) == set(ends[1])


def test_written_once_for_each_content(tmp_path: Path, llama_file: Path, tiny_model_dir: Path) -> None:
    folder = model_folder(str(llama_file), (), tmp_path, seed=0)
    written = (folder / "config.json").stat().st_mtime_ns
    moved = Path(shutil.copy(llama_file, tmp_path / "moved.GGUF"))
    assert model_folder(str(moved), (), tmp_path, seed=1) == folder
    assert (folder / "config.json").stat().st_mtime_ns == written
    other = write_gguf(moved, tiny_model_dir, gguf.GGMLQuantizationType.F16)
    assert model_folder(str(other), (), tmp_path, seed=0) != folder


def test_folder_with_a_gguf_file(llama_file: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json; name its GGUF file: .*/tiny\.gguf"):
        check_model_folder(llama_file.parent)


def test_unknown_architecture(tmp_path: Path, tiny_model_dir: Path) -> None:
    file = write_gguf(tmp_path / "NAME.gguf", tiny_model_dir, architecture="nonesuch")
    with pytest.raises(UserError, match=r"cannot read .*NAME\.gguf .*nonesuch.*; use the Hugging Face folder"):
        model_folder(str(file), (), tmp_path / "cache", seed=0)
    assert not (tmp_path / "cache").exists()


def test_unsupported_quantization(tmp_path: Path) -> None:
    file = write_undequantizable(tmp_path / "NAME.gguf")
    with pytest.raises(UserError, match="weights of type Q8_1, which cannot be dequantized; use another quantization"):
        model_folder(str(file), (), tmp_path, seed=0)


@pytest.fixture(scope="module")
def cut_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cut") / "NAME.gguf"


@examples(0.6)
@given(st.data())
def test_truncated_anywhere(llama_file: Path, cut_file: Path, data: st.DataObject) -> None:
    content = llama_file.read_bytes()
    cut_file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(UserError, match=r"cannot read .*NAME\.gguf: it is truncated or damaged.*; download it again"):
        model_folder(str(cut_file), (), cut_file.parent / "cache", seed=0)


def test_part_of_a_model(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gguf_files.quantized_weights
    monkeypatch.setattr(
        gguf_files,
        "quantized_weights",
        lambda *arguments: {name: value for name, value in whole(*arguments).items() if "layers.1." not in name},
    )
    file = write_gguf(tmp_path / "NAME-00001-of-00002.gguf", tiny_model_dir)
    with pytest.raises(UserError, match=r"lacks 9 of the model's weights, such as model\.layers\.1\..*merge the parts"):
        model_folder(str(file), (), tmp_path / "cache", seed=0)


def test_no_room_on_the_disk(tmp_path: Path, llama_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    with pytest.raises(UserError, match=r"needs 0\.\d GB when dequantized, and .* has only 0\.0 GB left; make room"):
        model_folder(str(llama_file), (), tmp_path / "cache", seed=0)


@pytest.mark.slow
def test_a_disk_that_is_full_while_it_is_written(tmp_path: Path, llama_file: Path) -> None:
    """A limit on the size of files stands in for the end of the disk."""
    program = (
        "import pathlib, resource, sys\nfrom rltf.errors import UserError\n"
        "from rltf.learner.model_source import model_folder\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: model_folder(sys.argv[1], (), pathlib.Path(sys.argv[2]), seed=0)\n"
        "except UserError as error: print(error)\n"
    )
    said = python("-c", program, str(llama_file), str(tmp_path)).stdout
    assert re.search(r"tiny\.gguf cannot be dequantized to .*gguf-.*; make room, or set learner\.sft\.cache_dir", said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["absent.gguf", "folder/absent.gguf", "/folder/with/absent.gguf", "~/a/b/absent.gguf"])
def test_no_such_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: .*absent\.gguf; give FOLDER/NAME\.gguf, or ORG/REPO/NAME"):
        model_folder(name, (), tmp_path, seed=0)


def test_not_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rltf.learner.model_source.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"nobody/nothing/a\.gguf is not a local file and was not found on the Hub"):
        model_folder("nobody/nothing/a.gguf", (), tmp_path, seed=0)


def test_a_file_of_the_hub(tmp_path: Path, llama_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repo_id: str, filename: str, *, local_files_only: bool) -> str:
        asked.append((repo_id, filename, local_files_only))
        return str(llama_file)

    monkeypatch.setattr("rltf.learner.model_source.hf_hub_download", download)
    monkeypatch.setattr("rltf.learner.model_source._hub_answers", lambda: True)
    folder = model_folder("org/repo/part/NAME.gguf", (), tmp_path, seed=0)
    assert asked == [("org/repo", "part/NAME.gguf", False)]
    assert (folder / "config.json").is_file()

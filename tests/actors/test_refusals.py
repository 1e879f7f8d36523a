"""Requests, updates and model folders that are refused, with messages that name the cause."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from rltf.actors.engine import EngineOptions, build_engine
from rltf.actors.prompting import Prompter
from rltf.errors import UserError
from rltf.settings import GeneratorSettings, ModelSettings
from rltf.transport.model_folder import check_model_folder, end_token_ids, load_tokenizer
from tests.actors.sampling import Weights, engine_options

MAX_LENGTH = 256


def options(dtype: str = "float32") -> EngineOptions:
    return engine_options(dtype, MAX_LENGTH, max_num_seqs=4, kv_cache_bytes=2**24, end_token_ids=(1,))


@pytest.mark.parametrize("name", [pytest.param("vllm", marks=pytest.mark.ray), "transformers"])
def test_an_update_that_lacks_a_parameter_is_refused(
    name: Literal["vllm", "transformers"], tiny_model_dir: Path, make_weights: Callable[[int], Weights]
) -> None:
    weights = make_weights(1)
    del weights["model.norm.weight"]
    settings = GeneratorSettings(engine=name, num_gpus=0, max_num_seqs=4, kv_cache_bytes=2**24)
    model = ModelSettings(dtype="float32", max_model_len=MAX_LENGTH)
    engine = build_engine(tiny_model_dir, model, settings, end_ids=(1,), seed=0)
    with closing(engine), pytest.raises(ValueError, match=r"weight update without model\.norm\.weight"):
        engine.load_weights(1, weights.items())


@pytest.mark.ray
def test_a_length_beyond_the_context_is_named(tiny_model_dir: Path) -> None:
    from rltf.actors.vllm_engine import VllmEngine

    longer = dataclasses.replace(options(), model=ModelSettings(dtype="float32", max_model_len=2 * MAX_LENGTH))
    with pytest.raises(UserError, match=r"model\.max_model_len 512 exceeds the context"):
        VllmEngine(tiny_model_dir, longer)


@pytest.mark.ray
def test_heads_that_workers_cannot_share_are_named(tiny_model_dir: Path) -> None:
    from rltf.actors.vllm_engine import VllmEngine

    three = options().generator.model_copy(update={"tensor_parallel_size": 3})
    with pytest.raises(UserError, match=r"generator\.tensor_parallel_size 3 does not fit .*heads \(2\)"):
        VllmEngine(tiny_model_dir, dataclasses.replace(options(), generator=three))


@pytest.fixture
def model_copy(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


@pytest.mark.ray
def test_an_architecture_unknown_to_vllm_is_named(model_copy: Path) -> None:
    from rltf.actors.vllm_engine import VllmEngine

    config = model_copy / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "NoSuchForCausalLM").replace("llama", "t5"))
    with pytest.raises(UserError, match=r"(?s)NoSuchForCausalLM.*--generator\.engine transformers") as caught:
        VllmEngine(model_copy, options())
    assert len(str(caught.value)) < 1000


def test_a_folder_without_model_is_named(model_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a directory: .*absent"):
        check_model_folder(tmp_path / "absent")
    for weights in model_copy.glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(UserError, match="no weights"):
        check_model_folder(model_copy)
    (model_copy / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        check_model_folder(model_copy)
    (model_copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"it has no config\.json"):
        check_model_folder(model_copy)


def test_a_folder_without_a_usable_tokenizer_is_named(model_copy: Path) -> None:
    settings = model_copy / "tokenizer_config.json"
    fields = json.loads(settings.read_text())
    del fields["eos_token"]
    settings.write_text(json.dumps(fields))
    with pytest.raises(UserError, match="has no end token"):
        load_tokenizer(model_copy)
    for file in model_copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match=r"tokenizer of .* does not load"):
        load_tokenizer(model_copy)


def test_a_chat_prompt_needs_a_chat_template(tiny_model_dir: Path) -> None:
    with pytest.raises(UserError, match="has no chat template; set it to off or auto"):
        Prompter(tiny_model_dir, {}, ModelSettings(chat_template="on"))


def test_generation_config_adds_end_tokens(model_copy: Path) -> None:
    tokenizer = load_tokenizer(model_copy)
    (model_copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, tokenizer.eos_token_id]}))
    assert end_token_ids(model_copy, tokenizer, chat=False) == (tokenizer.eos_token_id, 7)

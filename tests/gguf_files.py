"""GGUF files of tiny models, written as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed: make setup")
Q8_0 = gguf.GGMLQuantizationType.Q8_0
_NORMAL, _CONTROL = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL


def write_gguf(file: Path, model_dir: Path, quantization: Any = Q8_0, *, architecture: str | None = None) -> Path:
    """Write the Llama or Qwen2 in `model_dir` to `file`; `architecture` is what the file says it is."""
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    config = model.config
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(file, architecture or config.model_type)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _add_tokenizer(writer, AutoTokenizer.from_pretrained(model_dir))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[config.model_type.upper()], config.num_hidden_layers)
    for name, weights in quantized_weights(model, quantization).items():
        values, kind = weights
        values = _interleaved(name, values, config)
        stored = gguf.quantize(values, kind) if kind != gguf.GGMLQuantizationType.F32 else values
        base, _, suffix = name.rpartition(".")
        writer.add_tensor(f"{names.get_name(base)}.{suffix}", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def write_undequantizable(file: Path) -> Path:
    """Write a file whose weights have a type that is only used for activations, so that nothing dequantizes it."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((1, 40), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def quantized_weights(model: Any, quantization: Any) -> dict[str, tuple[Any, Any]]:
    """The values of each weight, and the type it is stored in: matrices are quantized."""
    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    plain = gguf.GGMLQuantizationType.F32
    return {name: (values, quantization if values.ndim == 2 else plain) for name, values in weights.items()}


def _interleaved(name: str, values: Any, config: Any) -> Any:
    """Rows of queries and keys of a Llama in llama.cpp's order: the two halves of each head alternate."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    part = name.split(".")[-2]
    if config.model_type != "llama" or part not in heads:
        return values
    halves = values.reshape(heads[part], 2, values.shape[0] // heads[part] // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def _add_tokenizer(writer: Any, tokenizer: Any) -> None:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["id"] for token in state["added_tokens"] if token["special"]}
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if place in special else _NORMAL for place in range(len(tokens))])
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in state["model"]["merges"]]
    )
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)

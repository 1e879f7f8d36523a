"""Tiny random models of every family that vLLM can sample from, each with the tokenizer class of its family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    CodeGenConfig,
    CodeGenTokenizer,
    GPT2Config,
    GPT2Tokenizer,
    GPTNeoXConfig,
    GPTNeoXTokenizer,
    LlamaConfig,
    LlamaTokenizer,
    Qwen2Config,
    Qwen2Tokenizer,
    Starcoder2Config,
)

from tests.small_tokenizers import byte_level_bpe, sentencepiece_bpe

CONTEXT = 512
WINDOW = 448

# ChatML. A turn ends with a line end after a special token, which is not the tokenizer's end token here.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
_GROUPED = _SHAPE | {"num_key_value_heads": 1, "max_position_embeddings": CONTEXT}
_GPT = {"n_layer": 2, "n_positions": CONTEXT}
# Configuration, tokenizer and shape. All heads have 32 dimensions, which vLLM's CPU kernels support.
_FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaTokenizer, _GROUPED),
    "qwen2": (Qwen2Config, Qwen2Tokenizer, _GROUPED | {"tie_word_embeddings": True}),
    "starcoder2": (Starcoder2Config, GPT2Tokenizer, _GROUPED | {"sliding_window": WINDOW}),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXTokenizer, _SHAPE | {"max_position_embeddings": CONTEXT, "rotary_pct": 0.25}),
    "gpt2": (GPT2Config, GPT2Tokenizer, _GPT | {"n_embd": 64, "n_head": 2}),
    # Two heads for each of the four blocks of the fused projection.
    "codegen": (CodeGenConfig, CodeGenTokenizer, _GPT | {"n_embd": 256, "n_head": 8, "rotary_dim": 16}),
}
FAMILIES = tuple(_FAMILIES)


def build_family(family: str, folder: Path, *, chat: bool = False) -> Path:
    """Write a two-layer model of `family` into `folder`, with random weights, biases and gains."""
    configuration, _, shape = _FAMILIES[family]
    tokenizer = build_tokenizer(family, chat=chat)
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    torch.manual_seed(0)
    # A wide distribution, so log-probabilities differ clearly between tokens.
    config = configuration(**shape, **ids, initializer_range=0.2)
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # new biases are 0 and new gains 1, so tests would not notice if they got lost
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_tokenizer(family: str, *, chat: bool = False) -> Any:
    """A tokenizer of the family's own class with about 400 tokens; with `chat`, it has a chat template."""
    _, tokenizer_class, _ = _FAMILIES[family]
    trained = json.loads((sentencepiece_bpe() if family == "llama" else byte_level_bpe()).to_str())["model"]
    merges = [tuple(pair) for pair in trained["merges"]]
    vocabulary, end = dict(trained["vocab"]), "<|endoftext|>"
    if family == "llama":
        end = "</s>"
        vocabulary |= {token: len(vocabulary) + i for i, token in enumerate(("<unk>", "<s>", end))}
    more = ["<|im_start|>", "<|im_end|>"] if chat else []
    tokenizer = tokenizer_class(vocab=vocabulary, merges=merges, eos_token=end, additional_special_tokens=more)
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer

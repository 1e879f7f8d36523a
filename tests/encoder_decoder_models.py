"""Tiny random encoder-decoder models of the kinds used for code, in folders like on the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from tests.small_tokenizers import CORPUS

# How the kinds differ. CodeT5: first version of T5, RobertaTokenizer, PyTorch weights. CodeT5+ (220m, 770m): the same
# with float16 weights. T5 (1.1, Flan): gated activation, outputs not scaled.
KINDS = ("codet5", "codet5p", "t5")
_SHAPE: dict[str, dict[str, Any]] = {
    "codet5": {"num_layers": 2},
    "codet5p": {"num_layers": 3},
    "t5": {"num_layers": 2, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
_SENTINELS = [f"<extra_id_{i}>" for i in range(4)]


def build_encoder_decoder(kind: str, folder: Path, *, seed: int = 0, texts: tuple[str, ...] = ()) -> Path:
    """Write a model of `kind` into `folder`. Its vocabulary comes from the small corpus and `texts`."""
    corpus = [*CORPUS, *texts]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = (_fast if kind == "t5" else _roberta)(folder, corpus)
    fields: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_heads": 2,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 16,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
        "n_positions": 24,  # the length in pre-training; T5 accepts longer inputs, and all code here must too
    }
    config = T5Config(**fields | _SHAPE[kind])
    torch.manual_seed(seed)
    model: Any = T5ForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "relative_attention_bias" in name or ".q." in name:
                parameter *= 6  # so attention and distances affect the logits visibly
        if not config.scale_decoder_outputs:
            model.shared.weight *= 0.1  # otherwise probabilities are too small to compare in float32
    if kind == "codet5p":
        model.half()
    if kind == "t5":
        model.save_pretrained(folder)
    else:
        config.architectures = ["T5ForConditionalGeneration"]
        config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def _roberta(folder: Path, corpus: list[str]) -> Any:
    """Byte-level merges with Roberta's special tokens, in the same files as CodeT5."""
    names = {
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    _byte_level([*names.values()], corpus).model.save(str(folder))  # vocab.json and merges.txt
    more = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 512, "additional_special_tokens": _SENTINELS}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | more))
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))  # AutoTokenizer needs it
    return AutoTokenizer.from_pretrained(folder)


def _fast(folder: Path, corpus: list[str]) -> Any:
    """T5's special tokens with byte-level merges, because T5's own tokens lose line ends and indentation."""
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=_byte_level(["<pad>", "</s>", "<unk>"], corpus),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def _byte_level(special_tokens: list[str], corpus: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer

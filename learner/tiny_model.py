"""The starter job's policy: a Llama small enough to learn on two CPU cores, built from nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from files import write_folder
from problems.prompts import render_prompt
from problems.types import Problem

VOCABULARY_SIZE = 768
HIDDEN_SIZE = 96
NUM_LAYERS = 3
NUM_HEADS = 3
MAX_LENGTH = 512


def build(cache_dir: Path, problems: Sequence[Problem], *, seed: int) -> Path:
    """A Hugging Face model folder under `cache_dir` with random weights; built once for each seed and vocabulary.

    The tokenizer is a byte-level BPE, digits apart, trained on the prompts and reference programs of `problems`.
    Raises ValueError where there are no problems.
    """
    if not problems:
        raise ValueError("a tiny model needs problems to take its vocabulary from")
    texts = [render_prompt(problem) for problem in problems]
    texts += [reference for problem in problems for reference in problem.references]
    shape = (VOCABULARY_SIZE, HIDDEN_SIZE, NUM_LAYERS, NUM_HEADS, MAX_LENGTH)
    key = hashlib.sha256(json.dumps([shape, seed, texts]).encode()).hexdigest()[:16]
    folder = cache_dir.resolve() / f"tiny-{key}"

    def write(path: Path) -> None:
        tokenizer = _tokenizer(texts)
        tokenizer.save_pretrained(path)
        _model(tokenizer, seed).save_pretrained(path)

    if not folder.is_dir():
        write_folder(folder, write)
    return folder


def _tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>"
    )


def _model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=3 * HIDDEN_SIZE,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_HEADS,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)  # type: ignore[no-untyped-call]

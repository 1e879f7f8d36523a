"""A tiny real model folder with config, random weights and tokenizer."""

from __future__ import annotations

from pathlib import Path

TINY_VOCABULARY_TEXT = (
    "def solve(values):\n    total = 0\n    for value in values:\n        total += value * 2\n    return total\n",
    "Write a function `solve` that takes a list of integers and returns the sum of the even ones.\n",
    "import sys\nprint(sum(int(word) for word in sys.stdin.read().split()))\n",
)


def build_tiny_model(folder: Path, *, seed: int = 0, max_position_embeddings: int = 256) -> Path:
    """Write a randomly initialized two-layer Llama with a byte-level BPE tokenizer of 320 tokens into `folder`.

    Its weights are large (standard deviation 0.2), so log-probabilities differ clearly between tokens and seeds.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TINY_VOCABULARY_TEXT, trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>"
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    fast.save_pretrained(folder)
    return folder

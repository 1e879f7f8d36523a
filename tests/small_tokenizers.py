"""Tiny tokenizers of the kinds that code models use. They are built here, so tests download nothing."""

from __future__ import annotations

import json
from collections.abc import Callable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

END = "<|end|>"

CORPUS = [
    "def solve(values):\n    total = 0\n    for value in values:\n        if value % 2 == 0:\n"
    "            total += value\n    return total\n",
    "import math\n\n\nclass Solution:\n\tdef run(self, n: int) -> int:\n\t\treturn math.isqrt(n)\n",
    "n = int(input())\r\nprint('naïve', n, \"日本\", 'été')\r\nwhile n > 0:\r\n    n -= 1\r\n",
    "try:\n    x = [i for i in range(10)]\nexcept (ValueError, KeyError) as error:\n    raise SystemExit(1)\n",
]


def byte_level_bpe() -> Tokenizer:
    """Like GPT-2, CodeGen, Qwen and CodeT5: merges of bytes, so a token may be part of a character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["        ", "    "])  # runs of spaces as added tokens, as in CodeGen
    return tokenizer


def sentencepiece_bpe() -> Tokenizer:
    """Like Llama: spaces are U+2581, unknown characters become byte tokens, and merges may cross lines."""
    pieces = [END, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token=None, byte_fallback=True, fuse_unk=False))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n[^\n]*|[^\n]+"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=pieces, limit_alphabet=60, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][:1]  # only END is special, since byte tokens are text
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def character_level() -> Tokenizer:
    """One token per character, like small models trained from scratch."""
    characters = sorted({*"".join(CORPUS), *map(chr, range(32, 127)), *"\n\t\r\f\u2028😀"})
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate([END, "<unk>", *characters])}, "<unk>"))
    tokenizer.add_special_tokens([END])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "byte_level_bpe": byte_level_bpe,
    "sentencepiece_bpe": sentencepiece_bpe,
    "character_level": character_level,
}

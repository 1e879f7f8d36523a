"""Which characters of a sampled text each sampled token stands for, computed from the ids themselves.

Decoding a text and tokenizing it again may split it differently from how it was sampled, so nothing here tokenizes:
every id has its bytes (from the tokenizer's vocabulary and decoder), whose positions give the characters.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """`pieces[i]` holds the bytes of id `i`; it is empty for special tokens, which decoding skips.

    `is_fallback[i]` marks SentencePiece's `<0xNN>` tokens. `byte_fallback` says if the decoder turns them into bytes.
    """

    size: int
    pieces: tuple[bytes, ...]
    is_fallback: NDArray[np.bool_]
    byte_fallback: bool


_vocabularies: weakref.WeakKeyDictionary[Any, _Vocabulary] = weakref.WeakKeyDictionary()


def decode_with_spans(tokenizer: Any, token_ids: Sequence[int] | NDArray[np.int32]) -> tuple[str, NDArray[np.int32]]:
    """The text of `token_ids` [T] as the continuation of a prompt, and the characters of each id, int32 [T, 2].

    Special tokens are skipped. Unlike `tokenizer.decode`, this keeps a space at the start of the first token, which
    separates the prompt from the text. See `char_spans` for the spans and the errors.
    """
    vocabulary = _vocabulary(tokenizer)
    ids = np.asarray(token_ids, dtype=np.int64)
    pieces = vocabulary.pieces
    num_ids = len(pieces)
    parts = [pieces[i] if 0 <= i < num_ids else b"" for i in ids.tolist()]
    if vocabulary.byte_fallback:
        _replace_broken_runs(parts, ids, vocabulary)
    text, char_of_byte = _decode_bytes(b"".join(parts))
    lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    ends = np.cumsum(lengths)
    starts = ends - lengths
    # Position -> character, with one more entry than there are bytes, for empty tokens at the end.
    spans = np.stack([char_of_byte[starts], char_of_byte[starts]], axis=1)
    filled = lengths > 0
    spans[filled, 1] = char_of_byte[ends[filled] - 1] + 1
    # A skipped token between the bytes of one character spans that character too, so that no column ever decreases.
    inside = ~filled & (starts > 0) & (starts < ends[-1:])
    inside[inside] = char_of_byte[starts[inside]] == char_of_byte[starts[inside] - 1]
    spans[inside, 1] += 1
    return text, spans.astype(np.int32)


def char_spans(tokenizer: Any, token_ids: Sequence[int] | NDArray[np.int32], text: str) -> NDArray[np.int32]:
    """The characters of `text` that each of `token_ids` [T] stands for: int32 [T, 2], end exclusive.

    `tokenizer` is a `tokenizers.Tokenizer`, or a transformers tokenizer with one inside. A token with only some bytes
    of a character spans the whole character, so neighbors may overlap there. Special tokens and ids outside the
    vocabulary have empty spans. `text` is what an engine decoded from exactly these ids, without special tokens. It may
    lack leading spaces (decoders drop the first token's) and may end early (engines hold back an incomplete last
    character and cut off stop strings); spans are clipped to it.

    Raises ValueError if `text` is not the text of these ids, and TypeError if the tokenizer has no `tokenizers`
    backend, or its decoder does more than join tokens.
    """
    decoded, spans = decode_with_spans(tokenizer, token_ids)
    if text == decoded:
        return spans
    shift = (len(decoded) - len(decoded.lstrip(" "))) - (len(text) - len(text.lstrip(" ")))
    shift = max(0, min(shift, len(decoded) - len(text)))
    if text != decoded[shift : shift + len(text)]:
        tail = decoded[shift:]
        at = next((i for i, (a, b) in enumerate(zip(text, tail, strict=False)) if a != b), min(len(text), len(tail)))
        raise ValueError(
            f"text is not what the {len(spans)} token ids decode to: at character {at} it has {text[at : at + 20]!r}, "
            f"the ids {tail[at : at + 20]!r}; pass the text decoded from these ids, special tokens skipped"
        )
    return np.clip(spans - shift, 0, len(text)).astype(np.int32)


def _replace_broken_runs(parts: list[bytes], ids: NDArray[np.int64], vocabulary: _Vocabulary) -> None:
    """Turn each byte of a run of byte tokens that is not valid UTF-8 into U+FFFD, as `tokenizers` does."""
    known = (ids >= 0) & (ids < len(vocabulary.pieces))
    fallback = np.zeros(len(ids), dtype=bool)
    fallback[known] = vocabulary.is_fallback[ids[known]]
    if not fallback.any():
        return
    run: list[int] = []
    for i in [*range(len(parts)), -1]:
        if i >= 0 and fallback[i]:
            run.append(i)
        elif run and (i < 0 or parts[i]):  # a skipped token does not end a run
            try:
                b"".join(parts[j] for j in run).decode("utf-8")
            except UnicodeDecodeError:
                for j in run:
                    parts[j] = _REPLACEMENT
            run = []


def _decode_bytes(data: bytes) -> tuple[str, NDArray[np.int64]]:
    """`data` [N] as text, and the character of each byte, int64 [N + 1]. Invalid UTF-8 sequences become U+FFFD."""
    begins_char = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80
    position = 0
    while position < len(data):
        try:
            data[position:].decode("utf-8")
            break
        except UnicodeDecodeError as error:
            begins_char[position + error.start : position + error.end] = False
            begins_char[position + error.start] = True
            position += error.end
    text = data.decode("utf-8", errors="replace")
    return text, np.append(np.cumsum(begins_char) - 1, len(text))


def _vocabulary(tokenizer: Any) -> _Vocabulary:
    backend = tokenizer if isinstance(tokenizer, Tokenizer) else getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise TypeError(
            f"{type(tokenizer).__name__} has no `tokenizers` backend, so the text of each token is unknown; "
            "convert it to a fast tokenizer (tokenizer.json)"
        )
    size = backend.get_vocab_size(with_added_tokens=True)
    cached = _vocabularies.get(tokenizer)
    if cached is None or cached.size != size:
        cached = _vocabularies[tokenizer] = _build_vocabulary(backend, size)
    return cached


def _build_vocabulary(backend: Tokenizer, size: int) -> _Vocabulary:
    steps = _decoder_steps(json.loads(backend.to_str()).get("decoder"))
    byte_level = any(step["type"] == "ByteLevel" for step in steps)
    byte_fallback = any(step["type"] == "ByteFallback" for step in steps)
    replacements = [_replacement(step) for step in steps if step["type"] in ("Replace", "Metaspace")]
    bytes_of_char = _byte_level_alphabet()
    special = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
    vocabulary = backend.get_vocab(with_added_tokens=True)
    pieces = [b""] * (max(vocabulary.values(), default=-1) + 1)
    is_fallback = np.zeros(len(pieces), dtype=bool)
    for piece, i in vocabulary.items():
        if i in special:
            continue
        for old, new in replacements:
            piece = piece.replace(old, new)
        if byte_fallback and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            pieces[i] = bytes.fromhex(piece[3:5])
            is_fallback[i] = True
        elif byte_level and all(c in bytes_of_char for c in piece):
            pieces[i] = bytes(bytes_of_char[c] for c in piece)
        else:
            pieces[i] = piece.encode("utf-8")
    return _Vocabulary(size, tuple(pieces), is_fallback, byte_fallback)


def _decoder_steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The decoder's steps, each of which maps tokens to text one by one (except for leading spaces)."""
    steps = [] if decoder is None else decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    kinds = [step["type"] for step in steps]
    known = {"ByteLevel", "ByteFallback", "Replace", "Metaspace", "Fuse", "Strip"}
    joins = {"ByteLevel", "Fuse", "Metaspace"} & set(kinds)
    strips_tokens = "Strip" in kinds and "Fuse" not in kinds[: kinds.index("Strip")]
    strips_end = any(step.get("stop") for step in steps if step["type"] == "Strip")
    if not joins or set(kinds) - known or strips_tokens or strips_end:
        raise TypeError(
            f"the tokenizer's decoder ({' + '.join(kinds) or 'none'}) does not map tokens to text one by one; "
            "supported: ByteLevel, Metaspace, or Fuse with Replace, ByteFallback and a leading Strip"
        )
    return steps


def _replacement(step: dict[str, Any]) -> tuple[str, str]:
    if step["type"] == "Metaspace":
        return step["replacement"], " "
    if "String" not in step["pattern"]:
        raise TypeError(f"the tokenizer's decoder uses a regular expression, {step['pattern']}; this is not supported")
    return step["pattern"]["String"], step["content"]


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes: a printable byte is itself, the others follow from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_CODE = "def f(x):\n    if x:\n\n        return x\n"


def keeps_code(tokenizer: Any) -> bool:
    """Whether `tokenizer` gives code back unchanged. T5's own loses line ends and indentation."""
    return decode_with_spans(tokenizer, tokenizer.encode(_CODE, add_special_tokens=False))[0] == _CODE

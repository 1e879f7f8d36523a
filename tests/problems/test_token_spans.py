"""Spans of sampled ids tile the text with every tokenizer, and never come from tokenizing it again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from rltf.problems.token_spans import char_spans, decode_with_spans
from tests.small_tokenizers import CORPUS, END, FAMILIES

TOKENIZERS = {name: build() for name, build in FAMILIES.items()}
families = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def id_of(tokenizer: Tokenizer, piece: str) -> int:
    found = tokenizer.token_to_id(piece)
    assert found is not None
    return found


@families
@pytest.mark.parametrize("text", CORPUS)
def test_spans_tile_the_text_of_its_own_tokens(tokenizer: Tokenizer, text: str) -> None:
    spans = char_spans(tokenizer, ids_of(tokenizer, text), text)
    assert spans.dtype == np.int32
    assert (spans[0, 0], spans[-1, 1]) == (0, len(text))
    assert all(next_start in (end, end - 1) for end, next_start in zip(spans[:-1, 1], spans[1:, 0], strict=True))


@families
@given(data=st.data())
def test_any_sampled_ids_get_spans_over_the_decoded_text(tokenizer: Tokenizer, data: st.DataObject) -> None:
    """Sampled ids often split their text differently from the tokenizer, and may not even be valid UTF-8."""
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=40))
    text = tokenizer.decode(ids, skip_special_tokens=True)
    decoded, spans = decode_with_spans(tokenizer, ids)
    assert decoded.endswith(text)
    assert set(decoded[: len(decoded) - len(text)]) <= {" "}
    covered = np.zeros(len(decoded), dtype=bool)
    for start, end in spans:
        assert 0 <= start <= end <= len(decoded)
        covered[start:end] = True
    assert covered.all()
    assert (np.diff(spans, axis=0) >= 0).all(), "both ends must be non-decreasing"
    np.testing.assert_array_equal(
        np.clip(spans - (len(decoded) - len(text)), 0, None), char_spans(tokenizer, ids, text)
    )


def test_tokens_that_share_a_character_both_span_it() -> None:
    tokenizer = TOKENIZERS["byte_level_bpe"]
    ids = [id_of(tokenizer, piece) for piece in ("x", "ð", "Ł", "ĺ", "Ģ", "y")]  # 😀 = f0 9f 98 80
    assert char_spans(tokenizer, ids, "x😀y").tolist() == [[0, 1], [1, 2], [1, 2], [1, 2], [1, 2], [2, 3]]


def test_a_special_token_inside_a_character_keeps_the_order() -> None:
    tokenizer = TOKENIZERS["byte_level_bpe"]
    ids = [id_of(tokenizer, piece) for piece in ("Ã", END, "©", "y")]  # é = c3 a9
    assert char_spans(tokenizer, ids, "éy").tolist() == [[0, 1], [0, 1], [0, 1], [1, 2]]


def test_byte_fallback_tokens_form_characters_or_one_mark_each() -> None:
    tokenizer = TOKENIZERS["sentencepiece_bpe"]
    ids = [id_of(tokenizer, piece) for piece in ("x", "<0xC3>", "<0xBC>", "x", "<0xC3>", "<0xFF>")]
    assert tokenizer.decode(ids) == "xüx��"
    assert char_spans(tokenizer, ids, "xüx��").tolist() == [[0, 1], [1, 2], [1, 2], [2, 3], [3, 4], [4, 5]]


@families
def test_special_tokens_and_unknown_ids_are_empty(tokenizer: Tokenizer) -> None:
    end = id_of(tokenizer, END)
    x = ids_of(tokenizer, "x")
    assert char_spans(tokenizer, [*x, end, *x, 10**6, end], "xx").tolist() == [[0, 1], [1, 1], [1, 2], [2, 2], [2, 2]]
    assert char_spans(tokenizer, [], "").shape == (0, 2)


def test_text_may_lack_the_leading_space_and_end_early() -> None:
    tokenizer = TOKENIZERS["sentencepiece_bpe"]
    ids = ids_of(tokenizer, " x y")
    kept, dropped = char_spans(tokenizer, ids, " x y"), char_spans(tokenizer, ids, "x y")
    np.testing.assert_array_equal(np.clip(kept - 1, 0, None), dropped)
    cut = char_spans(tokenizer, ids, "x")
    assert cut.max() == 1


def test_metaspace_decoding_drops_the_first_blank() -> None:
    tokenizer = Tokenizer(models.WordLevel({"▁def": 0, "▁f": 1, "</s>": 2}, "</s>"))
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.decoder = decoders.Metaspace()
    assert tokenizer.decode([0, 1, 2]) == "def f"
    assert char_spans(tokenizer, [0, 1, 2], "def f").tolist() == [[0, 3], [3, 5], [5, 5]]


def test_transformers_tokenizers_work() -> None:
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=TOKENIZERS["byte_level_bpe"], eos_token=END
    )
    text = "x = 1"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    np.testing.assert_array_equal(char_spans(tokenizer, ids, text), char_spans(TOKENIZERS["byte_level_bpe"], ids, text))


def test_a_token_over_several_lines_spans_them_all() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a\n  b": 0, "c": 1}, "c"))
    tokenizer.decoder = decoders.Fuse()
    assert char_spans(tokenizer, [0, 1], "a\n  bc").tolist() == [[0, 5], [5, 6]]


@families
def test_text_of_other_ids_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="at character 1"):
        char_spans(tokenizer, ids_of(tokenizer, "xyz"), "x!z")
    with pytest.raises(ValueError, match="not what the"):
        char_spans(tokenizer, ids_of(tokenizer, "x"), "xyz")


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        backend_tokenizer = None

    with pytest.raises(TypeError, match="fast tokenizer"):
        char_spans(Slow(), [0], "x")
    without_decoder = Tokenizer(models.WordLevel({"x": 0}, "x"))
    with pytest.raises(TypeError, match="none"):
        char_spans(without_decoder, [0], "x")
    without_decoder.decoder = decoders.WordPiece()
    with pytest.raises(TypeError, match="WordPiece"):
        char_spans(without_decoder, [0], "x")


def test_tokens_added_later_are_seen() -> None:
    tokenizer = Tokenizer(models.WordLevel({"x": 0}, "x"))
    tokenizer.decoder = decoders.Fuse()
    assert char_spans(tokenizer, [0], "x").tolist() == [[0, 1]]
    tokenizer.add_tokens(["yy"])
    assert char_spans(tokenizer, [0, 1], "xyy").tolist() == [[0, 1], [1, 3]]

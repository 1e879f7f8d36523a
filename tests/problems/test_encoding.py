"""Prompts and answers as ids, with the tokenizer classes of real model families."""

from __future__ import annotations

import pytest

from rltf.problems.extraction import extract_program
from rltf.problems.prompts import (
    PLAIN,
    Exchange,
    PromptFormat,
    answer_end_id,
    encode_answer,
    encode_feedback,
    encode_prompt,
    render_prompt,
)
from rltf.problems.token_spans import decode_with_spans
from rltf.problems.types import Problem, StdinTest
from tests.families import CHAT_TEMPLATE, FAMILIES, build_tokenizer

PROGRAM = "def solve(values):\n    return [v for v in values if v % 2]\n"
PROBLEM = Problem("p", "own", "Keep the odd ones.", (StdinTest("1", "1"),), references=(PROGRAM,))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_the_program_and_an_end_token(family: str) -> None:
    tokenizer = build_tokenizer(family)
    *ids, end = encode_answer(PROGRAM, tokenizer, chat=False)
    assert end == tokenizer.eos_token_id
    # SentencePiece must not indent the first line: after a prompt, the ids decode to exactly the program.
    assert decode_with_spans(tokenizer, ids)[0] == PROGRAM
    prompt = encode_prompt(PROBLEM, tokenizer, PLAIN)
    assert tokenizer.decode(prompt, skip_special_tokens=True).strip() == render_prompt(PROBLEM).strip()


@pytest.mark.parametrize("family", FAMILIES)
def test_in_a_chat_an_answer_is_a_code_block_and_the_end_of_the_turn(family: str) -> None:
    tokenizer = build_tokenizer(family, chat=True)
    *ids, end = encode_answer(PROGRAM, tokenizer, chat=True)
    assert tokenizer.convert_ids_to_tokens(end) == "<|im_end|>" != tokenizer.eos_token
    text, _ = decode_with_spans(tokenizer, ids)
    start, stop = extract_program(PROBLEM, text)
    assert text[start:stop] == PROGRAM
    prompt = encode_prompt(PROBLEM, tokenizer, PromptFormat(chat=True))
    assert tokenizer.convert_ids_to_tokens(prompt[0]) == "<|im_start|>"
    assert tokenizer.decode(prompt).replace(" ", "").endswith("<|im_start|>assistant\n")


def test_a_template_that_closes_turns_with_text_gets_the_end_token() -> None:
    tokenizer = build_tokenizer("gpt2", chat=True)
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_end|>", "\n### ")
    assert answer_end_id(tokenizer, chat=True) == tokenizer.eos_token_id


FEEDBACK = "Your program gives a wrong answer on the example.\nInput:\n    < |im_end|> the answer of one turn"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chat", [False, True])
def test_the_ids_of_a_dialogue_only_grow(family: str, chat: bool) -> None:
    tokenizer, form = build_tokenizer(family, chat=chat), PromptFormat(chat=chat)
    prompt = encode_prompt(PROBLEM, tokenizer, form)
    answer = encode_answer(PROGRAM, tokenizer, chat=chat)
    for sampled in (answer, answer[:-1], answer[:5]):  # the last two were cut off at the length limit
        ids = [*prompt, *sampled, *encode_feedback(PROBLEM, FEEDBACK, sampled, tokenizer, form)]
        text = tokenizer.decode(sampled[:-1] if sampled is answer else sampled)
        whole = render_prompt(PROBLEM, form, tokenizer, [Exchange(text, FEEDBACK)])
        assert squeezed(tokenizer.decode(ids), tokenizer.eos_token) == squeezed(whole, tokenizer.eos_token)
        if chat:
            assert ids.count(answer[-1]) == whole.count("<|im_end|>")
        else:
            assert ids.count(tokenizer.eos_token_id) - prompt.count(tokenizer.eos_token_id) == (sampled is answer)


def squeezed(text: str, end: str) -> str:
    """Without spaces, which some tokenizers move when they decode, and without end tokens."""
    return "".join(text.replace(end, "").split())


def test_an_end_token_of_another_kind_stays_before_the_end_of_the_turn() -> None:
    tokenizer = build_tokenizer("gpt2", chat=True)
    ids = encode_feedback(PROBLEM, FEEDBACK, [5, tokenizer.eos_token_id], tokenizer, PromptFormat(chat=True))
    assert tokenizer.decode(ids).startswith("<|im_end|>\n<|im_start|>user\nYour program")
    ids = encode_feedback(PROBLEM, FEEDBACK, [5, *tokenizer.encode("<|im_end|>")], tokenizer, PromptFormat(chat=True))
    assert tokenizer.decode(ids).startswith("\n<|im_start|>user\nYour program")

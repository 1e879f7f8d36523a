"""From problems and programs to token ids: what a model reads, and what it is taught to answer.

Supervised training, reinforcement learning and evaluation all come here, so that they see the same ids.
"""

from __future__ import annotations

from typing import Any, Protocol

from problems.prompts import ChatTokenizer, render_prompt
from problems.token_spans import decode_with_spans
from problems.types import Problem

_CONTENT = "the answer of one turn"


class TextTokenizer(ChatTokenizer, Protocol):
    """The part of a transformers tokenizer that is needed here."""

    eos_token_id: Any

    @property
    def added_tokens_decoder(self) -> Any:
        """Added tokens by id, each with a flag `special`."""

    def encode(self, text: str, *, add_special_tokens: bool) -> Any:
        """The ids of a text."""


def encode_prompt(problem: Problem, tokenizer: TextTokenizer, *, chat: bool) -> list[int]:
    """The ids of a problem's prompt; with `chat`, in the tokenizer's template.

    Raises:
        ValueError: there is no chat template.
    """
    prompt = render_prompt(problem, tokenizer if chat else None)
    # A chat template writes the special tokens itself.
    return list(tokenizer.encode(prompt, add_special_tokens=not chat))


def encode_answer(program: str, tokenizer: TextTokenizer, *, chat: bool) -> list[int]:
    """The ids of `program` as the answer to a prompt, its end token included; in a chat it stands in a code block."""
    text = f"```python\n{program.rstrip()}\n```" if chat else program
    return [*_continuation(text, tokenizer), answer_end_id(tokenizer, chat=chat)]


def answer_end_id(tokenizer: TextTokenizer, *, chat: bool) -> int:
    """The token that ends an answer: in a chat the one that the template closes a turn with, else the end token.

    They differ in some models (Phi-3: `<|end|>` and `<|endoftext|>`). A template that closes turns with plain text
    gives the end token.
    """
    end = int(tokenizer.eos_token_id)
    if not chat:
        return end
    turns = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": _CONTENT}]
    rendered = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False))
    closing = tokenizer.encode(rendered.rpartition(_CONTENT)[2], add_special_tokens=False)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return next((i for i in closing if i in special), end)


def _continuation(text: str, tokenizer: TextTokenizer) -> list[int]:
    """The ids of `text` behind other text: SentencePiece tokenizers put a blank before the first word of all.

    That blank would indent a program's first line. Behind a line's end they put none.
    """
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    if decode_with_spans(tokenizer, ids)[0] == text:
        return ids
    num_before = len(tokenizer.encode("\n", add_special_tokens=False))
    return list(tokenizer.encode(f"\n{text}", add_special_tokens=False))[num_before:]

"""What a model is shown of a problem and what it is taught to answer, as text and as token ids.

Supervised training, reinforcement learning and evaluation all use this module, so they see the same characters and ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rltf.problems.types import AssertTest, CallTest, Problem, StdinTest

if TYPE_CHECKING:  # importing it takes seconds
    from transformers import PreTrainedTokenizerBase

QUESTION = "question"
"""The `benchmark` of a problem that does not ask for a program. Its statement is the whole prompt."""
_CHAT_REQUEST = "Write a Python program for the task below. Answer with one Python code block and nothing else.\n\n"
_CHAT_CONTINUATION = "Complete the Python function below. Answer with one code block that holds all of it.\n\n"
_CHAT_REPAIR = "Correct the program. Answer with one Python code block that holds all of it."
_CONTENT = "the answer of one turn"
_REPLY = "what is said about the answer"


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """How problems are put to a model.

    `chat` is whether prompts go through the tokenizer's chat template, with `template_arguments` and the message
    `system`. `template` is the text of a prompt, or of the user's message in a chat, with the names of `_PARTS` in
    braces; None stands for the benchmark's usual text.
    """

    chat: bool = False
    system: str | None = None
    template: str | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)


PLAIN = PromptFormat()


@dataclass(frozen=True, slots=True)
class Exchange:
    """A turn of a dialogue: what the model answered, and what it was told about its program (`sandbox/feedback.py`)."""

    answer: str
    feedback: str


def render_prompt(
    problem: Problem,
    form: PromptFormat = PLAIN,
    tokenizer: PreTrainedTokenizerBase | None = None,
    exchanges: Sequence[Exchange] = (),
) -> str:
    """The prompt for a problem. A chat needs the `tokenizer` with its chat template.

    The usual texts are those of the benchmarks' papers: APPS's question and answer marks, MBPP's text and asserts,
    HumanEval's function head. After `exchanges`, the prompt asks for the corrected program. A chat prompt already
    contains the template's special tokens; encode it without adding more.
    """
    if not form.chat:
        first = _filled(form.template, problem) if form.template else _usual_text(problem)
        return first + "".join(one.answer.rstrip() + _repair_text(problem, one.feedback) for one in exchanges)
    assert tokenizer is not None
    messages = chat_messages(problem, form, exchanges)
    prompt = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **form.template_arguments
    )
    return str(prompt)


def chat_messages(
    problem: Problem, form: PromptFormat = PLAIN, exchanges: Sequence[Exchange] = ()
) -> list[dict[str, str]]:
    """The messages of a chat with a model: a system message if there is one, and what a user would write.

    After `exchanges`, the last message asks for the corrected program.
    """
    messages = [{"role": "system", "content": form.system}] if form.system is not None else []
    messages.append({"role": "user", "content": _user_message(problem, form)})
    for one in exchanges:
        messages.append({"role": "assistant", "content": one.answer})
        messages.append({"role": "user", "content": f"{one.feedback}\n\n{_CHAT_REPAIR}"})
    return messages


def _repair_text(problem: Problem, feedback: str) -> str:
    """What follows a plain answer. The next one continues the head of a function again, if there is one."""
    return f"\n\nFEEDBACK:\n{feedback}\n\nANSWER:\n{problem.code_prefix}"


def _user_message(problem: Problem, form: PromptFormat) -> str:
    if problem.benchmark == QUESTION:
        return problem.statement
    if form.template:
        return _filled(form.template, problem)
    request = _CHAT_CONTINUATION if problem.code_prefix else _CHAT_REQUEST
    return request + _usual_text(problem).strip() + "\n"


def _usual_text(problem: Problem) -> str:
    return _FORMATS.get(problem.benchmark, _by_tests)(problem)


def _filled(template: str, problem: Problem) -> str:
    """A template with the parts of a problem. Other braces stay as they are, since prompts may hold code."""
    return _PART.sub(lambda found: _PARTS[found[1]](problem), template)


def encode_prompt(
    problem: Problem, tokenizer: PreTrainedTokenizerBase, form: PromptFormat, exchanges: Sequence[Exchange] = ()
) -> list[int]:
    """The ids of a problem's prompt, after `exchanges`."""
    # A chat template writes the special tokens itself.
    text = render_prompt(problem, form, tokenizer, exchanges)
    return list(tokenizer.encode(text, add_special_tokens=not form.chat))


def encode_feedback(
    problem: Problem, feedback: str, answer_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, form: PromptFormat
) -> list[int]:
    """The ids that stand between an answer [T], as it was sampled, and the next one.

    The ids of a dialogue only grow: each prompt is the one before it, the sampled ids, and these. So the model reads
    its answers exactly as it wrote them, and an engine finds all of it but the feedback in its prefix cache.
    """
    if not form.chat:
        return _continuation(_repair_text(problem, feedback), tokenizer)
    reply = _chat_reply(tokenizer, form).replace(_REPLY, f"{feedback}\n\n{_CHAT_REPAIR}", 1)
    ids, end = _continuation(reply, tokenizer), answer_end_id(tokenizer, chat=True)
    has_ended = answer_ids[-1] == end and end in ids
    return ids[ids.index(end) + 1 :] if has_ended else ids  # the model closes its turn itself, unless it is cut off


def _chat_reply(tokenizer: PreTrainedTokenizerBase, form: PromptFormat) -> str:
    """What the chat template writes from the end of an answer to the start of the next."""
    turns = [
        {"role": "user", "content": "a question"},
        {"role": "assistant", "content": _CONTENT},
        {"role": "user", "content": _REPLY},
    ]
    rendered = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, **form.template_arguments
    )
    return str(rendered).partition(_CONTENT)[2]


def encode_answer(
    program: str, tokenizer: PreTrainedTokenizerBase, *, chat: bool, thought_end: str | None = None
) -> list[int]:
    """The ids of `program` as the answer to a prompt, including the end token; in a chat, inside a code block.

    If the prompt has opened a thought, the answer first ends it with the mark `thought_end` (see `end_of_thought`).
    """
    text = answer_text(program, chat=chat)
    if thought_end is not None:
        text = f"{thought_end}\n\n{text}"
    return [*_continuation(text, tokenizer), answer_end_id(tokenizer, chat=chat)]


def answer_text(program: str, *, chat: bool) -> str:
    """`program` as the answer to a prompt: in a chat, inside a code block."""
    return f"```python\n{program.rstrip()}\n```" if chat else program


def repair_exchange(program: str, feedback: str, form: PromptFormat) -> Exchange:
    """The turn after which a repair model is asked, in training as well: a program, and the `feedback` on it.

    Only the program is shown: what another model wrote around it would differ between the two.
    """
    return Exchange(answer_text(program, chat=form.chat), feedback)


def answer_end_id(tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> int:
    """The token that ends an answer: in a chat the one with which the template closes a turn, else the end token.

    They differ in some models (Phi-3: `<|end|>` and `<|endoftext|>`). If the template closes turns with plain text, it
    is the end token as well.
    """
    end = int(tokenizer.eos_token_id)
    if not chat:
        return end
    turns = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": _CONTENT}]
    rendered = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False))
    closing = tokenizer.encode(rendered.rpartition(_CONTENT)[2], add_special_tokens=False)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return next((i for i in closing if i in special), end)


def _continuation(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of `text` as the continuation of other text.

    SentencePiece tokenizers put a space before the first word, which would indent a program's first line. After a line
    end they put none.
    """
    from rltf.problems.token_spans import decode_with_spans  # needs numpy and tokenizers, which graders do without

    ids = list(tokenizer.encode(text, add_special_tokens=False))
    if decode_with_spans(tokenizer, ids)[0] == text:
        return ids
    num_before = len(tokenizer.encode("\n", add_special_tokens=False))
    return list(tokenizer.encode(f"\n{text}", add_special_tokens=False))[num_before:]


def _apps(problem: Problem) -> str:
    kind = "Standard Input" if isinstance(problem.tests[0], StdinTest) else "Call-Based"
    code = problem.starter_code or _function_name(problem)
    return f"\nQUESTION:\n{problem.statement}\n{code}\nUse {kind} format\nANSWER:\n"


def _function_name(problem: Problem) -> str:
    """The name of the function that call tests use, if the statement does not mention it. Nobody could guess it."""
    test = problem.tests[0]
    if not isinstance(test, CallTest) or re.search(rf"\b{re.escape(test.function)}\b", problem.statement):
        return ""
    return f"Name the function {test.function}."


def _visible_tests(problem: Problem) -> str:
    shown = problem.tests[: problem.num_visible_tests]
    return "\n".join(test.assertion for test in shown if isinstance(test, AssertTest))


def _mbpp(problem: Problem) -> str:
    return f"{problem.statement}\nYour code should satisfy these tests:\n{_visible_tests(problem)}\n"


def _by_tests(problem: Problem) -> str:
    if problem.code_prefix:
        return problem.code_prefix
    return _mbpp(problem) if isinstance(problem.tests[0], AssertTest) and problem.num_visible_tests else _apps(problem)


_FORMATS: dict[str, Callable[[Problem], str]] = {
    "starter": lambda problem: f"{problem.statement}\n",
    QUESTION: lambda problem: problem.statement,
}
_PARTS: dict[str, Callable[[Problem], str]] = {
    "prompt": _usual_text,
    "statement": lambda problem: problem.statement,
    "starter_code": lambda problem: problem.starter_code or problem.code_prefix,
    "tests": _visible_tests,
    "function": lambda problem: problem.entry_point or "",
}
_PART = re.compile(r"\{(" + "|".join(_PARTS) + r")\}")

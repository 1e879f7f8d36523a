"""How a chat model's answer becomes a completion: text, program inside the code block, characters of each token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rltf.actors.engine import FinishedRequest, SampledSequence, SamplingRequest
from rltf.actors.messages import RolloutRequest
from rltf.actors.prompting import Prompter
from rltf.learner.data import encode_references
from rltf.problems.types import Problem, StdinTest
from rltf.settings import ModelSettings
from rltf.transport.model_folder import end_token_ids, load_tokenizer
from rltf.transport.rollouts import Completion, FinishReason, VersionSpan
from tests.families import build_family

PROGRAM = "def solve(values):\n    return 'é' if values else None\n"
PROBLEM = Problem("p", "own", "Say é.", (StdinTest("1", "1"),), references=(PROGRAM,))


@pytest.fixture
def prompter(tmp_path: Path) -> Prompter:
    return Prompter(build_family("qwen2", tmp_path, chat=True), {"p": PROBLEM}, ModelSettings(chat_template="on"))


def completion(prompter: Prompter, token_ids: list[int], reason: FinishReason) -> Completion:
    ids = np.array(token_ids, dtype=np.int32)
    spans = (VersionSpan(0, len(ids), 0),)
    sampled = SampledSequence(ids, np.zeros(len(ids), dtype=np.float32), spans, reason)
    request = RolloutRequest("r", "p", 1, greedy=False, temperature=1.0, top_p=1.0, max_tokens=99, seed=0)
    asked = SamplingRequest(request, prompter.encode("p"))
    return prompter.rollout(asked, FinishedRequest("r", (sampled,), None)).samples[0]


def characters(made: Completion, token: int) -> str:
    start, end = made.char_spans[token]
    return made.text[start:end]


def test_the_program_is_the_content_of_the_code_block(prompter: Prompter) -> None:
    tokenizer = prompter.tokenizer
    answer = f"Here it is:\n```python\n{PROGRAM}```\nIt says é."
    ids = tokenizer.encode(answer, add_special_tokens=False)
    (end,) = tokenizer.encode("<|im_end|>", add_special_tokens=False)
    made = completion(prompter, [*ids, end], FinishReason.STOP)
    assert made.text == answer
    assert made.program == PROGRAM
    before = answer.index(PROGRAM)
    assert (made.program_start, made.program_end) == (before, before + len(PROGRAM))
    decoded = "".join(characters(made, token) for token in range(len(ids)))
    assert decoded.replace("éé", "é") == answer  # a token that is half a character spans the whole character
    assert made.char_spans[-1].tolist() == [len(answer)] * 2


def test_a_truncated_answer_gives_the_program_so_far(prompter: Prompter) -> None:
    ids = prompter.tokenizer.encode("```python\ndef solve(val", add_special_tokens=False)
    assert completion(prompter, ids, FinishReason.LENGTH).program == "def solve(val"


def test_a_thought_that_the_template_opens_is_no_program(tmp_path: Path) -> None:
    model = build_family("qwen2", tmp_path, chat=True)
    tokenizer = load_tokenizer(model)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n{%", "assistant\n<think>\n{%")
    tokenizer.save_pretrained(model)
    prompter = Prompter(model, {"p": PROBLEM}, ModelSettings(chat_template="on"))
    assert str(tokenizer.decode(prompter.encode("p"))).endswith("<think>\n")
    thought = f"Perhaps\n```python\n{PROGRAM}```\nor '</think>'?"
    for rest, program in (("", ""), (f"\n</think>\n```python\n{PROGRAM}```", PROGRAM)):
        ids = tokenizer.encode(thought + rest, add_special_tokens=False)
        made = completion(prompter, ids, FinishReason.LENGTH)
        assert made.program == program
        assert made.program_start >= len(thought)
    (example,) = encode_references([PROBLEM], tokenizer, prompter.form, max_length=512)
    reference = completion(prompter, example.token_ids.tolist(), FinishReason.STOP)
    assert reference.text.startswith("</think>\n\n```python\n")
    assert reference.program == PROGRAM


def test_references_are_encoded_like_samples(prompter: Prompter, tmp_path: Path) -> None:
    (example,) = encode_references([PROBLEM], prompter.tokenizer, prompter.form, max_length=512)
    assert example.prompt_ids.tolist() == prompter.encode("p")
    assert example.token_ids[-1] == end_token_ids(tmp_path, prompter.tokenizer, chat=True)[0]
    assert completion(prompter, example.token_ids.tolist(), FinishReason.STOP).program == PROGRAM

"""`rltf show-prompt` prints what a generator sends to its model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rltf.controller.command import main
from tests.families import build_family


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("problems") / "own.jsonl"
    tests = [{"assert": "assert twice(2) == 4"}]
    rows = [{"task_id": name, "statement": f"Double {name}.", "tests": tests} for name in ("x", "y", "z")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


def test_the_prompt_is_exact(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_family("qwen2", tmp_path, chat=True)
    plain = ["--model.name", str(model)]
    chat = [*plain, "--model.chat_template", "on", "--model.system_prompt", "Be brief."]
    assert main(["--num-problems", "2", spec, *chat, "--model.prompt_template", "{statement} Name: {function}"]) == 0
    found = capsys.readouterr()
    first, second = found.out.split("--- ")[1:]
    title, _, prompt = first.partition("\n")
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nDouble x. Name: twice<|im_end|>\n"
        "<|im_start|>assistant\n\n"
    )
    assert title.startswith("x: ")
    assert title.endswith(" of 256 tokens (model.max_model_len)")
    assert second.startswith("y: ")
    assert "this looks like a base model" in found.err
    assert main([spec, *plain]) == 0
    assert "\nQUESTION:\nDouble x.\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.nam", "x"], "did you mean --model.name?"),
        (["--model.name", "no-such-folder"], "not found on the Hub"),
        (["--model.system_prompt", "Be brief."], "model.system_prompt needs a chat"),
    ],
)
def test_mistakes_are_named(spec: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([spec, *arguments]) == 2
    assert message in capsys.readouterr().err

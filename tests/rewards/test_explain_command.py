"""`python -m rewards explain` from end to end: real programs in a real sandbox, and unusable input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rltf.rewards.command import main
from tests.small_tokenizers import END, byte_level_bpe

PROBLEM = {
    "task_id": "first",
    "statement": "Write `first(values)`, which returns the first value.",
    "tests": [
        {"call": "first", "arguments": [[3, 1]], "expected": 3},
        {"call": "first", "arguments": [[1, 3]], "expected": 1},
    ],
}
# code; outcome, error class, error line, category, coarse, fine, adaptive (preset rltf)
PROGRAMS = {
    "right": ("def first(values):\n    return values[0]\n", ("passed", None, None, None, 1.0, 0.0, 1.0)),
    "half": ("def first(values):\n    return max(values)\n", ("failed", None, None, None, -0.3, 0.0, 0.35)),
    "name": (
        "def first(values):\n    # return value\n    return value\n",
        ("runtime_error", "NameError", 3, "line", -0.6, -0.3, -0.3),
    ),
    "one crash": (
        "def first(values):\n    if values[0] == 1:\n        raise ValueError('1')\n    return values[0]\n",
        ("runtime_error", "ValueError", 3, "line", -0.6, -0.3, 0.35),
    ),
    "deep": (
        "def first(values):\n    return first(values)\n",
        ("runtime_error", "RecursionError", 2, "global", -0.6, -0.3, -0.3),
    ),
    "killed": (
        "import os\ndef first(values):\n    os.kill(os.getpid(), 11)\n",
        ("runtime_error", "SIGSEGV", None, "global", -0.6, -0.3, -0.3),
    ),
    "exit status": (
        "import os\ndef first(values):\n    os._exit(1)\n",
        ("runtime_error", "SystemExit", None, "global", -0.6, -0.3, -0.3),
    ),
    "no lines": (
        "def first(values):\n    return 1 / 0\nfirst.__code__ = first.__code__.replace(co_linetable=b'')\n",
        ("runtime_error", "ZeroDivisionError", None, "global", -0.6, -0.3, -0.3),
    ),
    "line of a comment": (
        "def f(): pass\nn = f.__code__.co_filename\n# comment\n"
        "exec(compile('\\n\\ndef first(values): 1 / 0', n, 'exec'))\n",
        ("runtime_error", "ZeroDivisionError", 3, "global", -0.6, -0.3, -0.3),
    ),
    "line ends": (
        "def first(values):\r    # one\r\n\r    return 1 / 0 # two\r",
        ("runtime_error", "ZeroDivisionError", 4, "line", -0.6, -0.3, -0.3),
    ),
    "colon": ("def first(values)\n    return 1\n", ("syntax_error", "SyntaxError", 1, "line", -1.0, -0.3, 0.0)),
    "quotes": ("x = '''\n", ("syntax_error", "SyntaxError", 1, "global", -1.0, -0.3, 0.0)),
    "dedent": (
        "def first(values):\n    x = 1\n  return x\n",
        ("syntax_error", "IndentationError", 3, "global", -1.0, -0.3, 0.0),
    ),
    "tabs": (
        "def first(values):\n\tx = 1\n        return x\n",
        ("syntax_error", "TabError", 3, "global", -1.0, -0.3, 0.0),
    ),
}


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, Path]:
    problems, programs = tmp_path / "problems.jsonl", tmp_path / "programs.jsonl"
    problems.write_text(json.dumps(PROBLEM) + "\n", encoding="utf-8")
    rows = [{"task_id": "first", "completion_id": name, "code": code} for name, (code, _) in PROGRAMS.items()]
    programs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"jsonl:{problems}", programs


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level_bpe(), eos_token=END)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)
    return folder


def run(files: tuple[str, Path], tokenizer: object, *more: object) -> int:
    arguments = ["explain", "--problems", files[0], "--programs", files[1], "--tokenizer", tokenizer, *more]
    return main([str(argument) for argument in [*arguments, "--require", "rlimits", "--workers", 1]])


def span_text(code: str, row: dict[str, Any], tokenizer_dir: Path) -> str:
    """The text of the tokens in the fine span."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    ids = tokenizer.encode(code, add_special_tokens=False)
    assert len(ids) == row["num_tokens"] == len(row["token_weights"])
    first, last = row["fine_span"]
    return str(tokenizer.decode(ids[first : last + 1]))


def test_every_kind_of_program_in_a_real_sandbox(
    files: tuple[str, Path], tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "explained.jsonl"
    assert run(files, tokenizer_dir, "--output", output, "--text") == 0
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["completion_id"] for row in rows] == list(PROGRAMS), "in the order of the input"
    for row in rows:
        code, expected = PROGRAMS[row["completion_id"]]
        rewards = row["rewards"]
        found = (row["outcome"], row["error_type"], row["error_line"], row["category"])
        assert found == expected[:4], row["completion_id"]
        assert (rewards["coarse"], rewards["fine"], rewards["adaptive"]) == pytest.approx(expected[4:])
        weights = row["token_weights"]
        whole = rewards["coarse"] + rewards["adaptive"]
        if row["category"] == "line":
            line = code.splitlines()[row["error_line"] - 1].strip()
            assert line in span_text(code, row, tokenizer_dir)
            first, last = row["fine_span"]
            alpha = min(10, row["num_tokens"] / (last - first + 1))
            assert weights[first : last + 1] == pytest.approx([whole - 0.3 * alpha] * (last - first + 1), abs=1e-6)
            weights = weights[:first] + weights[last + 1 :]
        elif row["category"] == "global":
            whole -= 0.3
        assert weights == pytest.approx([whole] * len(weights), abs=1e-6)
    text = capsys.readouterr().out
    assert "first / name  runtime_error: NameError on line 3" in text
    assert ">   3 |     return value" in text


def test_a_program_that_passes_shows_which_line_of_a_wrong_one_to_blame(
    files: tuple[str, Path], tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = "def first(values):\n    size = len(values)\n    chosen = values[0]\n    return chosen\n"
    codes = {"wrong": right.replace("values[0]", "max(values)").replace("chosen", "best"), "right": right}
    rows = [{"task_id": "first", "completion_id": name, "code": code} for name, code in codes.items()]
    files[1].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    output = tmp_path / "explained.jsonl"
    assert run(files, tokenizer_dir, "--output", output, "--text", "--localize", "siblings") == 0
    wrong, passing = map(json.loads, output.read_text(encoding="utf-8").splitlines())
    assert (wrong["outcome"], wrong["blamed"]) == ("failed", [3])
    assert (passing["outcome"], passing["blamed"]) == ("passed", [])
    assert len(set(wrong["token_weights"])) == 2, "one weight on the line, one elsewhere"
    assert "first / wrong  failed" in capsys.readouterr().out


def test_unusable_input_gives_one_message_and_status_2(
    files: tuple[str, Path], tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(message: str, changed: tuple[str, Path], tokenizer: object, *more: object) -> None:
        output = tmp_path / "never.jsonl"
        assert run(changed, tokenizer, "--output", output, *more) == 2
        assert not output.exists()
        captured = capsys.readouterr().err
        assert message in captured
        assert "Traceback" not in captured

    nothing = tmp_path / "nothing"
    nothing.mkdir()
    refused("no tokenizer found there", files, nothing)
    refused("did you mean rltf-paper?", files, tokenizer_dir, "--preset", "rltf-papers")
    refused("expected PACKAGE.MODULE:FUNCTION", files, tokenizer_dir, "--function", "shorter")
    refused("there is no module nowhere", files, tokenizer_dir, "--function", "nowhere:shorter")
    refused("no such file of programs", (files[0], tmp_path / "missing.jsonl"), tokenizer_dir)
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"task_id": "last", "completion_id": 0, "code": ""}\n', encoding="utf-8")
    refused("wrong.jsonl:1: task_id 'last'", (files[0], wrong), tokenizer_dir)
    wrong.write_text('{"task_id": "first", "completion_id": 0}\n', encoding="utf-8")
    refused("wrong.jsonl:1: code", (files[0], wrong), tokenizer_dir)


def test_unknown_choice_and_no_output_are_usage_errors(
    files: tuple[str, Path], tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases: list[tuple[list[object], str]] = [
        (["--localize", "sibling", "--text"], "invalid choice: 'sibling'"),
        ([], "nowhere to write to"),
        (["--text", "--max-tokens", 0], "expected a number from 1, got '0'"),
    ]
    for more, message in cases:
        with pytest.raises(SystemExit) as stopped:
            run(files, tokenizer_dir, *more)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err

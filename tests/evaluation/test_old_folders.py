"""An evaluation records what it depends on, and does not continue with other problems, options or models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.evaluate import main
from rltf.evaluation.model import SampledModel, folder_fingerprint
from rltf.evaluation.store import SampleStore
from rltf.problems.fingerprints import changed_tests, differences, fingerprints
from rltf.problems.types import AssertTest, CallTest, CheckTest, Problem, StdinTest, Test
from rltf.settings import Dtype, Engine

pytestmark = pytest.mark.slow


def problem_row(task_id: str, **changes: Any) -> dict[str, Any]:
    return {"task_id": task_id, "statement": "Print 1.", "tests": [{"stdin": "", "expected": "1"}]} | changes


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The command of a finished evaluation of two problems."""
    samples = [{"task_id": name, "completion_id": "0", "code": "print(1)"} for name in ("a", "b")]
    problems = write(tmp_path / "problems.jsonl", [problem_row("a"), problem_row("b")])
    options = ["--samples", str(write(tmp_path / "samples.jsonl", samples)), "--problems", f"jsonl:{problems}"]
    options += ["--output", str(tmp_path / "out")]
    assert main(options) == 0
    return options


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([problem_row("a"), problem_row("b", statement="Print one.")], "1 changed (b: statement, prompt)"),
        (
            [problem_row("a", tests=[{"stdin": "", "expected": "2"}]), problem_row("b")],
            "1 changed (a: tests)",
        ),
        ([problem_row("a", starter_code="x = 1"), problem_row("b")], "1 changed (a: statement"),
        ([problem_row("a"), problem_row("b"), problem_row("c")], "1 added (c)"),
        ([problem_row("a"), problem_row("c")], "1 added (c), 1 removed (b)"),
        ([problem_row("b"), problem_row("a")], "in a different order"),
        ([problem_row("a"), {"task_id": "b", "statement": "?", "tests": []}], "1 removed (b)"),
    ],
)
def test_an_evaluation_is_not_continued_on_other_problems(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, Any]],
    message: str,
) -> None:
    before = (tmp_path / "out" / "samples.jsonl").read_bytes()
    write(tmp_path / "problems.jsonl", rows)
    assert main(command) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in error
    assert error.endswith("choose another --output")
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == before
    assert main(command) == 2, "a refusal must not let the next run through"
    write(tmp_path / "problems.jsonl", [problem_row("a"), problem_row("b")])
    assert main(command) == 0


def test_difficulties_may_change(command: list[str], tmp_path: Path) -> None:
    write(tmp_path / "problems.jsonl", [problem_row("a", difficulty="easy"), problem_row("b", difficulty="hard")])
    assert main(command) == 0
    assert set(json.loads((tmp_path / "out" / "results.json").read_text())["pass@1"]) == {"all", "easy", "hard"}


def test_a_folder_without_programs_can_be_used(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "out" / "samples.jsonl").write_text("")
    write(tmp_path / "problems.jsonl", [problem_row("b"), problem_row("a", statement="?")])
    write(tmp_path / "samples.jsonl", [{"task_id": "a", "completion_id": "0", "code": "print(1)"}])
    assert main(command) == 0


def test_a_folder_of_an_older_version_is_continued_with_a_warning(
    command: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out" / "problems.json").unlink()
    assert main(command) == 0
    assert "does not record its problems" in caplog.text
    write(tmp_path / "problems.jsonl", [problem_row("b"), problem_row("a")])
    assert main(command) == 2


@pytest.mark.parametrize("name", ["evaluation.json", "problems.json"])
def test_a_broken_file_is_named(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "out" / name).write_text("{")
    assert main(command) == 2
    assert f"{name}:1: not valid JSON" in capsys.readouterr().err


def test_evaluations_on_other_tests_are_not_compared(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = [*command[:-1], str(tmp_path / "other"), "--against", str(tmp_path / "out")]
    write(tmp_path / "problems.jsonl", [problem_row("a", statement="Print one."), problem_row("b")])
    assert main(other) == 0, "another prompt is a fair comparison"
    write(tmp_path / "problems.jsonl", [problem_row("a"), problem_row("b", tests=[{"stdin": "1", "expected": "1"}])])
    assert main([*command[:-1], str(tmp_path / "third"), "--against", str(tmp_path / "out")]) == 2
    assert "1 problems had different tests there (b)" in capsys.readouterr().err


OPTIONS = {
    "--dtype": ("dtype", "float32", "bfloat16"),
    "--engine": ("engine", "transformers", "vllm"),
    "--num-samples": ("num_samples", "2", "3"),
    "--temperature": ("temperature", "0.5", "0.6"),
    "--top-p": ("top_p", "0.9", "0.95"),
    "--max-tokens": ("max_tokens", "8", "9"),
    "--max-length": ("max_length", "128", "64"),
    "--seed": ("seed", "1", "2"),
}


def model_command(model: Path, tmp_path: Path, changed: dict[str, str], *flags: str) -> list[str]:
    """The command of `stored_samples`, with some options changed."""
    options = {option: first for option, (_, first, _) in OPTIONS.items()} | changed
    command = ["--model", str(model), "--problems", f"jsonl:{tmp_path / 'problems.jsonl'}"]
    return [*command, "--output", str(tmp_path / "out"), *flags, *(word for pair in options.items() for word in pair)]


@pytest.fixture
def stored_samples(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A model folder. `tmp_path / "out"` is what an interrupted evaluation of it leaves: one program."""
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_model_dir.iterdir():
        if file.is_file():
            (model / file.name).write_bytes(file.read_bytes())
    spec = f"jsonl:{write(tmp_path / 'problems.jsonl', [problem_row('a')])}"
    source = SampledModel(
        name=str(model),
        num_samples=2,
        temperature=0.5,
        top_p=0.9,
        max_tokens=8,
        seed=1,
        max_length=128,
        dtype=Dtype.FLOAT32,
        engine=Engine.TRANSFORMERS,
    )
    with SampleStore(tmp_path / "out", {"problems": spec, "comparison": "strict"} | source.identity) as store:
        store.append({"task_id": "a", "completion_id": "a/0", "code": "", "outcome": "failed"})
    return model


@pytest.mark.parametrize("option", OPTIONS)
def test_other_options_are_refused_and_named(
    stored_samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    key, _, other = OPTIONS[option]
    assert main(model_command(stored_samples, tmp_path, {option: other})) == 2
    error = capsys.readouterr().err
    assert "holds another evaluation (" + key in error
    assert error.count(" there, ") == 1
    assert "choose another --output" in error


def test_another_template_or_comparison_is_refused(
    stored_samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, key in (
        (["--prompt-template", "{prompt}!"], "prompt_template"),
        (["--comparison", "apps"], "comparison"),
    ):
        assert main(model_command(stored_samples, tmp_path, {}, *flags)) == 2
        assert f"holds another evaluation ({key}" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["*.safetensors", "tokenizer.json", "config.json"])
def test_a_model_that_was_trained_further_is_another_model(
    stored_samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: str
) -> None:
    (file,) = stored_samples.glob(changed)
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if changed == "*.safetensors" else data + b"\n")
    assert main(model_command(stored_samples, tmp_path, {})) == 2
    assert "holds another evaluation (model_files" in capsys.readouterr().err


def test_large_files_are_told_apart_by_start_middle_and_end(tmp_path: Path) -> None:
    found = set()
    for place in (None, 0, 6 << 20, (12 << 20) - 1):
        data = bytearray(12 << 20)
        if place is not None:
            data[place] = 1
        (tmp_path / "weights").write_bytes(data)
        found.add(folder_fingerprint(tmp_path))
    (tmp_path / "weights").rename(tmp_path / "renamed")
    found.add(folder_fingerprint(tmp_path))
    assert len(found) == 5


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner, max_size=3)
        | st.sets(st.integers() | st.text(), max_size=4)
    ),
    max_leaves=6,
)
tests = st.one_of(
    st.builds(StdinTest, st.text(), st.text()),
    st.builds(CallTest, st.just("f"), st.tuples(values), values, st.booleans()),
    st.builds(AssertTest, st.text(), st.text()),
    st.builds(CheckTest, st.text(), st.just("f")),
)


def problem(*its_tests: Test) -> Problem:
    return Problem("a", "own", "?", its_tests)


@given(tests, tests)
def test_equal_tests_have_equal_fingerprints(one: Test, other: Test) -> None:
    now, kept = fingerprints([problem(one)]), fingerprints([problem(other)])
    assert (changed_tests(kept, now) == []) == (repr(one) == repr(other))
    assert differences(now, fingerprints([problem(one)])) == ""
    assert changed_tests(now, fingerprints([problem(one, one)])) == ["a"]


@pytest.mark.parametrize("pair", [(1, 1.0), (1, True), ([1], (1,)), ({1}, frozenset({1})), (0.0, -0.0), ("1", 1)])
def test_values_of_different_types_have_different_fingerprints(pair: tuple[Any, Any]) -> None:
    now, kept = (fingerprints([problem(CallTest("f", (), value))]) for value in pair)
    assert changed_tests(kept, now) == ["a"]


def test_fingerprints_are_the_same_in_every_process() -> None:
    code = (
        "from rltf.problems.fingerprints import fingerprints\nfrom rltf.problems.types import *\n"
        "test = CallTest('f', ({'a', 'b', 'c', 'd'}, 1 << 99999), {frozenset('xyz'): None})\n"
        "print(fingerprints([Problem('a', 'own', '?', (test,))]))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1

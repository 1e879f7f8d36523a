"""`rltf critic`: from the folders of evaluations to a critic that a learner loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rltf import cli
from rltf.files import SUMS
from rltf.learner.critic_folder import check_critic
from rltf.learner.error_classes import ERROR_CLASSES
from rltf.transport.model_folder import load_tokenizer
from tests.learner.samples import make_experiences, make_learner, make_references
from tests.tiny_model import build_tiny_model

ROOT = Path(__file__).parents[2]
OWN = f"jsonl:{ROOT / 'examples' / 'own_problems.jsonl'}"
ROWS = [
    {"task_id": task_id, "completion_id": f"{task_id}/{number}", "code": code, "outcome": outcome}
    for task_id in ("sum-of-line", "circle-area")
    for number, (code, outcome) in enumerate(
        [
            ("print(1)\n", "failed"),
            ("print(", "syntax_error"),
            ("print(1 / 0)\n", "runtime_error"),
            ("while True: pass\n", "timeout"),
            ("print(2)\n", "infrastructure_error"),
        ]
    )
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=1024)


def samples(folder: Path, rows: list[dict[str, Any]]) -> str:
    folder.mkdir()
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def train(model: Path, samples: str, output: Path, *options: str, problems: str = OWN) -> int:
    given = ["--model", str(model), "--samples", samples, "--problems", problems, "--output", str(output)]
    return cli.main(["critic", *given, "--num-epochs", "2", *options])


def test_a_critic_is_trained_and_used(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    evaluated = samples(tmp_path / "evaluated", ROWS)
    learning = ("--held-out-share", "0.3", "--learning-rate", "1e-3", "--batch-size", "4")
    output = tmp_path / "critic"
    assert train(model_dir, evaluated, output, *learning) == 0
    facts = check_critic(output, model_dir, load_tokenizer(model_dir))
    held_out = facts["held_out"]
    assert list(held_out["by_class"]) == list(ERROR_CLASSES)
    assert held_out["num_programs"] + facts["num_programs"] == 8 + num_references()
    assert 0 <= held_out["accuracy"] <= 1
    assert "left out 2 programs that could not be graded" in caplog.text
    assert "epoch 2 of 2: loss" in caplog.text
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "accuracy on held-out problems:"
    assert printed[-1] == f"written: {output}"

    again, other = tmp_path / "again", tmp_path / "other"
    assert train(model_dir, evaluated, again, *learning) == 0
    assert train(model_dir, evaluated, other, *learning, "--seed", "1") == 0
    assert (again / SUMS).read_text() == (output / SUMS).read_text()
    assert (other / SUMS).read_text() != (output / SUMS).read_text()

    learner = make_learner(model_dir, algorithm="coderl", critic=output)
    learner.update(learner.prepare_with(make_experiences(0), make_references(1)))


def num_references() -> int:
    rows = (ROOT / "examples" / "own_problems.jsonl").read_text().splitlines()
    return sum(len(json.loads(row).get("references", ())) for row in rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "there are no programs; evaluate a model first"),
        ([ROWS[0], {"task_id": "sum-of-line", "code": ""}], "samples.jsonl:2: not a row of an evaluation: 'outcome'"),
        ([{**ROWS[0], "outcome": "wrong"}], "samples.jsonl:1: not a row of an evaluation: 'wrong'"),
        (
            [{**ROWS[0], "task_id": "sum-of-lines"}],
            "did you mean sum-of-line?; every program must be for one of the --problems",
        ),
    ],
)
def test_unusable_samples_are_refused(
    model_dir: Path, rows: list[dict[str, Any]], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(model_dir, samples(tmp_path / "evaluated", rows), tmp_path / "critic") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "critic").exists()


def test_what_cannot_be_done_is_refused(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated = samples(tmp_path / "evaluated", ROWS)
    output = tmp_path / "critic"
    for arguments, message in (
        ((Path("tiny"), evaluated, output), "--model tiny is only built and trained by the starter job"),
        ((model_dir, str(tmp_path), output), f"{tmp_path} has no samples.jsonl"),
        ((model_dir, evaluated, tmp_path), f"--output {tmp_path} exists already; delete it"),
        ((tmp_path, evaluated, output), "is not a model folder: it has no config.json"),
        ((model_dir, evaluated, output, "--max-length", "1"), "0 programs of 0 problems fit into --max-length"),
        ((model_dir, evaluated, output, "--chat-template", "on"), "model.chat_template is on, but the tokenizer"),
        ((model_dir, evaluated, output, "--problems", OWN, OWN), "is in two SPECs"),
        ((model_dir, evaluated, output, "--prompt-template", "x"), "--prompt-template: it has neither {prompt} nor"),
    ):
        assert train(*arguments) == 2
        assert message in capsys.readouterr().err
    for option, value in (("--held-out-share", "1"), ("--learning-rate", "0")):
        with pytest.raises(SystemExit):
            train(model_dir, evaluated, output, option, value)
        assert f"argument {option}: expected a number above 0" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.slow
def test_mistakes_show_up_before_torch_is_imported(tmp_path: Path) -> None:
    words = ["critic", "--model", "m", "--samples", str(tmp_path), "--problems", OWN, "--output", str(tmp_path / "o")]
    program = f"import sys; from rltf import cli; print(cli.main({words})); "
    program += "print(*{'torch', 'ray', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "2\n\n"
    assert done.stderr == f"error: {tmp_path} has no samples.jsonl, so it is not the --output of an evaluation\n"

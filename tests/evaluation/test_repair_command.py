"""`rltf train-repair`: from the folders of evaluations to a model that `rltf evaluate --repair` asks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rltf import cli
from rltf.files import check_folder, read_json
from rltf.learner.repair_data import FailedProgram, encode_repairs, split_repairs
from rltf.problems import Problem, StdinTest
from rltf.problems.prompts import PLAIN, encode_prompt, repair_exchange
from rltf.transport.model_folder import load_model, load_tokenizer
from tests.tiny_model import build_tiny_model

ROOT = Path(__file__).parents[2]
RIGHT, WRONG, FITS = "print(int(input()) + 1)\n", "print(1)\n", "print(3)\n"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=1024)


def spec(folder: Path, **changes: Any) -> str:
    rows = [
        {
            "task_id": task_id,
            "statement": f"Add one ({task_id}).",
            "tests": [{"stdin": "2\n", "expected": "3\n"}, {"stdin": "5\n", "expected": "6\n"}],
            "num_visible_tests": 1,
            "references": [RIGHT, f"# other\n{RIGHT}", f"# third\n{RIGHT}"],
        }
        | changes
        for task_id in "abcd"
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return f"jsonl:{folder / 'problems.jsonl'}"


def samples(folder: Path, *programs: tuple[str, str]) -> str:
    folder.mkdir()
    rows = [
        {"task_id": task_id, "completion_id": f"{task_id}/{number}", "code": code, "outcome": outcome}
        for task_id in "abcd"
        for number, (code, outcome) in enumerate(programs)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def train(model: Path, samples: str, problems: str, output: Path, *options: str) -> int:
    given = ["--model", str(model), "--samples", samples, "--problems", problems, "--output", str(output)]
    return cli.main(["train-repair", *given, "--workers", "1", "--num-steps", "2", "--batch-size", "4", *options])


def test_a_repair_model_is_trained(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    evaluated = samples(
        tmp_path / "evaluated",
        (RIGHT, "passed"),
        (WRONG, "failed"),
        (WRONG, "failed"),
        (FITS, "failed"),  # passes the example
        ("print(", "syntax_error"),
        ("x", "infrastructure_error"),
    )
    output = tmp_path / "repair"
    learning = ("--held-out-share", "0.25", "--learning-rate", "1e-3", "--max-references", "2")
    assert train(model_dir, evaluated, spec(tmp_path), output, *learning) == 0
    check_folder(output)
    facts = read_json(output / "repair.json")
    assert "8 of 12 failing programs fail the examples as well" in caplog.text
    assert (facts["num_answers"], facts["held_out"]["num_answers"]) == (3 * 2 * 2, 1 * 2 * 2)
    assert facts["held_out"]["loss"] < facts["held_out"]["loss_before"]
    assert "answers: 12 to train on, 4 of held-out problems" in capsys.readouterr().out
    load_model(output, "auto")
    load_tokenizer(output)


def test_training_reads_what_an_evaluation_asks(model_dir: Path) -> None:
    tokenizer = load_tokenizer(model_dir)
    test = StdinTest("2\n", "3\n")
    problem = Problem("p", "jsonl", "Add one.", (test, test), references=(RIGHT, WRONG), examples=(test,))
    failed = [FailedProgram(problem, one, f"It is {one}") for one in (WRONG, FITS)]
    repairs = encode_repairs(failed, tokenizer, PLAIN, max_references=1, max_length=500)
    for sequence, one in zip(repairs["p"], failed, strict=True):
        exchange = repair_exchange(one.program, one.feedback, PLAIN)
        assert sequence.prompt_ids.tolist() == encode_prompt(problem, tokenizer, PLAIN, [exchange])
        assert tokenizer.decode(sequence.token_ids) == RIGHT + tokenizer.eos_token
    limits = {"max_references": 1, "max_length": 500}
    (first, *rest) = encode_repairs(failed, tokenizer, PLAIN, **limits, first_answers=[problem])["p"]
    assert first.prompt_ids.tolist() == encode_prompt(problem, tokenizer, PLAIN)
    assert tokenizer.decode(first.token_ids) == RIGHT + tokenizer.eos_token
    assert len(rest) == len(repairs["p"])
    assert encode_repairs(failed, tokenizer, PLAIN, max_references=1, max_length=9) == {}


def test_repairs_of_a_problem_stay_together(model_dir: Path) -> None:
    tokenizer = load_tokenizer(model_dir)
    test = StdinTest("2\n", "3\n")
    problems = [Problem(name, "jsonl", f"Add {name}.", (test,), references=(RIGHT,)) for name in "abcd"]
    failed = [FailedProgram(problem, one, "It fails.") for problem in problems for one in (WRONG, FITS)]
    repairs = encode_repairs(failed, tokenizer, PLAIN, max_references=1, max_length=500)
    training, held_out = split_repairs(repairs, 0.25, seed=0)
    assert (len(training), len(held_out)) == (6, 2)
    (name,) = [name for name, sequences in repairs.items() if sequences[0] is held_out[0]]
    assert held_out == repairs[name]


def test_what_cannot_be_done_is_refused(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated = samples(tmp_path / "evaluated", (WRONG, "failed"))
    right = samples(tmp_path / "right", (RIGHT, "passed"))
    fits = samples(tmp_path / "fits", (FITS, "failed"))
    output, problems = tmp_path / "repair", spec(tmp_path)
    for arguments, message in (
        ((Path("tiny"), evaluated, problems, output), "--model tiny is only built and trained by the starter job"),
        ((model_dir, evaluated, problems, tmp_path), f"--output {tmp_path} exists already"),
        ((model_dir, right, problems, output), "no failing program of a problem that has examples and reference"),
        ((model_dir, fits, problems, output), "all 4 failing programs pass the examples"),
        ((model_dir, evaluated, problems, output, "--max-length", "9"), "0 repairs of 0 problems fit"),
    ):
        assert train(*arguments) == 2
        assert message in capsys.readouterr().err
    assert train(model_dir, evaluated, spec(tmp_path, references=[]), output) == 2
    assert "no failing program of a problem that has examples and reference" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.slow
def test_mistakes_show_up_before_torch_is_imported(tmp_path: Path) -> None:
    words = ["train-repair", "--model", "m", "--samples", str(tmp_path), "--problems", spec(tmp_path)]
    words += ["--output", str(tmp_path / "o")]
    program = f"import sys; from rltf import cli; print(cli.main({words})); "
    program += "print(*{'torch', 'ray', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "2\n\n"
    assert done.stderr == f"error: {tmp_path} has no samples.jsonl, so it is not the --output of an evaluation\n"

"""What installed packages offer: benchmarks and objectives by name, and what a broken package says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rltf import cli
from rltf.errors import UserError
from rltf.learner.advantages import check_estimator
from rltf.learner.policy_losses import TokenInputs, check_policy_loss, policy_factor
from rltf.problems import StdinTest, load
from rltf.problems.spec import row_of
from rltf.rewards.custom import check_function
from rltf.rewards.scoring import score_group
from rltf.sandbox.verdict import Outcome
from rltf.settings import Algorithm, Settings, rewards_of
from rltf.settings_sources import load_settings
from tests.distributions import install, install_examples
from tests.learner.samples import make_learner, make_rollout
from tests.rewards.samples import character_tokens, make_verdict

RIDDLE = {"task_id": 7, "question": "Add two numbers.", "examples": [["2 3", "5"], ["1 1", "2"]], "level": "easy"}


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_examples(monkeypatch, tmp_path / "site")


# The examples


@pytest.mark.usefixtures("examples")
def test_the_example_of_a_reward() -> None:
    check_function("my_rewards:concise")
    programs = [character_tokens("a=1\n" * 10), character_tokens("print(1)\nb"), character_tokens("a=1")]
    verdicts = [make_verdict(outcome, (outcome,)) for outcome in (Outcome.PASSED, Outcome.PASSED, Outcome.FAILED)]
    settings = rewards_of("rltf", function="my_rewards:concise", baseline="none")
    samples = [sample for sample in score_group(programs, verdicts, settings).samples if sample is not None]
    assert [sample.custom for sample in samples] == pytest.approx([0.75, 0.95, 0.0])
    row = samples[1].token_weights[-1]
    np.testing.assert_allclose(row, [*[0.95 - 0.3 * 0.1] * 8, *[0.95] * 3], rtol=1e-6)


@pytest.mark.usefixtures("examples")
def test_the_example_of_a_benchmark(tmp_path: Path) -> None:
    other = RIDDLE | {"task_id": 8, "level": "hard", "language": "cobol"}
    path = write_rows(tmp_path / "rows.jsonl", RIDDLE, other, RIDDLE | {"task_id": 9, "examples": []})
    loaded = load(f"riddles:{path}?difficulty=easy")
    (problem,) = loaded.problems
    assert (problem.task_id, problem.tests) == ("7", (StdinTest("2 3", "5"), StdinTest("1 1", "2")))
    assert [str(row) for row in loaded.rejected] == [
        f"{path}:2: problem 8: language: cobol, but only python is supported",
        f"{path}:3: problem 9: tests: there are none",
    ]
    with pytest.raises(UserError, match="riddles problems have no row format"):
        row_of(problem)
    with pytest.raises(UserError, match=r"with KIND one of .*, taco, riddles; did you mean riddles\?"):
        load(f"riddle:{path}")


@pytest.mark.usefixtures("examples")
def test_the_example_of_an_objective(tiny_model_dir: Path) -> None:
    settings, _ = load_settings(["--algorithm", "topr", "--learner.loss.supervised_weight", "0"], environ={})
    assert settings.algorithm == "topr"
    assert settings.functions == {
        "learner.loss.policy_loss": "topr:policy_loss",
        "learner.advantage.estimator": "topr:advantages",
    }
    loss, advantage = settings.learner.loss, settings.learner.advantage
    check_policy_loss(loss)
    check_estimator("topr:advantages", advantage)
    logprobs = torch.tensor([-1.0, -1.0, -1.0, -3.0], requires_grad=True)
    behavior = torch.tensor([-2.0, -2.0, -0.5, -1.0])
    inputs = TokenInputs(logprobs, behavior, behavior, torch.tensor([1.0, -1.0, -1.0, 1.0]), torch.tensor([0, 1, 1, 2]))
    factor, is_clipped = policy_factor(inputs, loss)
    torch.testing.assert_close(factor.detach(), torch.tensor([-1.0, -1.0, -np.exp(-0.5), -3.0]).float())
    assert is_clipped.tolist() == [False, True, False, False]

    learner = make_learner(tiny_model_dir, **{**loss.model_dump(), **advantage.model_dump()})
    experiences = make_rollout(np.random.default_rng(0), "r")
    for number, experience in enumerate(experiences):
        experience.token_weights[:] = 0
        experience.token_weights[0, -1] = 1.0 if number == 0 else -1.0
    table = learner._estimated(learner.prepare(experiences), loss)
    expected = [1.5 if index == 0 else -0.5 for index, e in enumerate(experiences) for _ in e.token_ids]
    assert table.weights.sum(0).tolist() == pytest.approx(expected)
    assert learner.update(learner.prepare(experiences)).grad_norm > 0


# Names


@pytest.mark.usefixtures("examples")
def test_help_and_errors_name_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help"]) == 0
    assert ",gspo,cispo,topr}" in capsys.readouterr().out
    assert cli.main(["train", "--algorithm", "topper", "--dry-run"]) == 2
    assert "'cispo', 'topr'; did you mean topr?" in " ".join(capsys.readouterr().err.split())


def test_a_name_that_is_built_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, tmp_path, "clash", "", {"rltf.objectives": {"grpo": "clash:PRESET"}})
    message = "rltf.objectives grpo of the package clash 1.2: the name grpo is built in"
    assert cli.main(["train", "--model.name", str(tmp_path), "--algorithm", "dapo"]) == 2, "the start of a job looks"
    assert message in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match=message):
        Settings.model_validate({"algorithm": "unknown"})
    assert Settings.model_validate({"algorithm": "grpo"}).algorithm is Algorithm.GRPO


def test_a_name_that_two_packages_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("first", "second"):
        install(monkeypatch, tmp_path, name, "", {"rltf.problems": {"twice": f"{name}:load"}})
    with pytest.raises(UserError, match=r"rltf\.problems twice of the package \w+ 1\.2 has the same name"):
        load("twice:rows.jsonl")


# Packages that do not work


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import elsewhere", "broken:LOADER cannot be loaded: ModuleNotFoundError: No module named 'elsewhere'"),
        ("LOAD = 1", "broken:LOADER cannot be loaded: AttributeError: "),
        ("LOADER = 1", "expected a function from a row to a Problem, or a Benchmark, got int"),
        ("def LOADER(row): return row['x']", "raised KeyError: 'x'; for a row to be skipped, it has to raise Unusable"),
        ("def LOADER(row): return row", "returned dict instead of a Problem"),
    ],
)
def test_a_broken_benchmark(source: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "broken", source, {"rltf.problems": {"odd": "broken:LOADER"}})
    path = write_rows(tmp_path / "rows.jsonl", RIDDLE)
    place = f"{path}:1: " if "raised" in message or "returned" in message else ""
    with pytest.raises(UserError, match=rf"^{place}rltf\.problems odd of the package broken 1\.2:? {message}"):
        load(f"odd:{path}")


@pytest.mark.parametrize(
    ("number", "source", "message"),
    [
        (1, "1 / 0", "PRESET cannot be loaded: ZeroDivisionError: division by zero"),
        (2, "PRESET = {}", r"expected a settings\.Preset, got dict"),
        (3, "PRESET = Preset(rewards={'coarse_wait': 1})", r"rewards\.coarse_wait: Extra inputs are not permitted"),
        (4, "PRESET = Preset(loss={'policy_loss': 'ppo'})", r"loss: Value error, policy_loss ppo needs clip_ratio_low"),
        (5, "PRESET = Preset(advantage={'lam': 2})", r"advantage\.lam: Input should be less than or equal to 1"),
    ],
)
def test_a_broken_objective(
    number: int, source: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = f"broken{number}"  # presets are loaded once in a process
    source = f"from rltf.settings import Preset\n{source}"
    install(monkeypatch, tmp_path, name, source, {"rltf.objectives": {name: f"{name}:PRESET"}})
    with pytest.raises(UserError, match=rf"rltf\.objectives {name} of the package {name} 1\.2: .*{message}"):
        Settings.model_validate({"algorithm": name})


# Functions of the learner


FUNCTIONS = {
    "return inputs.logprobs, inputs.logprobs > 0": None,
    "return inputs.logprobs.detach(), inputs.logprobs > 0": "its rho has no gradient: compute it from inputs.logprobs",
    "return inputs.logprobs.sum(), inputs.logprobs > 0": r"expected one number per token, \[5\], got \[\]",
    "return inputs.logprobs, False": "expected a tensor, got bool",
    "return inputs.logprobs.log(), inputs.logprobs > 0": "rho or its gradient is not finite on made-up tokens",
    "return inputs.logprobs * settings.clip_ratio_low, inputs.logprobs > 0": "it raised TypeError: unsupported operand",
}


@pytest.mark.parametrize(("body", "message"), FUNCTIONS.items())
def test_a_policy_loss_is_tried(
    body: str, message: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path, "losses", f"def f(inputs, settings):\n    {body}\n", {})
    settings = Settings.model_validate({"learner": {"loss": {"policy_loss": "losses:f"}}})
    if message is None:
        check_policy_loss(settings.learner.loss)
        return
    with pytest.raises(UserError, match=rf"learner\.loss\.policy_loss losses:f: {message}"):
        check_policy_loss(settings.learner.loss)


def test_an_estimator_gets_its_rewards_and_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = "def f(inputs, settings):\n    return inputs.rewards * settings.gamma / inputs.logprobs\n"
    install(monkeypatch, tmp_path, "estimators", source, {})
    settings = Settings.model_validate({"learner": {"advantage": {"estimator": "estimators:f", "gamma": 0.5}}})
    check_estimator("estimators:f", settings.learner.advantage)
    monkeypatch.setattr("estimators.f", lambda inputs, settings: inputs.rewards / inputs.rewards)
    with pytest.raises(UserError, match="an advantage is not finite on made-up tokens"):
        check_estimator("estimators:f", settings.learner.advantage)

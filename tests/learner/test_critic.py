"""The critic of CodeRL: its numbers, packing, training, and what a learner refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rltf.errors import UserError
from rltf.learner.critic import ErrorCritic, critic_loss, program_logits, true_class_probabilities
from rltf.learner.critic_folder import CRITIC_FILE, HEAD_FILE, check_critic
from rltf.learner.critic_training import LabeledProgram, evaluate_critic, labeled_programs, split_programs, train_critic
from rltf.learner.data import TokenSequence
from rltf.learner.error_classes import ERROR_CLASSES, error_class
from rltf.problems.prompts import PLAIN, render_prompt
from rltf.problems.types import Problem, StdinTest
from rltf.sandbox.verdict import Outcome
from rltf.settings import Dtype
from rltf.transport.model_folder import load_tokenizer
from tests.encoder_decoder_models import build_encoder_decoder
from tests.learner.samples import (
    largest_difference,
    make_critic,
    make_experiences,
    make_learner,
    make_references,
    plain_class_logits,
)
from tests.tiny_model import build_tiny_model

GOLDEN = torch.tensor([[0.0, 1, 0, 0], [0, 2, 0, 1], [1, 0, 0, 3]])


@pytest.fixture(scope="module", params=["decoder-only", "codet5", "t5"])
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    if request.param == "decoder-only":
        return tiny_model_dir
    return build_encoder_decoder(request.param, tmp_path_factory.mktemp("model") / request.param)


@pytest.fixture(scope="module")
def critic_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_critic(tiny_model_dir, tmp_path_factory.mktemp("critic") / "critic")


def load(folder: Path, seed: int = 0) -> ErrorCritic:
    return ErrorCritic(folder, compute_dtype=Dtype.FLOAT32, device=torch.device("cpu"), seed=seed)


# Numbers


def test_golden_values() -> None:
    runtime_error = torch.tensor([1])
    q = true_class_probabilities(GOLDEN, runtime_error.repeat(3))
    torch.testing.assert_close(q, torch.tensor([0.475367, 0.610296, 0.040316]), rtol=0, atol=1e-6)
    program = torch.zeros(3, dtype=torch.int64)
    assert program_logits(GOLDEN, program).tolist() == [[1, 2, 0, 3]]
    assert critic_loss(GOLDEN, program, runtime_error).item() == pytest.approx(1.440190, abs=1e-6)
    losses = -(-0.6 - -0.3) * q * torch.tensor([-1, -0.5, -2])
    assert losses.mean().item() == pytest.approx(-0.086115, abs=1e-6)
    assert losses.sum().item() == pytest.approx(-0.258344, abs=1e-6)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 100))
def test_pooling_takes_each_program_by_itself(lengths: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.normal(size=(sum(lengths), 4)))
    program = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
    order = torch.from_numpy(random.permutation(sum(lengths)))  # the tokens of a program need not be side by side
    pooled = program_logits(logits[order], program[order])
    expected = torch.stack([part.amax(0) for part in torch.split(logits, lengths)])
    assert torch.equal(pooled, expected)


def test_every_outcome_of_a_program_has_a_class() -> None:
    classes = {outcome: ERROR_CLASSES[error_class(outcome)] for outcome in list(Outcome)[:7]}
    for outcome in (Outcome.TIMEOUT, Outcome.MEMORY_LIMIT, Outcome.OUTPUT_LIMIT, Outcome.RUNTIME_ERROR):
        assert classes.pop(outcome) == "runtime_error"
    assert {outcome.value: name for outcome, name in classes.items()} == {
        name: name for name in ("syntax_error", "failed", "passed")
    }
    with pytest.raises(KeyError):
        error_class(Outcome.INFRASTRUCTURE_ERROR)


@pytest.mark.parametrize("micro_batch_tokens", [64, 1024])
def test_packed_logits_equal_those_of_one_program(model_dir: Path, micro_batch_tokens: int) -> None:
    critic = load(model_dir)
    sequences = [TokenSequence(e.prompt_ids, e.token_ids) for e in make_experiences(0)]
    with torch.no_grad():
        expected = torch.cat([plain_class_logits(critic, sequence) for sequence in sequences])
        assert expected.std(0).min() > 1e-3  # they differ between tokens
        for batch in critic.backbone.pack(sequences, micro_batch_tokens=micro_batch_tokens, row_tokens=64):
            torch.testing.assert_close(critic.token_logits(batch), expected[batch.source], rtol=1e-5, atol=1e-5)


# Training


def marked_programs(count: int) -> list[LabeledProgram]:
    """Random programs, whose first or second token decides the class."""
    random = np.random.default_rng(0)
    programs = []
    for index in range(count):
        tokens = random.integers(20, 40, int(random.integers(3, 9)), dtype=np.int32)
        label = index % 4
        tokens[random.integers(2)] = 10 + label
        programs.append(LabeledProgram(TokenSequence(random.integers(20, 60, 4, dtype=np.int32), tokens), label))
    return programs


@pytest.mark.slow
@pytest.mark.parametrize("model_dir", ["decoder-only", "codet5"], indirect=True)
def test_a_critic_learns_which_token_decides(model_dir: Path) -> None:
    training, held_out = split_programs(marked_programs(160), 0.25, seed=0)
    critic = load(model_dir)
    advanced: list[int] = []
    learning = {"num_epochs": 6, "batch_size": 8, "learning_rate": 3e-3, "seed": 0}
    assert evaluate_critic(critic, held_out)["accuracy"] < 0.6
    train_critic(critic, training, **learning, advance=advanced.append)  # type: ignore[arg-type]
    assert sum(advanced) == 6 * len(training)
    found = evaluate_critic(critic, held_out)
    assert found["accuracy"] > 0.8
    assert found["num_programs"] == sum(row["num_programs"] for row in found["by_class"].values()) == len(held_out)
    right = sum(row["accuracy"] * row["num_programs"] for row in found["by_class"].values() if row["num_programs"])
    assert right == pytest.approx(found["accuracy"] * len(held_out))


def test_training_depends_only_on_the_seed(tiny_model_dir: Path) -> None:
    weights = []
    for seed in (0, 0, 1):
        critic = load(tiny_model_dir, seed=seed)
        train_critic(critic, marked_programs(12), num_epochs=2, learning_rate=1e-3, batch_size=4, seed=seed)
        weights.append(list(critic.trained_parameters().values()))
    assert largest_difference(weights[0], weights[1]) == 0
    assert largest_difference(weights[0], weights[2]) > 0


def test_held_out_programs_are_of_other_problems() -> None:
    programs = marked_programs(12)
    pairs = [LabeledProgram(one.sequence, label) for one in programs for label in (0, 3)]
    training, held_out = split_programs(pairs, 0.25, seed=0)
    assert (len(training), len(held_out)) == (18, 6)
    seen = {one.sequence.prompt_ids.tobytes() for one in training}
    assert not seen & {one.sequence.prompt_ids.tobytes() for one in held_out}
    with pytest.raises(UserError, match="2 programs of 1 problems"):
        split_programs(pairs[:2], 0.25, seed=0)


def test_programs_are_labeled_as_rl_sees_them(tiny_model_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    test = StdinTest("1\n", "2\n")
    problem = Problem("p", "starter", "Add one.", (test,), references=("print(2)\n",))
    other = Problem("q", "starter", "Add two.", (test,))
    graded = {
        "p": [("print(1)\n", Outcome.FAILED), ("x", Outcome.INFRASTRUCTURE_ERROR), ("x = 1\n" * 200, Outcome.FAILED)],
        "q": [("print(", Outcome.SYNTAX_ERROR), ("while True: pass", Outcome.TIMEOUT)],
    }
    found = labeled_programs([problem, other], graded, tokenizer, PLAIN, max_length=200)
    assert [ERROR_CLASSES[one.error_class] for one in found] == ["failed", "passed", "syntax_error", "runtime_error"]
    for one, program, owner in zip(
        found, ("print(1)\n", "print(2)\n", "print(", "while True: pass"), (problem, problem, other, other), strict=True
    ):
        assert one.sequence.prompt_ids.tolist() == tokenizer.encode(render_prompt(owner, PLAIN, tokenizer))
        assert tokenizer.decode(one.sequence.token_ids) == program + tokenizer.eos_token
    assert "left out 1 programs that could not be graded" in caplog.text
    assert "left out 1 programs longer than 200 tokens" in caplog.text


# In the learner


def test_a_critic_is_read_as_it_was_written(critic_dir: Path, tiny_model_dir: Path) -> None:
    learner = make_learner(tiny_model_dir, algorithm="coderl", critic=critic_dir)
    assert learner._critic is not None
    made = load(tiny_model_dir)
    theirs = [*learner._critic.backbone.model.parameters(), *learner._critic.head.parameters()]
    assert not any(parameter.requires_grad for parameter in theirs)
    assert largest_difference(theirs, list(made.trained_parameters().values())) == 0


def test_an_update_does_not_change_the_critic(critic_dir: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    learner = make_learner(tiny_model_dir, algorithm="coderl", critic=critic_dir)
    assert learner._critic is not None
    before = [p.clone() for p in learner._critic.backbone.model.parameters()]
    learner.update(learner.prepare_with(make_experiences(0), make_references(1)))
    assert largest_difference(list(learner._critic.backbone.model.parameters()), before) == 0
    path = learner.save_checkpoint(tmp_path)
    assert not list(path.rglob("*critic*"))


def test_a_run_continues_only_with_its_own_critic(critic_dir: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    other = make_critic(tiny_model_dir, tmp_path / "other", seed=1)
    path = make_learner(tiny_model_dir, algorithm="rltf-code", critic=critic_dir).save_checkpoint(tmp_path)
    moved = tmp_path / "moved"
    shutil.copytree(critic_dir, moved)
    make_learner(tiny_model_dir, algorithm="rltf-code", critic=moved).resume(path)
    with pytest.raises(UserError, match=r"written with another critic; use the learner\.advantage\.critic of the run"):
        make_learner(tiny_model_dir, algorithm="rltf-code", critic=other).resume(path)
    with pytest.raises(UserError, match="written with a critic"):
        make_learner(tiny_model_dir, algorithm="rltf-code").resume(path)


def test_unusable_critics_are_refused(critic_dir: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    absent = tmp_path / "absent"
    with pytest.raises(UserError, match=f"{absent} is not a critic: it is not a directory; train one with `rltf cri"):
        check_critic(absent, tiny_model_dir, tokenizer)
    with pytest.raises(UserError, match=rf"is not a critic: it has no {CRITIC_FILE}"):
        make_learner(tiny_model_dir, algorithm="coderl", critic=tiny_model_dir)
    codet5 = build_encoder_decoder("codet5", tmp_path / "codet5")
    with pytest.raises(UserError, match=f"the tokenizer of {critic_dir} differs .* with --model {codet5}"):
        make_learner(codet5, algorithm="coderl", critic=critic_dir)
    damaged = tmp_path / "damaged"
    shutil.copytree(critic_dir, damaged)
    (damaged / HEAD_FILE).write_bytes(b"")
    with pytest.raises(UserError, match=f"{damaged} is damaged: {HEAD_FILE}"):
        make_learner(tiny_model_dir, algorithm="coderl", critic=damaged)
    short = make_critic(build_tiny_model(tmp_path / "model", max_position_embeddings=128), tmp_path / "short")
    with pytest.raises(UserError, match=r"reads at most 128 tokens, fewer than model\.max_model_len 256"):
        make_learner(tiny_model_dir, algorithm="coderl", critic=short)


def test_a_critic_of_another_kind_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    codet5 = build_encoder_decoder("codet5", tmp_path / "codet5")
    load_tokenizer(tiny_model_dir).save_pretrained(codet5)
    critic = make_critic(codet5, tmp_path / "critic")
    with pytest.raises(UserError, match="is an encoder-decoder model, the other is not; train a critic with"):
        make_learner(tiny_model_dir, algorithm="coderl", critic=critic)


def test_a_token_is_judged_by_those_before_it(model_dir: Path) -> None:
    critic = load(model_dir)
    prompt, tokens = np.arange(20, 24, dtype=np.int32), np.arange(30, 36, dtype=np.int32)
    changed = tokens.copy()
    changed[3] = 40
    logits = []
    for ids in (tokens, changed):
        (batch,) = critic.backbone.pack([TokenSequence(prompt, ids)], micro_batch_tokens=64, row_tokens=64)
        logits.append(critic.token_logits(batch))
    differs = (logits[0] != logits[1]).any(-1)
    assert differs.tolist() == [False] * 4 + [True] * 2

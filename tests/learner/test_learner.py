"""Updates, checkpoints and publication, on a tiny real model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rltf.errors import UserError
from rltf.files import checkpoints, newest_checkpoint, prune, write_folder
from rltf.learner.data import Experience, TokenSequence
from rltf.learner.learner import Learner
from rltf.learner.metrics import UpdateStats
from rltf.rewards import Granularity
from rltf.sandbox.verdict import Outcome
from rltf.settings import Algorithm, Dtype
from rltf.transport.weights import WeightsHandle, unpack
from tests.learner.samples import (
    largest_difference,
    make_experiences,
    make_learner,
    make_references,
    plain_logprobs,
    random_ids,
)


def weights(learner: Learner) -> list[torch.Tensor]:
    return [p.detach().clone() for p in learner.policy.model.parameters()]


@torch.no_grad()
def sampled_rollout(learner: Learner, random: np.random.Generator, temperature: float) -> list[Experience]:
    """Two completions sampled token by token from the learner's own weights."""
    prompt_ids = random_ids(random, 12)
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    experiences = []
    for index in range(2):
        ids, logprobs = prompt_ids.astype(np.int64), []
        for _ in range(10):
            logits = learner.policy.model(input_ids=torch.from_numpy(ids)[None]).logits[0, -1] / temperature
            distribution = logits.log_softmax(-1)
            token = torch.multinomial(distribution.exp(), 1, generator=generator).item()
            logprobs.append(distribution[int(token)].item())
            ids = np.append(ids, token)
        experiences.append(
            Experience(
                "task",
                f"c{index}",
                prompt_ids,
                ids[12:].astype(np.int32),
                np.array(logprobs, np.float32),
                random.normal(size=(len(Granularity), 10)).astype(np.float32),
                0,
                -0.3,
                Outcome.FAILED,
            )
        )
    return experiences


@pytest.mark.slow
def test_ratio_stays_one_at_learning_rate_zero(tiny_model_dir: Path) -> None:
    learner = make_learner(tiny_model_dir, learning_rate=0.0)
    learner.set_references(make_references(0))
    random = np.random.default_rng(0)
    before = weights(learner)
    for _ in range(50):
        stats = learner.update(learner.prepare(sampled_rollout(learner, random, 0.8)))
        assert abs(stats.ratio_mean - 1) < 1e-4
        assert abs(stats.ratio_max - 1) < 1e-4
        assert stats.mismatch_max < 1e-4
        assert stats.grad_norm > 0
    assert largest_difference(weights(learner), before) == 0


def test_rl_moves_probability_to_rewarded_tokens(tiny_model_dir: Path) -> None:
    learner = make_learner(tiny_model_dir, supervised_weight=0.0, warmup_steps=0)
    prompt = random_ids(np.random.default_rng(0), 8)
    good, bad = TokenSequence(prompt, np.array([5, 6], np.int32)), TokenSequence(prompt, np.array([7, 8], np.int32))
    experiences = []
    for sequence, reward in ((good, 1.0), (bad, -1.0)):
        logprobs = plain_logprobs(learner.policy, sequence, 0.8).detach()
        token_weights = np.zeros((len(Granularity), 2), np.float32)
        token_weights[Granularity.COARSE] = reward
        outcome = Outcome.PASSED if reward > 0 else Outcome.FAILED
        experiences.append(
            Experience(
                "t", str(reward), prompt, sequence.token_ids, logprobs.numpy(), token_weights, 0, reward, outcome
            )
        )
    before = [plain_logprobs(learner.policy, s, 1.0).sum().item() for s in (good, bad)]
    for _ in range(3):
        learner.update(learner.prepare(experiences))
    after = [plain_logprobs(learner.policy, s, 1.0).sum().item() for s in (good, bad)]
    assert after[0] > before[0] + 0.1
    assert after[1] < before[1] - 0.1


def test_warmup_and_gradient_clipping(tiny_model_dir: Path) -> None:
    learner = make_learner(tiny_model_dir, warmup_steps=4, learning_rate=1e-3, max_grad_norm=0.01)
    learner.set_references(make_references(0))
    rates = [learner.update(learner.prepare(make_experiences(i))).learning_rate for i in range(6)]
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])
    norm = torch.linalg.vector_norm(
        torch.stack([p.grad.norm() for p in learner.policy.model.parameters() if p.grad is not None])
    )
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_infinite_gradient_does_not_change_the_weights(tiny_model_dir: Path) -> None:
    learner = make_learner(tiny_model_dir, rollout_is_threshold=1e30)
    experiences = make_experiences(0)
    experiences[0].logprobs[:] = -1e4
    before = weights(learner)
    prepared = learner.prepare_with(experiences, [])
    with pytest.raises(FloatingPointError, match="step 1: the gradient norm is"):
        learner.update(prepared)
    assert largest_difference(weights(learner), before) == 0
    assert learner.step == 0


def test_bfloat16_is_close_to_float32_and_keeps_master_weights(tiny_model_dir: Path) -> None:
    losses = {}
    for dtype in (Dtype.FLOAT32, Dtype.BFLOAT16):
        learner = make_learner(tiny_model_dir, dtype=dtype)
        learner.set_references(make_references(0))
        losses[dtype] = learner.update(learner.prepare(make_experiences(0))).loss_sl
        assert {p.dtype for p in learner.policy.model.parameters()} == {torch.float32}
    assert losses[Dtype.BFLOAT16] == pytest.approx(losses[Dtype.FLOAT32], rel=0.02)
    assert losses[Dtype.BFLOAT16] != losses[Dtype.FLOAT32]


def test_checkpoint_loads_in_transformers(tiny_model_dir: Path, tmp_path: Path) -> None:
    learner = make_learner(tiny_model_dir)
    learner.set_references(make_references(0))
    learner.update(learner.prepare(make_experiences(0)))
    path = learner.save_checkpoint(tmp_path)
    assert path == tmp_path / "step-1"
    model = AutoModelForCausalLM.from_pretrained(path)
    assert largest_difference(list(model.parameters()), weights(learner)) == 0
    assert AutoTokenizer.from_pretrained(path).eos_token_id == learner.policy.tokenizer.eos_token_id


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "fields"), [*((one.value, {}) for one in Algorithm), ("rltf", {"kl_loss_coef": 0.1})]
)
def test_resumed_run_is_bit_identical(
    tiny_model_dir: Path, tmp_path: Path, algorithm: str, fields: dict[str, Any]
) -> None:
    def start() -> Learner:
        learner = make_learner(tiny_model_dir, algorithm=algorithm, **fields, warmup_steps=5)
        learner.set_references(make_references(0, count=7))  # 4 per update, so passes end in the middle of updates
        return learner

    def update(learner: Learner, step: int) -> UpdateStats:
        learner.publish(by=lambda version, named, verify: WeightsHandle(version, (), 0))
        return learner.update(learner.prepare(make_experiences(step)))

    whole, interrupted = start(), start()
    for step in range(6):
        expected = update(whole, step)
    for step in range(3):
        update(interrupted, step)
    interrupted.prepare(make_experiences(3))  # prepared ahead, never trained on
    path = interrupted.save_checkpoint(tmp_path)
    resumed = start()
    resumed.resume(path)
    assert (resumed.step, resumed.version) == (3, 3)
    for step in range(3, 6):
        stats = update(resumed, step)
    assert stats == expected
    trained = (list(learner.policy.trained_parameters().values()) for learner in (resumed, whole))
    assert largest_difference(*trained) == 0


def test_a_value_head_belongs_to_its_algorithm(tiny_model_dir: Path, tmp_path: Path) -> None:
    ppo, grpo = (make_learner(tiny_model_dir, algorithm=name) for name in ("ppo", "grpo"))
    with pytest.raises(UserError, match="written without a value head; use the algorithm of the run that wrote it"):
        ppo.resume(grpo.save_checkpoint(tmp_path / "grpo"))
    with pytest.raises(UserError, match="written with a value head"):
        make_learner(tiny_model_dir, algorithm="grpo").resume(ppo.save_checkpoint(tmp_path / "ppo"))


@pytest.mark.slow
def test_equal_weights_have_ratios_of_one(tiny_model_dir: Path) -> None:
    """Sampled by the policy itself, no token is clipped, and every objective sees the same policy."""
    for algorithm in Algorithm:
        learner = make_learner(tiny_model_dir, algorithm=algorithm.value, learning_rate=0.0)
        experiences = []
        for sample in make_experiences(0):
            plain = plain_logprobs(learner.policy, TokenSequence(sample.prompt_ids, sample.token_ids), 0.8)
            experiences.append(replace(sample, logprobs=plain.detach().numpy()))
        for _ in range(2):
            stats = learner.update(learner.prepare_with(experiences, make_references(1)))
            assert abs(stats.ratio_mean - 1) < 1e-4
            assert abs(stats.ratio_max - 1) < 1e-4
            assert stats.clip_fraction == 0


def test_old_checkpoints_are_pruned(tiny_model_dir: Path, tmp_path: Path) -> None:
    learner = make_learner(tiny_model_dir)
    (tmp_path / ".incomplete-step-9").mkdir()
    for step in (9, 10, 11):
        learner.step = step
        learner.save_checkpoint(tmp_path)
    prune(tmp_path, keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-10", "step-11"]
    assert newest_checkpoint(tmp_path) == tmp_path / "step-11"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-10", "step-11"]


def test_a_step_is_saved_only_once(tiny_model_dir: Path, tmp_path: Path) -> None:
    learner = make_learner(tiny_model_dir)
    path = learner.save_checkpoint(tmp_path)
    written = (path / "model.safetensors").stat().st_mtime_ns
    assert learner.save_checkpoint(tmp_path) == path
    assert (path / "model.safetensors").stat().st_mtime_ns == written


def test_a_checkpoint_from_an_earlier_life_of_the_run_is_set_aside(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Its updates were undone, so it does not belong to this run any more."""
    make_learner(tiny_model_dir).save_checkpoint(tmp_path)
    learner = make_learner(tiny_model_dir)
    written = (tmp_path / "step-0" / "model.safetensors").stat().st_mtime_ns
    path = learner.save_checkpoint(tmp_path)
    assert (path / "model.safetensors").stat().st_mtime_ns != written
    assert {path.name for path in tmp_path.iterdir()} == {"step-0", "set-aside-step-0"}
    other = make_learner(tiny_model_dir)
    other.resume(path)
    other.save_checkpoint(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"step-0", "set-aside-step-0"}


def test_interrupted_write_leaves_no_checkpoint(tmp_path: Path) -> None:
    def fail_half_way(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_folder(tmp_path / "step-1", fail_half_way)
    assert checkpoints(tmp_path) == []
    assert newest_checkpoint(tmp_path) is None
    write_folder(tmp_path / "step-1", lambda folder: (folder / "config.json").touch())
    assert checkpoints(tmp_path) == [tmp_path / "step-1"]
    with pytest.raises(FileExistsError):
        write_folder(tmp_path / "step-1", lambda folder: None)


def test_unsuitable_checkpoints_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    learner = make_learner(tiny_model_dir)
    with pytest.raises(UserError, match=r"not a checkpoint \(it has no trainer_state/state\.json\)"):
        learner.resume(tiny_model_dir)
    path = learner.save_checkpoint(tmp_path)
    state = json.loads((path / "trainer_state" / "state.json").read_text())
    (path / "trainer_state" / "state.json").write_text(json.dumps({**state, "seed": 5}))
    with pytest.raises(UserError, match=r"run\.seed 5, not 0"):
        learner.resume(path)
    (path / "trainer_state" / "state.json").write_text(json.dumps({**state, "format": 0}))
    with pytest.raises(UserError, match="its format is 0; this program reads format"):
        learner.resume(path)
    (path / "trainer_state" / "state.json").write_text(json.dumps(state))
    learner.set_references(make_references(0))
    with pytest.raises(UserError, match="written with other reference programs"):
        learner.resume(path)


def test_published_weights_equal_the_policy(tiny_model_dir: Path, ray_session: None) -> None:
    learner = make_learner(tiny_model_dir)
    learner.set_references(make_references(0))
    assert learner.publish().version == learner.publish().version == 1  # no update in between: the same weights
    learner.update(learner.prepare(make_experiences(0)))
    handle = learner.publish()
    assert handle.version == learner.version == 2
    published = dict(unpack(ray.get(list(handle.refs))))
    for name, parameter in learner.policy.model.named_parameters():
        torch.testing.assert_close(published[name], parameter.detach(), rtol=0, atol=0)
    assert handle.num_bytes == sum(4 * p.numel() for p in learner.policy.model.parameters())


def test_unusable_data_is_refused(tiny_model_dir: Path) -> None:
    learner = make_learner(tiny_model_dir)
    long = TokenSequence(np.ones(250, np.int32), np.ones(10, np.int32))
    with pytest.raises(
        ValueError, match=r"260 tokens is longer than the 256 tokens that model .*: lower model\.max_model_len"
    ):
        learner.prepare_with([], [long])
    with pytest.raises(ValueError, match="step 1: there are no experiences and no reference programs"):
        learner.update(learner.prepare_with([], []))
    with pytest.raises(UserError, match=r"set learner\.loss\.supervised_weight to 0"):
        learner.set_references([])
    with pytest.raises(ValueError, match="call set_references first"):
        learner.prepare(make_experiences(0))

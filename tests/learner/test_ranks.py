"""The update on two ranks is that of one process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rltf.settings import PRESETS, Algorithm, Dtype, LoraPublish, LoraSettings, LossAggMode, LossSettings
from tests.encoder_decoder_models import build_encoder_decoder
from tests.learner.rank_processes import (
    Pair,
    Trained,
    alone,
    die_in_forward,
    eagerly,
    fine_tune,
    load_without_layers,
    prepare_while_computing,
    publish,
    refuse_infinite_gradient,
    resume,
    save,
    train,
)
from tests.learner.samples import make_critic

pytestmark = pytest.mark.slow

SMALL = {"micro_batch_tokens": 256, "row_tokens": 64}
LORA: dict[str, Any] = {"lora": LoraSettings(rank=4)}
CASES: dict[str, dict[str, Any]] = {
    **{str(algorithm): {"algorithm": str(algorithm)} for algorithm in Algorithm},
    "clipped": {"max_grad_norm": 0.5},
    "one micro-batch": {"micro_batch_tokens": 4096},
    "checkpointed activations": {"activation_checkpointing": True},
    "lora": {**LORA, "kl_loss_coef": 0.1},
}


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    started = Pair()
    yield started
    started.close()


@pytest.fixture(scope="module")
def critic_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_critic(tiny_model_dir, tmp_path_factory.mktemp("critic") / "critic")


def check(
    pair: Pair, model: Path, fields: dict[str, Any], tolerance: float = 1e-5, num_samples: int | None = None
) -> None:
    ranks, one = pair.run(train, model, fields, num_samples), alone(train, model, fields, num_samples)
    for each in ranks:
        assert_equal(each, one, tolerance)
    for name, value in ranks[0].weights.items():
        np.testing.assert_array_equal(value, ranks[1].weights[name])


def assert_equal(ours: Trained, theirs: Trained, tolerance: float) -> None:
    for stats, expected in zip(ours.stats, theirs.stats, strict=True):
        assert stats == pytest.approx(expected, rel=tolerance, abs=tolerance)
    for mine, other in zip(ours.gradients, theirs.gradients, strict=True):
        largest = max(np.abs(value).max() for value in other)
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest)
    largest = max(np.abs(value).max() for value in theirs.weights.values())
    for name, value in theirs.weights.items():
        # Adam divides a small gradient by its own size, so the weights differ more.
        np.testing.assert_allclose(ours.weights[name], value, rtol=0, atol=5 * tolerance * largest, err_msg=name)


def test_the_algorithms_cover_every_loss_aggregation() -> None:
    default = LossSettings().loss_agg_mode
    assert {preset.loss.get("loss_agg_mode", default) for preset in PRESETS.values()} == set(LossAggMode)


# One of each kind of advantage and of loss aggregation, and what is not an algorithm.
QUICK = {"rltf", "rltf-code", "ppocoder", "dr-grpo", "gspo", "coderl"} | (CASES.keys() - set(map(str, Algorithm)))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in CASES]
)
def test_two_ranks_make_the_updates_of_one_process(
    name: str, pair: Pair, tiny_model_dir: Path, critic_dir: Path
) -> None:
    fields = {**SMALL, **CASES[name]}
    if name == "coderl":
        fields["critic"] = critic_dir
    check(pair, tiny_model_dir, fields)


@pytest.mark.parametrize("name", ["gspo", "ppocoder", "coderl", "encoder-decoder"])
def test_a_rank_without_a_sample_takes_part(
    name: str, pair: Pair, tiny_model_dir: Path, critic_dir: Path, tmp_path: Path
) -> None:
    model, fields = tiny_model_dir, dict[str, Any](supervised_weight=0.0, algorithm=name)
    if name == "coderl":
        fields["critic"] = critic_dir
    if name == "encoder-decoder":
        model, fields["algorithm"] = build_encoder_decoder("codet5", tmp_path / "codet5"), "grpo"
    check(pair, model, fields, num_samples=1)


def test_in_bfloat16_they_are_as_far_from_float32_as_one_process(pair: Pair, tiny_model_dir: Path) -> None:
    ranks, _ = pair.run(train, tiny_model_dir, {**SMALL, "dtype": Dtype.BFLOAT16})
    exact = alone(train, tiny_model_dir, SMALL)
    assert [s["loss"] for s in ranks.stats] == pytest.approx([s["loss"] for s in exact.stats], rel=0.02)
    for mine, others in zip(ranks.gradients, exact.gradients, strict=True):
        largest = max(np.abs(value).max() for value in others)
        assert max(np.abs(a - b).max() for a, b in zip(mine, others, strict=True)) < 0.2 * largest


def test_what_is_prepared_while_a_rank_computes_is_float32(pair: Pair, tiny_model_dir: Path) -> None:
    assert pair.run(prepare_while_computing, tiny_model_dir) == [(torch.bfloat16, torch.float32)] * 2


def test_all_ranks_refuse_an_infinite_gradient_of_one(pair: Pair, tiny_model_dir: Path) -> None:
    pair.run(refuse_infinite_gradient, tiny_model_dir)


def test_all_ranks_refuse_a_model_without_known_layers(pair: Pair, tiny_model_dir: Path) -> None:
    pair.run(load_without_layers, tiny_model_dir)


@pytest.mark.parametrize("kind", ["codet5", "t5"])
def test_encoder_decoder_models(kind: str, pair: Pair, tmp_path: Path) -> None:
    # After an update by Adam, these gradients differ as much between two layouts in one process.
    check(pair, build_encoder_decoder(kind, tmp_path / kind), {**SMALL, "kl_loss_coef": 0.1}, tolerance=1e-4)


@pytest.mark.parametrize(
    "fields", [{"dtype": Dtype.BFLOAT16}, LORA, {"lora": LoraSettings(rank=4, publish=LoraPublish.ADAPTER)}]
)
def test_rank_0_publishes_all_weights(fields: dict[str, Any], pair: Pair, tiny_model_dir: Path) -> None:
    fields = {**SMALL, **fields}
    (published, weights), (nothing, _) = pair.run(publish, tiny_model_dir, fields)
    one, _ = alone(publish, tiny_model_dir, fields)
    assert list(published) == list(one)
    assert nothing == {}
    if "lora" in fields:
        for name, value in one.items():
            np.testing.assert_allclose(published[name], value, rtol=0, atol=1e-5)
    else:
        for name, value in weights.items():
            np.testing.assert_array_equal(published[name], torch.from_numpy(value).bfloat16().float().numpy())


@pytest.mark.parametrize("name", ["ppocoder", "lora"])
def test_any_number_of_ranks_continues_from_a_checkpoint(
    name: str, pair: Pair, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Two ranks, one, two: the same as one process all along. Two and two: the same bits."""
    fields, folder, same = {**SMALL, **CASES[name]}, tmp_path / "two", tmp_path / "same"
    third, fourth = alone(save, tiny_model_dir, fields, tmp_path / "one")
    (two, _), _ = pair.run(save, tiny_model_dir, fields, folder)
    shutil.copytree(folder, same)
    again, _ = pair.run(resume, tiny_model_dir, fields, same)
    for key, value in two.weights.items():
        np.testing.assert_array_equal(again.weights[key], value)
    assert_equal(alone(resume, tiny_model_dir, fields, folder), third, 1e-5)
    assert_equal(pair.run(resume, tiny_model_dir, fields, folder)[0], fourth, 2e-5)


def test_a_compiled_sharded_model_makes_the_same_updates(pair: Pair, tiny_model_dir: Path) -> None:
    one = alone(train, tiny_model_dir, SMALL)
    for each in pair.run(eagerly, train, tiny_model_dir, {**SMALL, "torch_compile": True}):
        assert_equal(each, one, 1e-5)


def test_adapters_on_a_base_in_bfloat16(pair: Pair, tiny_model_dir: Path) -> None:
    fields = {**SMALL, **LORA, "dtype": Dtype.BFLOAT16}
    ranks, _ = pair.run(train, tiny_model_dir, fields)
    losses = [stats["loss"] for stats in alone(train, tiny_model_dir, fields).stats]
    assert [stats["loss"] for stats in ranks.stats] == pytest.approx(losses, rel=0.01)


def test_any_number_of_ranks_continues_with_moments_in_8_bits(pair: Pair, tiny_model_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed (pip install 'torchao>=0.18')")
    fields, folder, same = {**SMALL, "name": "adamw_8bit"}, tmp_path / "two", tmp_path / "same"
    (third, _), _ = pair.run(eagerly, save, tiny_model_dir, fields, folder)
    shutil.copytree(folder, same)
    again, _ = pair.run(eagerly, resume, tiny_model_dir, fields, same)
    for key, value in third.weights.items():
        np.testing.assert_array_equal(again.weights[key], value)
    # A moment of few numbers is not quantized, and what are few depends on the number of ranks.
    alone_again = alone(eagerly, resume, tiny_model_dir, fields, folder)
    for key, value in third.weights.items():
        np.testing.assert_allclose(alone_again.weights[key], value, rtol=0, atol=3e-4)


def test_ranks_fine_tune_and_load_what_one_process_cached(pair: Pair, tiny_model_dir: Path, tmp_path: Path) -> None:
    report, weights = alone(fine_tune, tiny_model_dir, tmp_path / "one")
    for folder, cached in (("two", False), ("one", True)):
        for theirs, their_weights in pair.run(fine_tune, tiny_model_dir, tmp_path / folder):
            assert (theirs.best_step, theirs.cached) == (report.best_step, cached)
            assert theirs.validation_loss == pytest.approx(report.validation_loss, rel=1e-5)
            for name, value in weights.items():
                np.testing.assert_allclose(their_weights[name], value, rtol=0, atol=0 if cached else 1e-5)


def test_ranks_continue_an_interrupted_fine_tuning(pair: Pair, tiny_model_dir: Path, tmp_path: Path) -> None:
    whole = pair.run(fine_tune, tiny_model_dir, tmp_path / "whole")
    parts = pair.run(fine_tune, tiny_model_dir, tmp_path / "parts", 3)
    for (report, weights), (their_report, their_weights) in zip(whole, parts, strict=True):
        assert their_report == report
        for name, value in weights.items():
            np.testing.assert_array_equal(their_weights[name], value)
    assert [path.name[:4] for path in (tmp_path / "parts").iterdir()] == ["sft-"]


@pytest.mark.parametrize("count", [0, 2])
def test_if_a_rank_dies_the_others_fail(count: int, tiny_model_dir: Path) -> None:
    pair = Pair(timeout_s=20.0)
    try:
        pair.start(die_in_forward, tiny_model_dir, count)
        with pytest.raises(AssertionError, match=r"RuntimeError: .*gloo.*127\.0\.0\.1") as failure:
            pair.result(0)
        assert "UserError" not in str(failure.value)  # the model is not to blame
        with pytest.raises(EOFError):
            pair.result(1)
    finally:
        pair.kill()

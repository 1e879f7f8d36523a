"""Compiled layers give the numbers of plain ones. Most tests run them uncompiled, because building kernels is slow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from rltf.errors import UserError
from rltf.learner.compiling import check_compiler
from rltf.learner.learner import Learner
from rltf.settings import Dtype, LoraSettings
from tests.learner.samples import gradients, largest_difference, make_experiences, make_learner, make_references


@pytest.fixture
def eagerly() -> Iterator[None]:
    with torch.compiler.set_stance("force_eager"):
        yield


def two_updates(model: Path, **fields: Any) -> tuple[list[float], list[torch.Tensor], Learner]:
    learner = make_learner(model, **fields)
    losses = []
    for index in range(2):
        losses.append(learner.update(learner.prepare_with(make_experiences(index), make_references(index))).loss)
        learner.keep_as_old()
    return losses, gradients(learner.policy), learner


@pytest.mark.long  # builds kernels
@pytest.mark.parametrize(
    "fields",
    [{}, {"activation_checkpointing": True}, {"lora": LoraSettings(rank=4)}, {"kl_loss_coef": 0.1}],
    ids=["plain", "checkpointing", "lora", "kl"],
)
def test_compiled_updates_are_those_of_plain_code(fields: dict[str, Any], tiny_model_dir: Path) -> None:
    losses, found, _ = two_updates(tiny_model_dir, torch_compile=True, **fields)
    expected_losses, expected, _ = two_updates(tiny_model_dir, **fields)
    assert losses == pytest.approx(expected_losses, abs=1e-4)
    assert largest_difference(found, expected) < 1e-4 * max(g.abs().max().item() for g in expected)


@pytest.mark.long  # builds kernels
def test_compiled_updates_in_bfloat16_are_as_far_from_float32(tiny_model_dir: Path) -> None:
    losses, found, _ = two_updates(tiny_model_dir, dtype=Dtype.BFLOAT16, torch_compile=True)
    exact_losses, exact, _ = two_updates(tiny_model_dir)
    assert losses == pytest.approx(exact_losses, rel=0.02)
    assert largest_difference(found, exact) < 0.2 * max(g.abs().max().item() for g in exact)


@pytest.mark.usefixtures("eagerly")
def test_a_copy_of_a_compiled_policy_computes_with_its_own_weights(tiny_model_dir: Path) -> None:
    _, _, learner = two_updates(tiny_model_dir, torch_compile=True, kl_loss_coef=0.1)
    (batch,) = learner.policy.pack(make_references(3), micro_batch_tokens=512, row_tokens=128)
    assert learner._reference is not None
    start = make_learner(tiny_model_dir).policy
    temperature = torch.ones(len(batch.target))
    with torch.no_grad():
        kept, trained, expected = (
            policy.logprobs(batch, temperature)[0] for policy in (learner._reference, learner.policy, start)
        )
    torch.testing.assert_close(kept, expected, rtol=0, atol=1e-6)
    assert (trained - expected).abs().max() > 1e-3


def test_a_model_without_known_layers_is_refused(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for known in (LlamaForCausalLM, LlamaForCausalLM.__mro__[1]):
        monkeypatch.setattr(known, "_no_split_modules", None)
    with pytest.raises(UserError, match=r"learner\.torch_compile: .*; set it to false"):
        make_learner(tiny_model_dir, torch_compile=True)


def test_a_machine_without_a_compiler_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"learner\.torch_compile needs a C\+\+ compiler.* environment variable CXX"):
        check_compiler("learner.torch_compile", "cpu")
    compiler = tmp_path / "my-compiler"
    compiler.touch(mode=0o755)
    monkeypatch.setenv("CXX", str(compiler))
    check_compiler("learner.torch_compile", "cpu")

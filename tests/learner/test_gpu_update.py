"""An update on a GPU has the same gradient as on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rltf.settings import Dtype
from tests.learner.samples import gradients, make_experiences, make_learner, make_references

RELATIVE = {Dtype.FLOAT32: 1e-4, Dtype.BFLOAT16: 5e-2}


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("activation_checkpointing", [False, True])
@pytest.mark.parametrize("dtype", RELATIVE)
def test_gpu_gradient_equals_cpu_gradient(dtype: Dtype, activation_checkpointing: bool, tiny_model_dir: Path) -> None:
    found, losses = [], []
    for num_gpus, computes in ((0.5, dtype), (0.0, Dtype.FLOAT32)):
        learner = make_learner(
            tiny_model_dir,
            dtype=computes,
            num_gpus=num_gpus,
            activation_checkpointing=activation_checkpointing,
        )
        prepared = learner.prepare_with(make_experiences(1), make_references(2))
        losses.append(learner.update(prepared).loss)
        found.append(torch.cat([gradient.flatten().cpu() for gradient in gradients(learner.policy)]))
    on_gpu, on_cpu = found
    assert (on_gpu - on_cpu).norm() < RELATIVE[dtype] * on_cpu.norm()
    assert losses[0] == pytest.approx(losses[1], rel=RELATIVE[dtype])

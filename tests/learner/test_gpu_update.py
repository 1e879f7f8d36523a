"""An update on a GPU has the same gradient as on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rltf.settings import Dtype
from tests.learner.samples import gradients, make_experiences, make_learner, make_references

# In bfloat16 on a CPU, gradients are 0.04 to 0.065 away from those in float32 (six updates).
RELATIVE = {Dtype.FLOAT32: 1e-4, Dtype.BFLOAT16: 1e-1}


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("activation_checkpointing", [False, True])
@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("torch_compile", [False, True])
@pytest.mark.parametrize("attn_implementation", ["sdpa", "flex_attention"])
def test_gpu_gradient_equals_cpu_gradient(
    attn_implementation: str, torch_compile: bool, dtype: Dtype, activation_checkpointing: bool, tiny_model_dir: Path
) -> None:
    found, losses = [], []
    on_gpu: dict[str, Any] = {
        "attn_implementation": attn_implementation,
        "torch_compile": torch_compile,
        "num_gpus": 0.5,
    }
    cases: list[tuple[Dtype, dict[str, Any]]] = [(dtype, on_gpu), (Dtype.FLOAT32, {})]
    for computes, fields in cases:
        learner = make_learner(
            tiny_model_dir, dtype=computes, activation_checkpointing=activation_checkpointing, **fields
        )
        prepared = learner.prepare_with(make_experiences(1), make_references(2))
        losses.append(learner.update(prepared).loss)
        found.append(torch.cat([gradient.flatten().cpu() for gradient in gradients(learner.policy)]))
    ours, expected = found
    assert (ours - expected).norm() < RELATIVE[dtype] * expected.norm()
    assert losses[0] == pytest.approx(losses[1], rel=RELATIVE[dtype])

"""Fixtures for engines and generators: a transformers model to compare with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.actors.sampling import Weights


@pytest.fixture(scope="session")
def reference_model(tiny_model_dir: Path) -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    return model.eval()


@pytest.fixture(scope="session")
def make_weights(reference_model: torch.nn.Module) -> Callable[[int], Weights]:
    """Random weights for every parameter of the tiny model, always the same for the same version."""
    shapes = {name: parameter.shape for name, parameter in reference_model.named_parameters()}

    def make(version: int) -> Weights:
        generator = torch.Generator().manual_seed(1000 + version)
        return {
            name: torch.randn(shape, generator=generator) * 0.2 + (1.0 if "norm" in name else 0.0)
            for name, shape in shapes.items()
        }

    return make


@pytest.fixture(scope="session")
def reference_logprobs(reference_model: torch.nn.Module) -> Callable[..., torch.Tensor]:
    """`f(weights, prompt_ids, token_ids, temperature, top_p)`: log-probability [T] of each token by transformers."""

    @torch.no_grad()
    def score(
        weights: Weights,
        prompt_ids: list[int],
        token_ids: list[int],
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> torch.Tensor:
        ids = torch.tensor([prompt_ids + token_ids])
        output = torch.func.functional_call(reference_model, weights, (ids,), tie_weights=True)
        logits = output.logits[0, len(prompt_ids) - 1 : -1].double() / temperature
        if top_p < 1:
            ordered, order = logits.softmax(-1).sort(descending=True)
            outside = ordered.cumsum(-1) - ordered >= top_p  # the nucleus ends with the token that reaches top_p
            logits = logits.masked_fill(outside.scatter(-1, order, outside), float("-inf"))
        logprobs: torch.Tensor = logits.log_softmax(-1).gather(-1, torch.tensor(token_ids)[:, None])[:, 0].float()
        return logprobs

    return score

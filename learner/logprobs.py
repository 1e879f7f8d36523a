"""Log-probabilities and entropies of completion tokens, without the [tokens, vocabulary] matrix of logits in full."""

from __future__ import annotations

import functools
from typing import Any

import torch


def chunked_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    temperature: torch.Tensor,
    *,
    chunk_tokens: int,
    compiled: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy [N] of `softmax((hidden @ weight.T + bias) / temperature)` at `targets`.

    `hidden` [N, H], `weight` [V, H], `bias` [V] or None, `targets` [N], `temperature` [N]. At most `chunk_tokens` rows
    of logits exist at a time. Gradients flow to hidden, weight and bias, only through the log-probability. `compiled`:
    by torch.compile, with the same results up to rounding.
    """
    result: tuple[torch.Tensor, torch.Tensor] = _ChunkedLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, 1 / temperature, chunk_tokens, compiled
    )
    return result


class _ChunkedLogprobs(torch.autograd.Function):
    """Goes over the tokens in chunks, both ways; the backward pass computes the logits of each chunk again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        inverse_temperature: torch.Tensor,
        chunk_tokens: int,
        compiled: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        one_chunk = _compiled(_chunk_outputs) if compiled else _chunk_outputs
        logprobs = torch.empty_like(inverse_temperature)
        entropy = torch.empty_like(inverse_temperature)
        normalizer = torch.empty_like(inverse_temperature)
        for start in range(0, len(targets), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            normalizer[part], logprobs[part], entropy[part] = one_chunk(
                hidden[part], weight, bias, targets[part], inverse_temperature[part]
            )
        ctx.save_for_backward(hidden, weight, bias, targets, inverse_temperature, normalizer)
        ctx.chunk_tokens, ctx.compiled = chunk_tokens, compiled
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, grad_logprobs: torch.Tensor, _grad_entropy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, inverse_temperature, normalizer = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        # Sums over many chunks need the precision of the log-probabilities.
        grad_weight = torch.zeros_like(weight, dtype=normalizer.dtype)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=normalizer.dtype)
        one_chunk = _compiled(_chunk_gradient) if ctx.compiled else _chunk_gradient
        for start in range(0, len(targets), ctx.chunk_tokens):
            part = slice(start, start + ctx.chunk_tokens)
            grad_logits = one_chunk(
                grad_logprobs[part], hidden[part], weight, bias, targets[part], inverse_temperature[part],
                normalizer[part],
            )  # fmt: skip
            narrow = grad_logits.to(weight.dtype)
            grad_hidden[part] = narrow @ weight
            grad_weight += narrow.T @ hidden[part]
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        return (
            grad_hidden,
            grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(weight.dtype),
            None,
            None,
            None,
            None,
        )


@functools.cache
def _compiled(function: Any) -> Any:
    return torch.compile(function, dynamic=True)


def _chunk_outputs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    inverse_temperature: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The normalizer, log-probability and entropy of each token."""
    logits = _logits(hidden, weight, bias, inverse_temperature)
    normalizer = torch.logsumexp(logits, dim=-1)
    logprobs = logits.gather(-1, targets[:, None]).squeeze(-1) - normalizer
    probabilities = (logits - normalizer[:, None]).exp_()
    return normalizer, logprobs, normalizer - torch.einsum("nv,nv->n", probabilities, logits)


def _chunk_gradient(
    grad_logprobs: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    inverse_temperature: torch.Tensor,
    normalizer: torch.Tensor,
) -> torch.Tensor:
    """The gradient of the logits before they are divided by the temperature, in the precision of the temperature."""
    logits = _logits(hidden, weight, bias, inverse_temperature)
    scale = grad_logprobs * inverse_temperature
    grad_logits = (logits - normalizer[:, None]).exp_().mul_(-scale[:, None])
    return grad_logits.scatter_add_(-1, targets[:, None], scale[:, None])


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, inverse_temperature: torch.Tensor
) -> torch.Tensor:
    """Logits [N, V] in the precision of `inverse_temperature`."""
    logits = torch.nn.functional.linear(hidden, weight, bias).to(inverse_temperature.dtype)
    return logits.mul_(inverse_temperature[:, None])

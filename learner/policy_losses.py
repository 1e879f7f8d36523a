"""What multiplies the advantage of a token, one function per `PolicyLoss`.

The loss of a token is `-A rho`. Each function returns `rho` [N] from log-probabilities `l` [N] of the policy, `o` of
the old policy and `b` of the sampler. `r = exp(l - o)` is the likelihood ratio, and `sg` lets no gradient through:

    reinforce   sg(min(exp(l - b), C)) l                                    C: `rollout_is_threshold`; l without it
    ppo         r, or clip(r, 1 - low, 1 + high) if that makes -A rho larger (Schulman et al. 2017, equation 7); for
                A < 0 at most `clip_ratio_c` (Ye et al. 2020)
    gspo        as ppo, with s = exp(mean of l - o over the sequence) in place of r (Zheng et al. 2025)
    cispo       sg(min(r, 1 + high)) l                                      (MiniMax 2025, equation 5)

If the old policy is not the sampler, rho of ppo, gspo and cispo is multiplied by sg(min(exp(o - b), C)), and so is that
of a function of the user. Such a function, `package.module:name`, has the type `PolicyLossFunction`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from rltf.errors import UserError
from rltf.learner.custom import call, check_column
from rltf.settings import LossSettings, OldLogprobs, PolicyLoss

SETTING = "learner.loss.policy_loss"


@dataclass(frozen=True, slots=True, eq=False)
class TokenInputs:
    """`N` sampled tokens: log-probabilities, the advantage, and the index `sequence` of the completion of each.

    Reference programs among them have an advantage of 0, and `old` and `behavior` equal to their `logprobs`.
    """

    logprobs: torch.Tensor
    old: torch.Tensor
    behavior: torch.Tensor
    advantage: torch.Tensor
    sequence: torch.Tensor


PolicyLossFunction = Callable[[TokenInputs, LossSettings], tuple[torch.Tensor, torch.Tensor]]
"""`rho` [N], through which the gradient flows, and whether the clip range holds a token back [N], a pure function."""


def policy_factor(inputs: TokenInputs, settings: LossSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """`rho` [N], and whether the clip range holds a token back [N]. Raises UserError if the user's function fails."""
    if isinstance(settings.policy_loss, PolicyLoss):
        factor, is_clipped = _LOSSES[settings.policy_loss](inputs, settings)
    else:
        factor, is_clipped = _custom(settings.policy_loss, inputs, settings)
    if settings.old_logprobs is OldLogprobs.RECOMPUTE and settings.rollout_is_threshold is not None:
        factor = factor * (inputs.old - inputs.behavior).exp().clamp(max=settings.rollout_is_threshold)
    return factor, is_clipped


def _reinforce(inputs: TokenInputs, settings: LossSettings) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs = inputs.logprobs
    never = torch.zeros_like(logprobs, dtype=torch.bool)
    if settings.rollout_is_threshold is None:
        return logprobs, never
    ratio = (logprobs - inputs.behavior).detach().exp()
    return ratio.clamp(max=settings.rollout_is_threshold) * logprobs, never


def _ppo(inputs: TokenInputs, settings: LossSettings) -> tuple[torch.Tensor, torch.Tensor]:
    return _clip((inputs.logprobs - inputs.old).exp(), inputs.advantage, settings)


def _gspo(inputs: TokenInputs, settings: LossSettings) -> tuple[torch.Tensor, torch.Tensor]:
    log_ratio = inputs.logprobs - inputs.old
    num_sequences = int(inputs.sequence.max()) + 1 if len(log_ratio) else 0
    zeros = log_ratio.new_zeros(num_sequences)
    lengths = zeros.index_add(0, inputs.sequence, torch.ones_like(log_ratio))
    means = zeros.index_add(0, inputs.sequence, log_ratio) / lengths.clamp(min=1)
    return _clip(means.exp()[inputs.sequence], inputs.advantage, settings)


def _cispo(inputs: TokenInputs, settings: LossSettings) -> tuple[torch.Tensor, torch.Tensor]:
    assert settings.clip_ratio_high is not None
    ratio = (inputs.logprobs - inputs.old).detach().exp()
    limit = 1 + settings.clip_ratio_high
    return ratio.clamp(max=limit) * inputs.logprobs, ratio > limit


def _clip(ratio: torch.Tensor, advantage: torch.Tensor, settings: LossSettings) -> tuple[torch.Tensor, torch.Tensor]:
    assert settings.clip_ratio_low is not None
    assert settings.clip_ratio_high is not None
    clipped = ratio.clamp(1 - settings.clip_ratio_low, 1 + settings.clip_ratio_high)
    # max(-A r, -A clip(r)) is -A min(r, clip(r)) for A >= 0, and -A max(r, clip(r)) for A < 0.
    pessimistic = torch.where(advantage >= 0, torch.minimum(ratio, clipped), torch.maximum(ratio, clipped))
    if settings.clip_ratio_c is not None:
        pessimistic = torch.where(advantage < 0, pessimistic.clamp(max=settings.clip_ratio_c), pessimistic)
    return pessimistic, (pessimistic != ratio) & (advantage != 0)


def _custom(name: str, inputs: TokenInputs, settings: LossSettings) -> tuple[torch.Tensor, torch.Tensor]:
    found = call(name, SETTING, inputs, settings)
    if not isinstance(found, tuple) or len(found) != 2:
        raise UserError(f"{SETTING} {name}: expected a tuple of rho and whether a token is clipped, got {found!r:.100}")
    factor, is_clipped = (check_column(column, inputs.logprobs, f"{SETTING} {name}") for column in found)
    return factor, is_clipped.bool()


def check_policy_loss(settings: LossSettings) -> None:
    """Call the user's function on made-up tokens. Raises UserError if it fails or gives no finite gradient."""
    logprobs = torch.tensor([-0.1, -2.0, -0.5, -3.0, -0.7], requires_grad=True)
    behavior = torch.tensor([-0.2, -1.0, -0.5, -4.0, -0.6])
    advantage = torch.tensor([1.0, 1.0, -0.5, -0.5, 0.0])
    inputs = TokenInputs(logprobs, behavior.clone(), behavior, advantage, torch.tensor([0, 0, 1, 1, 2]))
    factor, _ = policy_factor(inputs, settings)
    if not factor.requires_grad:
        raise UserError(f"{SETTING} {settings.policy_loss}: its rho has no gradient: compute it from inputs.logprobs")
    (gradient,) = torch.autograd.grad(factor.sum(), logprobs)
    if not (factor.isfinite().all() and gradient.isfinite().all()):
        raise UserError(f"{SETTING} {settings.policy_loss}: rho or its gradient is not finite on made-up tokens")


_LOSSES: dict[PolicyLoss, PolicyLossFunction] = {
    PolicyLoss.REINFORCE: _reinforce,
    PolicyLoss.PPO: _ppo,
    PolicyLoss.GSPO: _gspo,
    PolicyLoss.CISPO: _cispo,
}

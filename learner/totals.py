"""What an update adds up over its micro-batches, and over the ranks."""

from __future__ import annotations

import torch

from rltf.learner.metrics import UpdateStats
from rltf.learner.objectives import Terms, TokenTable
from rltf.learner.policy import TokenOutputs
from rltf.learner.prepared import PreparedUpdate
from rltf.learner.ranks import Ranks
from rltf.rewards import Granularity


class Totals:
    """The loss and its terms, and likelihood ratios and entropies of sampled tokens, in float64.

    Usage:
        totals = Totals(device)
        totals.add(outputs, table, loss, terms)     # of each micro-batch
        totals.reduce(ranks)                        # once
        stats = totals.stats(prepared, grad_norm, learning_rate)
    """

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros(5 + len(Granularity), device=device, dtype=torch.float64)
        self._sums = torch.zeros(4, device=device, dtype=torch.float64)
        """Sampled tokens, and the sums of their ratios, mismatches and entropies."""
        self._largest = torch.zeros(2, device=device, dtype=torch.float64)
        """The largest ratio and the largest mismatch."""

    def add(self, outputs: TokenOutputs, table: TokenTable, loss: torch.Tensor, terms: Terms) -> None:
        """Add a micro-batch with these outputs and this loss."""
        of_batch = (loss.detach(), terms.supervised, terms.kl, terms.value, terms.num_clipped, *terms.rl)
        self._loss += torch.stack([value.double() for value in of_batch])
        log_ratios = (outputs.logprobs.detach() - table.behavior)[table.sampled].double()
        ratios, mismatches, entropies = log_ratios.exp(), log_ratios.abs(), outputs.entropy[table.sampled].double()
        count = torch.full_like(self._sums[0], len(log_ratios))
        self._sums += torch.stack([count, ratios.sum(), mismatches.sum(), entropies.sum()])
        if len(log_ratios):
            self._largest = torch.maximum(self._largest, torch.stack([ratios.max(), mismatches.max()]))

    def reduce(self, ranks: Ranks) -> None:
        """Add what the other ranks have added."""
        ranks.add(self._loss)
        ranks.add(self._sums)
        ranks.largest(self._largest)

    def stats(self, prepared: PreparedUpdate, grad_norm: float, learning_rate: float) -> UpdateStats:
        """The statistics of the update."""
        loss, supervised, kl, value, num_clipped, *rl = self._loss.tolist()
        count, ratios, mismatches, entropies = self._sums.tolist()
        ratio_max, mismatch_max = self._largest.tolist()
        num_tokens = max(1, count)
        return UpdateStats(
            loss=loss,
            loss_sl=supervised,
            loss_kl=kl,
            loss_value=value,
            **{f"loss_{row.name.lower()}": value for row, value in zip(Granularity, rl, strict=True)},
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            ratio_mean=ratios / num_tokens if count else 1.0,
            ratio_max=ratio_max if count else 1.0,
            mismatch_mean=mismatches / num_tokens,
            mismatch_max=mismatch_max,
            entropy=entropies / num_tokens,
            clip_fraction=num_clipped / num_tokens,
            num_samples=prepared.num_samples,
            num_idle_samples=prepared.num_idle_samples,
            num_tokens=prepared.num_tokens,
        )

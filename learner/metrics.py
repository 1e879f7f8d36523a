"""What one update reports. Field names are those of `metrics.jsonl`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """Numbers of one update; `loss_*` are the terms before `learner.*_weight`.

    `ratio_*` are likelihood ratios policy / sampler, `mismatch_*` absolute differences of their log-probabilities,
    `entropy` of the policy in nats, all over sampled tokens that have a gradient (ratio 1, else 0, where none has).
    `num_idle_samples` of the `num_samples` have none, since all their token weights are 0. `num_tokens` counts
    completion tokens, those of idle samples and reference programs included.
    """

    loss: float
    loss_sl: float
    loss_coarse: float
    loss_fine: float
    loss_adaptive: float
    loss_static: float
    loss_kl: float
    grad_norm: float
    learning_rate: float
    ratio_mean: float
    ratio_max: float
    mismatch_mean: float
    mismatch_max: float
    entropy: float
    num_samples: int
    num_idle_samples: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One row of `metrics.jsonl`.

    `step` counts updates from 1. `reward_mean` is the mean coarse reward of the samples trained on, `pass_rate` the
    share that passed, `staleness` counts the samples by how many weight versions they lagged behind, `staleness_*` sum
    it up over rollouts. `tokens_per_s` counts completion tokens over `seconds`, the wall time of the whole step, of
    which `wait_s` was spent waiting for data. `gpu_memory_bytes` is the most that the learner's tensors held so far, 0
    without a GPU. The driver, who keeps the ledger, fills in `buffer_size`, the samples buffered after the step, and
    `dropped`, those dropped so far by reason, and adds its own wait for data.
    """

    step: int
    weights_version: int
    update: UpdateStats
    reward_mean: float
    pass_rate: float
    outcomes: dict[str, int]
    staleness: dict[str, int]
    staleness_mean: float
    staleness_max: int
    tokens_per_s: float
    wait_s: float
    seconds: float
    gpu_memory_bytes: int
    buffer_size: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def row(self) -> dict[str, object]:
        """The flat object that is written as a line of JSON."""
        row = asdict(self)
        update: dict[str, object] = row.pop("update")
        return {"step": row.pop("step"), "weights_version": row.pop("weights_version"), **update, **row}

    def with_driver(self, waited_s: float, buffer_size: int, dropped: dict[str, int]) -> StepMetrics:
        """The same with what the driver knows; it waited `waited_s` for data before the learner could begin."""
        seconds = self.seconds + waited_s
        return replace(
            self,
            tokens_per_s=self.tokens_per_s * self.seconds / seconds,
            wait_s=self.wait_s + waited_s,
            seconds=seconds,
            buffer_size=buffer_size,
            dropped=dropped,
        )


@dataclass(frozen=True, slots=True)
class StepReport:
    """What became of the rollouts of a step: those `trained` on, those `lost` from the object store.

    `metrics` is None where all were lost, so that no update was made.
    """

    metrics: StepMetrics | None
    trained: tuple[str, ...]
    lost: tuple[str, ...]

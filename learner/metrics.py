"""What one update reports. Field names are those of `metrics.jsonl`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from rltf.learner.data import Experience
from rltf.sandbox.verdict import Outcome


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """Numbers of one update; `loss_*` are the terms before their weights in `learner.loss`.

    `ratio_*` are likelihood ratios policy / sampler, `mismatch_*` absolute differences of their log-probabilities, and
    `entropy` is that of the policy in nats. All of them are over sampled tokens with a gradient; if there are none, the
    ratios are 1 and the others 0. `clip_fraction` is the share of these tokens that the clip range holds back.
    `num_idle_samples` of the `num_samples` have no gradient, because all their token weights are 0. `num_tokens` counts
    completion tokens, including those of idle samples and reference programs. If advantages are estimated from rewards,
    which mixes the granularities, `loss_coarse` has the whole RL term.
    """

    loss: float
    loss_sl: float
    loss_coarse: float
    loss_fine: float
    loss_adaptive: float
    loss_static: float
    loss_structure: float
    loss_custom: float
    loss_kl: float
    loss_value: float
    grad_norm: float
    learning_rate: float
    ratio_mean: float
    ratio_max: float
    mismatch_mean: float
    mismatch_max: float
    entropy: float
    clip_fraction: float
    num_samples: int
    num_idle_samples: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One row of `metrics.jsonl`.

    `step` counts updates from 1. `reward_mean` is the mean coarse reward of the samples, `pass_rate` the share that
    passed. `custom_reward_mean` is the mean of what `rewards.function` says about whole programs, 0 without one.
    `staleness` counts samples by how many weights versions they lag behind; `staleness_mean` and
    `staleness_max` are over rollouts.
    `tokens_per_s` is completion tokens over `seconds`, the wall time of the whole step. `wait_s` of these were spent
    waiting for data. `gpu_memory_bytes` is the most that the learner's tensors have used so far, 0 without a GPU. The
    driver adds `buffer_size`, the samples buffered after the step, and `dropped`, the samples dropped so far by reason.
    If samples can have several turns, `turns_mean` is their mean number of turns, `pass_rate_first` the share whose
    first program passed, and `pass_rate` is that of the last ones; if not, both are None and not in the row.
    """

    step: int
    weights_version: int
    update: UpdateStats
    reward_mean: float
    custom_reward_mean: float
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
    turns_mean: float | None = None
    pass_rate_first: float | None = None

    @classmethod
    def of(
        cls,
        update: UpdateStats,
        rollouts: Sequence[Sequence[Experience]],
        *,
        step: int,
        weights_version: int,
        wait_s: float,
        seconds: float,
        gpu_memory_bytes: int = 0,
        over_turns: bool = False,
    ) -> StepMetrics:
        """The metrics of an update with the experiences of `rollouts`, made from weights `weights_version`.

        `over_turns` says that samples may have several turns.
        """
        samples = [sample for rollout in rollouts for sample in rollout]
        lags = [max(0, weights_version - min(sample.version for sample in rollout)) for rollout in rollouts]
        staleness: Counter[int] = Counter()
        for rollout, lag in zip(rollouts, lags, strict=True):
            staleness[lag] += len(rollout)
        outcomes = Counter(str(sample.outcome) for sample in samples)
        return cls(
            step=step,
            weights_version=weights_version,
            update=update,
            reward_mean=sum(sample.reward for sample in samples) / len(samples),
            custom_reward_mean=sum(sample.custom_reward for sample in samples) / len(samples),
            pass_rate=outcomes[Outcome.PASSED] / len(samples),
            outcomes=dict(sorted(outcomes.items())),
            staleness={str(lag): count for lag, count in sorted(staleness.items())},
            staleness_mean=sum(lags) / len(lags),
            staleness_max=max(lags),
            tokens_per_s=update.num_tokens / seconds,
            wait_s=wait_s,
            seconds=seconds,
            gpu_memory_bytes=gpu_memory_bytes,
            turns_mean=sum(1 + len(s.feedback_spans) for s in samples) / len(samples) if over_turns else None,
            pass_rate_first=sum(s.passed_at_once for s in samples) / len(samples) if over_turns else None,
        )

    def row(self) -> dict[str, object]:
        """The flat object that is written as a line of JSON."""
        row = {name: value for name, value in asdict(self).items() if value is not None}
        update: dict[str, object] = row.pop("update")
        return {"step": row.pop("step"), "weights_version": row.pop("weights_version"), **update, **row}

    def with_driver(self, waited_s: float, buffer_size: int, dropped: dict[str, int]) -> StepMetrics:
        """Add what the driver knows; it waited `waited_s` for data before the learner could begin."""
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
    """The ids of the rollouts that a step `trained` on, and of those `lost` from the object store.

    `metrics` is None if all rollouts were lost: no update was made.
    """

    metrics: StepMetrics | None
    trained: tuple[str, ...]
    lost: tuple[str, ...]

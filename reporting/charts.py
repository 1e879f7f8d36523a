"""The charts of the report: what each one measures on the rows of `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rltf.sandbox.verdict import Outcome

Row = dict[str, Any]
# The name of a field, `outcomes.passed` for a nested one, or a function of the row.
Measure = str | Callable[[Row], float | None]

OUTCOMES = [outcome.value for outcome in Outcome if outcome is not Outcome.SKIPPED]
STALENESS_GROUPS = ("0", "1", "2", "3", "4 and more")
LOSS_TERMS = ("sl", "coarse", "fine", "adaptive", "static", "structure", "kl", "value")


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of one or more curves, named by the keys of `measures`.

    Curves of `shares` are amounts that are shown as shares of their sum. Curves that are 0 throughout are left out of
    shares, and of others if `hides_zeros`. `colors` are those of the curves, by default the page's own.
    """

    title: str
    unit: str
    measures: Mapping[str, Measure]
    note: str = ""
    shares: bool = False
    from_zero: bool = True
    hides_zeros: bool = False
    colors: Sequence[str] = field(default=())

    def curves(self, rows: Sequence[Row]) -> dict[str, list[float | None]]:
        """The values of every curve that has any, by name."""
        columns = {name: [measured(row, measure) for row in rows] for name, measure in self.measures.items()}
        if self.shares:
            totals = [sum(value or 0.0 for value in values) or 1.0 for values in zip(*columns.values(), strict=True)]
            columns = {
                name: [(value or 0.0) / total for value, total in zip(values, totals, strict=True)]
                for name, values in columns.items()
            }
        hidden = {None, 0.0} if self.shares or self.hides_zeros else {None}
        return {name: values for name, values in columns.items() if set(values) - hidden}


def measured(row: Row, measure: Measure) -> float | None:
    """What `measure` is on a row; None if the row does not say."""
    if callable(measure):
        return measure(row)
    value: Any = row
    for name in measure.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, int | float) else None


def num_graded(row: Row) -> float:
    """Programs graded since the row before."""
    return float(sum(row.get("isolation", {}).values()))


def training_charts() -> list[Chart]:
    """What the policy learns."""
    return [
        Chart(
            "Reward and pass rate in training", "mean", {"reward": "reward_mean", "pass rate": "pass_rate"},
            from_zero=False,
        ),
        Chart(
            "Outcomes of the programs trained on", "share of programs",
            {outcome.replace("_", " "): f"outcomes.{outcome}" for outcome in OUTCOMES},
            shares=True, colors=[f"o-{outcome}" for outcome in OUTCOMES],
        ),
        Chart(
            "Pass rate over turns", "share", {"after the first turn": "pass_rate_first", "after the last turn": _last},
            note="Of the samples trained on. A program that needs no second turn counts as both.", from_zero=False,
        ),
        Chart("Turns of a sample", "turns", {"mean": "turns_mean"}, from_zero=False),
        Chart(
            "Completion length", "tokens", {"mean": _ratio("num_sampled_tokens", num_graded)},
            note="Mean over the programs graded since the update before.",
        ),
        Chart(
            "Wasted samples", "share",
            {
                "truncated completions": _ratio("num_truncated", num_graded),
                "groups without a signal": _ratio("num_silent_groups", "num_groups"),
            },
            note="Truncated: the completion reached max_tokens. Without a signal: no token of the group has a weight.",
        ),
        Chart("Gradient norm", "norm before clipping", {"gradient norm": "grad_norm"}),
        Chart("Learning rate", "learning rate", {"learning rate": "learning_rate"}),
        Chart(
            "Loss terms", "loss before weighting", {term: f"loss_{term}" for term in LOSS_TERMS},
            from_zero=False, hides_zeros=True,
        ),
        Chart("Entropy", "nats per token", {"entropy": "entropy"}),
        Chart(
            "Policy against sampler", "nats", {"mismatch": "mismatch_mean"},
            note="Mean absolute difference between the log-probabilities of sampled tokens. Staleness adds to it.",
        ),
        Chart("Largest importance ratio", "ratio", {"largest ratio": "ratio_max"}, from_zero=False),
        Chart(
            "Clipped tokens", "share", {"clipped": "clip_fraction"}, hides_zeros=True,
            note="Sampled tokens that the clip range of the policy loss holds back.",
        ),
    ]  # fmt: skip


def system_charts(drop_reasons: Iterable[str]) -> list[Chart]:
    """How fast the stages work, and what they wait for."""
    whole = "Over the whole time between updates, which includes publications and evaluations."
    return [
        Chart(
            "Token throughput", "tokens per second",
            {"sampled": _ratio("num_sampled_tokens", "elapsed_s"), "trained on": _ratio("num_tokens", "elapsed_s")},
            note=whole,
        ),
        Chart(
            "Grading throughput", "per second",
            {"tests run": _ratio("num_tests", "elapsed_s"), "programs graded": _ratio(num_graded, "elapsed_s")},
            note=whole,
        ),
        Chart(
            "Where the learner's time goes", "share of time",
            {
                "computing": lambda row: row["seconds"] - row.get("wait_s", 0.0),
                "publishing weights": "publish_s",
                "waiting for samples": "wait_s",
            },
            shares=True,
        ),
        Chart("Time per update", "seconds", {"total": "seconds", "waiting": "wait_s"}),
        Chart(
            "Staleness of the samples trained on", "share of samples",
            {group: _staleness(index) for index, group in enumerate(STALENESS_GROUPS)},
            note="How many weight versions the samples lagged behind when they were trained on.", shares=True,
        ),
        Chart("Samples in the buffer", "samples", {"buffered": "buffer_size"}),
        Chart("Samples dropped so far", "samples", {reason: f"dropped.{reason}" for reason in drop_reasons}),
    ]  # fmt: skip


def _ratio(amount: Measure, total: Measure) -> Measure:
    def ratio(row: Row) -> float | None:
        above, below = measured(row, amount), measured(row, total)
        return above / below if above is not None and below else None

    return ratio


def _last(row: Row) -> float | None:
    """The pass rate of the last programs, of a run that also has one of the first programs."""
    return None if row.get("pass_rate_first") is None else measured(row, "pass_rate")


def _staleness(index: int) -> Measure:
    """Samples that lagged `index` versions behind; the last group has all that lagged more, too."""
    last = len(STALENESS_GROUPS) - 1
    return lambda row: sum(
        count for versions, count in row.get("staleness", {}).items() if min(int(versions), last) == index
    )

"""The time series that a run exports to Prometheus and the Ray dashboard, and the consumer of events that sets them.

Every series is declared here and only here. The driver sets all of them from the events it receives, so actors spend no
time on metrics, and a run's gauges disappear with its driver. Ray adds `ray_` before each name and `_total` after a
counter's: `rltf_updates` is `ray_rltf_updates_total` in Prometheus (`Series.exported`). Every series has the tag `run`,
the name of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram, Metric

from rltf.controller.events import Evaluated, Event, Graded, Polled, Refreshed, Step
from rltf.learner.metrics import StepMetrics
from rltf.settings import Settings

RUN_TAG = "run"
LOSS_TERMS = ("sl", "coarse", "fine", "adaptive", "static", "structure", "custom", "kl", "value")


@dataclass(frozen=True, slots=True)
class Series:
    """One series, or one per value of its tags. `boundaries` are the upper bounds of a histogram."""

    name: str
    kind: type[Metric]
    unit: str
    help: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """Its name in Prometheus; a histogram adds `_bucket`, `_count` and `_sum` to it."""
        return f"ray_{self.name}" + ("_total" if self.kind is Counter else "")

    @property
    def description(self) -> str:
        """Help text and unit as the metrics endpoint shows them."""
        return f"{self.help} Unit: {self.unit}."


# The learner.
UPDATES = Series("rltf_updates", Counter, "updates", "Updates of the policy.")
STEP = Series("rltf_step", Gauge, "updates", "Current update of the run, counted from its first start.")
NUM_STEPS = Series("rltf_num_steps", Gauge, "updates", "Number of updates the run will make.")
WEIGHTS_VERSION = Series("rltf_weights_version", Gauge, "versions", "Version of the newest published weights.")
TRAINED_TOKENS = Series(
    "rltf_trained_tokens", Counter, "tokens", "Completion tokens trained on, including reference programs."
)
TRAINED_SAMPLES = Series("rltf_trained_samples", Counter, "samples", "Sampled programs trained on.")
STEP_SECONDS = Series(
    "rltf_step_seconds", Counter, "seconds",
    "Learner time spent waiting for samples, computing updates or publishing weights.", ("part",),
)  # fmt: skip
STALENESS = Series(
    "rltf_staleness_versions", Histogram, "versions", "Weight versions by which trained samples lagged.", (),
    (0.5, 1.5, 2.5, 3.5, 4.5, 6.5, 8.5, 16.5, 32.5),
)  # fmt: skip
DROPPED_SAMPLES = Series(
    "rltf_dropped_samples", Counter, "samples", "Graded samples dropped before they were trained on.", ("reason",)
)
REWARD_MEAN = Series("rltf_reward_mean", Gauge, "reward", "Mean coarse reward in the last update.")
PASS_RATE = Series("rltf_pass_rate", Gauge, "share", "Share of the samples in the last update that passed.")
PASS_RATE_FIRST = Series(
    "rltf_pass_rate_first", Gauge, "share",
    "Share of the samples in the last update whose first program passed, if samples can have several turns.",
)  # fmt: skip
TURNS_MEAN = Series(
    "rltf_turns_mean", Gauge, "turns",
    "Mean number of turns of the samples in the last update, if samples can have several turns.",
)  # fmt: skip
LOSS = Series("rltf_loss", Gauge, "loss", "Loss terms of the last update, before weighting.", ("term",))
GRAD_NORM = Series("rltf_grad_norm", Gauge, "norm", "Gradient norm of the last update, before clipping.")
ENTROPY = Series("rltf_entropy_nats", Gauge, "nats", "Policy entropy over the sampled tokens of the last update.")
MISMATCH = Series(
    "rltf_sampler_mismatch", Gauge, "nats",
    "Mean absolute difference between sampler and learner log-probabilities.",
)  # fmt: skip
PASS_AT_K = Series("rltf_held_out_pass", Gauge, "share", "pass@k on a set of held-out problems.", ("set", "k"))

# Generators and sandboxes.
SAMPLED_TOKENS = Series("rltf_sampled_tokens", Counter, "tokens", "Tokens sampled.", ("generator",))
GENERATOR_SECONDS = Series(
    "rltf_generator_seconds", Counter, "seconds",
    "Generator time: engine steps (sampling), loading weights (updating), and total time including idle (all).",
    ("generator", "part"),
)  # fmt: skip
GRADED_PROGRAMS = Series(
    "rltf_graded_programs", Counter, "programs",
    "Graded programs that were sampled for training; infrastructure_error: the grader itself failed.", ("outcome",),
)  # fmt: skip
TESTS = Series("rltf_tests", Counter, "tests", "Unit tests run on these programs.")
ISOLATED_PROGRAMS = Series(
    "rltf_isolated_programs", Counter, "programs", "The same programs, by the isolation they ran under.",
    ("isolation",),
)  # fmt: skip
SANDBOX_WORKERS = Series("rltf_sandbox_workers", Gauge, "workers", "Sandbox workers, ready or starting.", ("state",))
REPLACED_ACTORS = Series("rltf_replaced_actors", Counter, "actors", "Actors that died and were replaced.", ("kind",))

# Queues and transfers between them.
QUEUED_SAMPLES = Series(
    "rltf_queued_samples", Gauge, "samples",
    "Samples at each stage: with generators, with sandboxes, buffered, taken.", ("stage",),
)  # fmt: skip
BUFFER_FILL = Series("rltf_buffer_fill", Gauge, "share", "Share of buffer.capacity in use.")
BUFFER_BYTES = Series("rltf_buffer_bytes", Gauge, "bytes", "Size of the buffered samples.")
WEIGHT_SYNC_SECONDS = Series(
    "rltf_weight_sync_seconds", Histogram, "seconds",
    "Time from publishing weights until every generator samples with them.", (),
    (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
)  # fmt: skip
GPU_MEMORY_BYTES = Series(
    "rltf_gpu_memory_bytes", Gauge, "bytes", "GPU memory held by an actor's tensors; 0 without a GPU.", ("actor",)
)

SERIES: tuple[Series, ...] = tuple(value for value in list(vars().values()) if isinstance(value, Series))


class Telemetry:
    """Sets the series of one run."""

    def __init__(self, settings: Settings) -> None:
        self._capacity = settings.buffer.capacity
        self._num_steps = settings.run.num_steps
        self._metrics = {one.name: _metric(one, settings.run.name) for one in SERIES}
        self._seen: dict[tuple[str, ...], float] = {}

    def emit(self, event: Event) -> None:
        """Update the series that the event is about."""
        match event:
            case Step(metrics):
                self._step(metrics)
            case Refreshed(seconds=seconds):
                self._metrics[WEIGHT_SYNC_SECONDS.name].observe(seconds)
                self._count(STEP_SECONDS, seconds, "publishing")
            case Graded(rollout):
                for outcome, num_programs in rollout.outcomes.items():
                    self._count(GRADED_PROGRAMS, num_programs, outcome.value)
                self._count(ISOLATED_PROGRAMS, rollout.outcomes.total(), rollout.isolation.value)
                self._count(TESTS, rollout.num_tests)
            case Evaluated(result=result):
                for k, groups in result.pass_at.items():
                    for group in result.shown:
                        self._set(PASS_AT_K, groups[group], group, str(k))
            case Polled():
                self._polled(event)

    def _step(self, metrics: StepMetrics) -> None:
        update = metrics.update
        self._count(UPDATES, 1)
        self._count(TRAINED_TOKENS, update.num_tokens)
        self._count(TRAINED_SAMPLES, update.num_samples)
        self._count(STEP_SECONDS, metrics.wait_s, "waiting")
        self._count(STEP_SECONDS, metrics.seconds - metrics.wait_s, "computing")
        for versions, num_samples in metrics.staleness.items():
            for _ in range(num_samples):
                self._metrics[STALENESS.name].observe(int(versions))
        for reason, dropped in metrics.dropped.items():
            self._count_up_to(DROPPED_SAMPLES, dropped, reason)
        for term in LOSS_TERMS:
            self._set(LOSS, getattr(update, f"loss_{term}"), term)
        self._set(STEP, metrics.step)
        self._set(NUM_STEPS, self._num_steps)
        self._set(WEIGHTS_VERSION, metrics.weights_version)
        self._set(REWARD_MEAN, metrics.reward_mean)
        self._set(PASS_RATE, metrics.pass_rate)
        for one, value in ((PASS_RATE_FIRST, metrics.pass_rate_first), (TURNS_MEAN, metrics.turns_mean)):
            if value is not None:
                self._set(one, value)
        self._set(GRAD_NORM, update.grad_norm)
        self._set(ENTROPY, update.entropy)
        self._set(MISMATCH, update.mismatch_mean)
        self._set(GPU_MEMORY_BYTES, metrics.gpu_memory_bytes, "learner")

    def _polled(self, polled: Polled) -> None:
        pool, buffer = polled.pool, polled.buffer
        self._set(QUEUED_SAMPLES, polled.num_outstanding, "generators")
        self._count_up_to(REPLACED_ACTORS, polled.num_replaced_generators, "generator")
        self._set(SANDBOX_WORKERS, pool.num_ready, "ready")
        self._set(SANDBOX_WORKERS, pool.num_workers - pool.num_ready, "starting")
        self._set(QUEUED_SAMPLES, pool.backlog, "sandboxes")
        self._count_up_to(REPLACED_ACTORS, pool.num_deaths, "sandbox")
        for stats in polled.generators:
            self._count_up_to(SAMPLED_TOKENS, stats.num_tokens, stats.name)
            self._count_up_to(GENERATOR_SECONDS, stats.busy_s, stats.name, "sampling")
            self._count_up_to(GENERATOR_SECONDS, stats.updating_s, stats.name, "updating")
            self._count_up_to(GENERATOR_SECONDS, stats.wall_s, stats.name, "all")
            self._set(GPU_MEMORY_BYTES, stats.gpu_memory_bytes, stats.name)
        if buffer is not None:
            self._set(QUEUED_SAMPLES, buffer.num_samples, "buffered")
            self._set(QUEUED_SAMPLES, buffer.num_lent, "taken")
            self._set(BUFFER_FILL, buffer.num_samples / self._capacity)
            self._set(BUFFER_BYTES, buffer.size_bytes)

    def _set(self, one: Series, value: float, *tags: str) -> None:
        self._metrics[one.name].set(float(value), dict(zip(one.tags, tags, strict=True)))

    def _count(self, one: Series, more: float, *tags: str) -> None:
        if more > 0:  # Ray refuses to count nothing
            self._metrics[one.name].inc(float(more), dict(zip(one.tags, tags, strict=True)))

    def _count_up_to(self, one: Series, total: float, *tags: str) -> None:
        """Count what `total` grew by since the last call. A total that shrank belongs to a replaced actor."""
        key = (one.name, *tags)
        before = self._seen.get(key, 0.0)
        self._seen[key] = total
        self._count(one, total - before if total >= before else total, *tags)


def _metric(one: Series, run: str) -> Any:
    bounds = {"boundaries": list(one.boundaries)} if one.boundaries else {}
    metric: Any = one.kind(one.name, one.description, tag_keys=(RUN_TAG, *one.tags), **bounds)
    metric.set_default_tags({RUN_TAG: run})
    return metric

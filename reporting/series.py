"""Every series that a run exports through Ray: name, kind, unit, help text, tags. Nothing else names one.

Ray puts `ray_` before each name and `_total` behind a counter's, so that `rltf_updates` is `ray_rltf_updates_total` in
Prometheus (`Series.exported`). Every series carries the tag `run`, the name of the run, besides its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

RUN_TAG = "run"


class Kind(StrEnum):
    """How a series behaves, in Prometheus' terms."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Series:
    """One series, or one for every value of its tags. `boundaries` are a histogram's upper bounds."""

    name: str
    kind: Kind
    unit: str
    help: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """The name under which Prometheus finds it; a histogram's has `_bucket`, `_count` and `_sum` behind it."""
        return f"ray_{self.name}" + ("_total" if self.kind is Kind.COUNTER else "")

    @property
    def description(self) -> str:
        """Help text and unit, as the metrics endpoint shows them."""
        return f"{self.help} Unit: {self.unit}."


_COUNTER, _GAUGE, _HISTOGRAM = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

# What the learner does.
UPDATES = Series("rltf_updates", _COUNTER, "updates", "Updates of the policy.")
STEP = Series("rltf_step", _GAUGE, "updates", "The update that the run is at, resumed ones counted.")
NUM_STEPS = Series("rltf_num_steps", _GAUGE, "updates", "The update at which the run ends.")
WEIGHTS_VERSION = Series("rltf_weights_version", _GAUGE, "versions", "Version of the weights last published.")
TRAINED_TOKENS = Series(
    "rltf_trained_tokens", _COUNTER, "tokens", "Completion tokens trained on, reference programs included."
)
TRAINED_SAMPLES = Series("rltf_trained_samples", _COUNTER, "samples", "Sampled programs trained on.")
STEP_SECONDS = Series(
    "rltf_step_seconds", _COUNTER, "seconds",
    "Time of the learner: waiting for samples, computing updates, publishing weights.", ("part",),
)  # fmt: skip
STALENESS = Series(
    "rltf_staleness_versions", _HISTOGRAM, "versions", "Weight versions that trained samples lagged behind.", (),
    (0.5, 1.5, 2.5, 3.5, 4.5, 6.5, 8.5, 16.5, 32.5),
)  # fmt: skip
DROPPED_SAMPLES = Series(
    "rltf_dropped_samples", _COUNTER, "samples", "Graded samples that the buffer dropped untrained.", ("reason",)
)
REWARD_MEAN = Series("rltf_reward_mean", _GAUGE, "reward", "Mean coarse reward of the samples of the last update.")
PASS_RATE = Series("rltf_pass_rate", _GAUGE, "share", "Share of the samples of the last update that passed.")
LOSS = Series("rltf_loss", _GAUGE, "loss", "Loss terms of the last update, before their weights.", ("term",))
GRAD_NORM = Series("rltf_grad_norm", _GAUGE, "norm", "Norm of the last update's gradient, before clipping.")
ENTROPY = Series("rltf_entropy_nats", _GAUGE, "nats", "Entropy of the policy over the sampled tokens of the update.")
MISMATCH = Series(
    "rltf_sampler_mismatch", _GAUGE, "nats",
    "Mean absolute difference between the sampler's and the learner's log-probabilities.",
)  # fmt: skip
PASS_AT_K = Series("rltf_held_out_pass", _GAUGE, "share", "pass@k on the held-out problems.", ("k",))

# What generators and sandboxes do.
SAMPLED_TOKENS = Series("rltf_sampled_tokens", _COUNTER, "tokens", "Tokens sampled.", ("generator",))
GENERATOR_SECONDS = Series(
    "rltf_generator_seconds", _COUNTER, "seconds",
    "Time of a generator: engine steps (sampling), loading weights (updating), and all of it, idle time too (all).",
    ("generator", "part"),
)  # fmt: skip
GRADED_PROGRAMS = Series(
    "rltf_graded_programs", _COUNTER, "programs",
    "Programs sampled for training that were graded; infrastructure_error is the grader's own fault.", ("outcome",),
)  # fmt: skip
TESTS = Series("rltf_tests", _COUNTER, "tests", "Unit tests that these programs were held against.")
ISOLATED_PROGRAMS = Series(
    "rltf_isolated_programs",
    _COUNTER,
    "programs",
    "The same programs, by the isolation they ran under.",
    ("isolation",),
)
SANDBOX_WORKERS = Series("rltf_sandbox_workers", _GAUGE, "workers", "Sandbox workers, ready or starting.", ("state",))
REPLACED_ACTORS = Series("rltf_replaced_actors", _COUNTER, "actors", "Actors that died and were replaced.", ("kind",))

# What stands between them.
QUEUED_SAMPLES = Series(
    "rltf_queued_samples", _GAUGE, "samples", "Samples at a stage: with generators, with sandboxes, buffered, taken.",
    ("stage",),
)  # fmt: skip
BUFFER_FILL = Series("rltf_buffer_fill", _GAUGE, "share", "Share of buffer.capacity that is in use.")
BUFFER_BYTES = Series("rltf_buffer_bytes", _GAUGE, "bytes", "Size of the buffered samples.")
WEIGHT_SYNC_SECONDS = Series(
    "rltf_weight_sync_seconds", _HISTOGRAM, "seconds",
    "From the learner's publication of weights until every generator samples with them.", (),
    (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
)  # fmt: skip
GPU_MEMORY_BYTES = Series(
    "rltf_gpu_memory_bytes", _GAUGE, "bytes", "GPU memory that an actor's tensors hold; 0 without a GPU.", ("actor",)
)

SERIES: tuple[Series, ...] = tuple(value for value in list(vars().values()) if isinstance(value, Series))

"""The run's series in Prometheus and in the Ray dashboard, set by the driver alone.

Parts of the ring count for themselves; what the driver hears of anyway is set as it comes, and the rest is asked for
every few seconds. So no actor spends time on metrics, and a run's gauges end with its driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge, Histogram

from actors.messages import GeneratorStats
from controller.generators import GeneratorPool
from controller.grading import GradedRollout
from evaluation import EvaluationResult
from learner.buffer import BufferStats
from learner.metrics import StepMetrics
from reporting import series
from reporting.series import RUN_TAG, SERIES, Kind, Series
from sandbox.pool import PoolStats, SandboxPool
from settings import BufferSettings
from supervise import StallError, answer

logger = logging.getLogger(__name__)

WATCH_EVERY_S = 5.0
ANSWER_S = 30.0
LOSS_TERMS = ("sl", "coarse", "fine", "adaptive", "static", "kl")


class Telemetry:
    """Sets the series of one run.

    Usage:
        telemetry = Telemetry("starter", settings.buffer)
        async with telemetry.watching(generators, pool, buffer):    # what is asked for
            telemetry.step(metrics)                                 # what is told
    """

    def __init__(self, run: str, buffer: BufferSettings) -> None:
        self._capacity = buffer.capacity
        self._metrics = {one.name: _metric(one, run) for one in SERIES}
        self._seen: dict[tuple[str, ...], float] = {}

    def step(self, metrics: StepMetrics, num_steps: int) -> None:
        """After an update, of the `num_steps` of the run."""
        update = metrics.update
        self._count(series.UPDATES, 1)
        self._count(series.TRAINED_TOKENS, update.num_tokens)
        self._count(series.TRAINED_SAMPLES, update.num_samples)
        self._count(series.STEP_SECONDS, metrics.wait_s, "waiting")
        self._count(series.STEP_SECONDS, metrics.seconds - metrics.wait_s, "computing")
        for versions, num_samples in metrics.staleness.items():
            for _ in range(num_samples):
                self._metrics[series.STALENESS.name].observe(int(versions))
        for reason, dropped in metrics.dropped.items():
            self._count_up_to(series.DROPPED_SAMPLES, dropped, reason)
        self._set(series.STEP, metrics.step)
        self._set(series.NUM_STEPS, num_steps)
        self._set(series.WEIGHTS_VERSION, metrics.weights_version)
        self._set(series.REWARD_MEAN, metrics.reward_mean)
        self._set(series.PASS_RATE, metrics.pass_rate)
        self._set(series.GRAD_NORM, update.grad_norm)
        self._set(series.ENTROPY, update.entropy)
        self._set(series.MISMATCH, update.mismatch_mean)
        self._set(series.GPU_MEMORY_BYTES, metrics.gpu_memory_bytes, "learner")
        for term in LOSS_TERMS:
            self._set(series.LOSS, getattr(update, f"loss_{term}"), term)

    def publication(self, seconds: float) -> None:
        """After the generators took new weights; `seconds` from when the learner was asked for them."""
        self._metrics[series.WEIGHT_SYNC_SECONDS.name].observe(seconds)
        self._count(series.STEP_SECONDS, seconds, "publishing")

    def graded(self, rollout: GradedRollout) -> None:
        """After a rollout's programs were graded."""
        for outcome, num_programs in rollout.outcomes.items():
            self._count(series.GRADED_PROGRAMS, num_programs, outcome.value)
        self._count(series.ISOLATED_PROGRAMS, rollout.outcomes.total(), rollout.isolation.value)
        self._count(series.TESTS, rollout.num_tests)

    def evaluation(self, result: EvaluationResult) -> None:
        """After an evaluation on the held-out problems."""
        for k, groups in result.pass_at.items():
            self._set(series.PASS_AT_K, groups["all"], str(k))

    @contextlib.asynccontextmanager
    async def watching(self, generators: GeneratorPool, pool: SandboxPool, buffer: Any) -> AsyncIterator[None]:
        """Ask the parts every WATCH_EVERY_S seconds how they are, as long as the context lasts."""
        watch = asyncio.create_task(self._watch(generators, pool, buffer), name="telemetry")
        try:
            yield
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def _watch(self, generators: GeneratorPool, pool: SandboxPool, buffer: Any) -> None:
        while True:
            self.sandboxes(pool.stats())
            self.queues(generators.num_outstanding, generators.num_replaced)
            self.generators(await generators.stats())
            try:
                self.buffer(await answer(buffer.stats.remote(), ANSWER_S, "the buffer's counts"))
            except (RayError, StallError) as error:  # it may be being replaced; the next round asks again
                logger.warning("no counts of the buffer: %s", error)
            await asyncio.sleep(WATCH_EVERY_S)

    def queues(self, num_outstanding: int, num_replaced: int) -> None:
        """What the generators were asked for and have not finished, and how many of them had to be replaced."""
        self._set(series.QUEUED_SAMPLES, num_outstanding, "generators")
        self._count_up_to(series.REPLACED_ACTORS, num_replaced, "generator")

    def sandboxes(self, stats: PoolStats) -> None:
        """What the sandbox pool says of itself."""
        self._set(series.SANDBOX_WORKERS, stats.num_ready, "ready")
        self._set(series.SANDBOX_WORKERS, stats.num_workers - stats.num_ready, "starting")
        self._set(series.QUEUED_SAMPLES, stats.backlog, "sandboxes")
        self._count_up_to(series.REPLACED_ACTORS, stats.num_deaths, "sandbox")

    def generators(self, all_stats: Iterable[GeneratorStats]) -> None:
        """What the generators say of themselves."""
        for stats in all_stats:
            self._count_up_to(series.SAMPLED_TOKENS, stats.num_tokens, stats.name)
            self._count_up_to(series.GENERATOR_SECONDS, stats.busy_s, stats.name, "sampling")
            self._count_up_to(series.GENERATOR_SECONDS, stats.updating_s, stats.name, "updating")
            self._count_up_to(series.GENERATOR_SECONDS, stats.wall_s, stats.name, "all")
            self._set(series.GPU_MEMORY_BYTES, stats.gpu_memory_bytes, stats.name)

    def buffer(self, stats: BufferStats) -> None:
        """What the buffer says of itself."""
        self._set(series.QUEUED_SAMPLES, stats.num_samples, "buffered")
        self._set(series.QUEUED_SAMPLES, stats.num_lent, "taken")
        self._set(series.BUFFER_FILL, stats.num_samples / self._capacity)
        self._set(series.BUFFER_BYTES, stats.size_bytes)

    def _set(self, one: Series, value: float, *tags: str) -> None:
        self._metrics[one.name].set(float(value), _tags(one, tags))

    def _count(self, one: Series, more: float, *tags: str) -> None:
        if more > 0:  # Ray refuses to count nothing
            self._metrics[one.name].inc(float(more), _tags(one, tags))

    def _count_up_to(self, one: Series, total: float, *tags: str) -> None:
        """Count what `total` has grown by since the last call; it starts from 0 again where its actor was replaced."""
        key = (one.name, *tags)
        before = self._seen.get(key, 0.0)
        self._seen[key] = total
        self._count(one, total - before if total >= before else total, *tags)


def _metric(one: Series, run: str) -> Any:
    tag_keys = (RUN_TAG, *one.tags)
    metric: Counter | Gauge | Histogram
    match one.kind:
        case Kind.COUNTER:
            metric = Counter(one.name, one.description, tag_keys)
        case Kind.GAUGE:
            metric = Gauge(one.name, one.description, tag_keys)
        case Kind.HISTOGRAM:
            metric = Histogram(one.name, one.description, list(one.boundaries), tag_keys)
    metric.set_default_tags({RUN_TAG: run})
    return metric


def _tags(one: Series, values: tuple[str, ...]) -> Mapping[str, str]:
    return dict(zip(one.tags, values, strict=True))

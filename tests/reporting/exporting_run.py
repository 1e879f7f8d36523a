"""A run that sets every series, in its own Ray: tests scrape it.

python -m tests.reporting.exporting_run PORT FILE

It serves the series on PORT, writes the endpoint's text into FILE once all are there, and counts until its input ends.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import ray

from rltf.actors.messages import GeneratorStats
from rltf.controller.events import Evaluated, Graded, Polled, Refreshed, Step
from rltf.controller.grading import GradedRollout
from rltf.controller.ledger import DropReason, LedgerCounts
from rltf.controller.ray_session import PATIENCE
from rltf.controller.rollouts import GradingCounts
from rltf.evaluation import EvaluationResult
from rltf.learner.buffer import BufferStats
from rltf.learner.metrics import StepMetrics, UpdateStats
from rltf.reporting.telemetry import LOSS_TERMS, SERIES, Telemetry
from rltf.sandbox.pool import PoolStats
from rltf.sandbox.verdict import Isolation, Outcome
from rltf.settings import Settings

DEADLINE_S = 60.0


def step_metrics(step: int) -> StepMetrics:
    """The metrics of an update with 16 samples."""
    terms = dict.fromkeys((f"loss_{term}" for term in LOSS_TERMS), 0.1)
    rest = dict.fromkeys(
        ("loss", "grad_norm", "ratio_mean", "ratio_max", "mismatch_mean", "mismatch_max", "clip_fraction"), 1.0
    )
    update = UpdateStats(
        **terms, **rest, learning_rate=1e-5, entropy=0.5, num_samples=16, num_idle_samples=0, num_tokens=4000
    )
    return StepMetrics(
        step=step,
        weights_version=step,
        update=update,
        reward_mean=0.1,
        custom_reward_mean=0.0,
        pass_rate=0.4,
        outcomes={"passed": 6, "failed": 10},
        staleness={"0": 12, "1": 3, "40": 1},
        staleness_mean=0.3,
        staleness_max=40,
        tokens_per_s=1000.0,
        buffer_size=128,
        dropped={reason.value: step for reason in DropReason},
        wait_s=1.0,
        seconds=4.0,
        gpu_memory_bytes=1 << 30,
        turns_mean=1.5,
        pass_rate_first=0.2,
    )


def graded_rollout() -> GradedRollout:
    """A rollout with one program of every outcome."""
    outcomes = Counter(dict.fromkeys(Outcome, 1))
    return GradedRollout(
        "r1",
        "mbpp/1",
        len(outcomes) - 1,
        1,
        1,
        "",
        30,
        900,
        2.5,
        outcomes,
        Isolation.NAMESPACES,
        None,
        greedy=None,
        shown=(),
    )


def generator_stats(name: str, num_tokens: int) -> GeneratorStats:
    """The counts of a generator that has sampled `num_tokens`."""
    return GeneratorStats(
        name=name, version=1, num_in_flight=2, num_sequences=8, num_tokens=num_tokens, num_updates=1,
        busy_s=num_tokens / 100, updating_s=0.1 * num_tokens, wall_s=num_tokens / 50, gpu_memory_bytes=1 << 30,
    )  # fmt: skip


def polled(generator_tokens: int, num_deaths: int) -> Polled:
    """What the actors say when the generator has sampled so many tokens."""
    return Polled(
        generators=(generator_stats("generator-0", generator_tokens),),
        num_outstanding=32,
        num_replaced_generators=num_deaths,
        pool=PoolStats(num_workers=3, num_ready=2, backlog=64, num_done=9, num_repeated=0, num_deaths=num_deaths),
        buffer=BufferStats(8, 128, 1 << 20, 16),
    )


def set_all(telemetry: Telemetry, step: int, generator_tokens: int) -> None:
    """Set every series as a run does after `step` updates."""
    result = EvaluationResult({1: {"all": 0.5}, 5: {"all": 0.7}}, {}, {1: 0, 5: 0}, 10, 50, {Outcome.PASSED: 25})
    telemetry.emit(Step(step_metrics(step), GradingCounts(), LedgerCounts(0, 0, {}, {})))
    telemetry.emit(Graded(graded_rollout()))
    telemetry.emit(Refreshed(step, (), 0.2))
    telemetry.emit(Evaluated(step, result, {}))
    telemetry.emit(polled(generator_tokens, step))


def main() -> None:
    """Start Ray, set every series and serve them."""
    os.environ.update({name: str(value) for name, value in PATIENCE.items()})  # other tests use the cores too
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=100 * 1024 * 1024,
        log_to_driver=False,
        _metrics_export_port=int(sys.argv[1]),
        _system_config={"metrics_report_interval_ms": 1000},
    )
    telemetry = Telemetry(Settings(run={"name": "test-run"}))
    set_all(telemetry, 1, 1000)
    for num_tokens in (1500, 200):
        telemetry.emit(polled(num_tokens, 1))
    Path(sys.argv[2]).write_text(endpoint_text())
    print("ready", flush=True)
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    step = 1
    while not ended.wait(1.0):
        step += 1
        set_all(telemetry, step, 200 + 100 * step)


def endpoint_text() -> str:
    """The text of Ray's metrics endpoint, once every series is on it."""
    node = ray.nodes()[0]  # type: ignore[no-untyped-call]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + DEADLINE_S
    while True:
        with urllib.request.urlopen(url, timeout=10) as reply:
            text: str = reply.read().decode()
        missing = [one.exported for one in SERIES if one.exported not in text]
        if not missing:
            return text
        if time.monotonic() > deadline:
            raise TimeoutError(f"not on the metrics endpoint after {DEADLINE_S:g} s: {missing}")
        time.sleep(0.3)


if __name__ == "__main__":
    main()

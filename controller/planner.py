"""Predicting a run: what will idle, how stale samples get, and how many generators and sandbox workers it needs.

This is a fluid model. Snapshot n can be sampled from publication n - max_off_policy_versions on
(`controller.problems.capacity`). Its samples flow at the rate of the slower of generators and sandbox workers. The
learner trains on it once it is complete and the one before is done, and then publishes. Rates are constant, and all
programs are equally long, so a real run comes close to the prediction but not better.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace

from rltf.errors import UserError
from rltf.settings import Settings

NUM_ROUNDS = 200
WARM_UP = 20
# A setup is balanced if more generators or workers would speed it up by less than this share.
BALANCED = 0.02
MAX_ACTORS = 4096
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Figures:
    """What the stages can do.

    Tokens per second of one generator while it samples, tokens per program, programs per second of one sandbox worker,
    seconds per update, and seconds that the learner (`publish_s`) and each generator (`load_s`) pause for new
    weights.
    """

    tokens_per_s: float
    tokens_per_program: float
    programs_per_s: float
    update_s: float
    publish_s: float
    load_s: float


@dataclass(frozen=True, slots=True)
class Shape:
    """A setup in numbers.

    `samples_per_s` is the rate of one generator, `programs_per_s` that of one sandbox worker. The learner trains on
    `snapshot` samples between two publications, in `train_s`; then it pauses for `publish_s`, and each generator
    for `load_s`. A rollout takes `latency_s` from its request to the buffer.
    """

    num_generators: int
    num_workers: int
    samples_per_s: float
    programs_per_s: float
    snapshot: int
    train_s: float
    publish_s: float
    load_s: float
    latency_s: float
    max_off_policy_versions: int

    @classmethod
    def of(cls, settings: Settings, figures: Figures) -> Shape:
        """The setup in `settings`, with as many sandbox workers as the pool may grow to."""
        buffer, generator = settings.buffer, settings.generator
        snapshot = settings.learner.batch_size * buffer.refresh_every
        samples_per_s = figures.tokens_per_s / figures.tokens_per_program
        num_at_a_time = min(generator.max_num_seqs, snapshot / generator.num_generators)
        return cls(
            num_generators=generator.num_generators,
            num_workers=settings.sandbox.max_workers,
            samples_per_s=samples_per_s,
            programs_per_s=figures.programs_per_s,
            snapshot=snapshot,
            train_s=figures.update_s * buffer.refresh_every,
            publish_s=figures.publish_s,
            load_s=figures.load_s,
            latency_s=num_at_a_time / samples_per_s + generator.num_generations / figures.programs_per_s,
            max_off_policy_versions=buffer.max_off_policy_versions,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """A prediction: seconds per snapshot, idle shares of the time, and mean staleness in weight versions."""

    round_s: float
    serial_s: float
    generator_idle: float
    sandbox_idle: float
    learner_idle: float
    staleness_mean: float

    @property
    def bottleneck(self) -> str:
        """The stage that idles least."""
        idle = {"generators": self.generator_idle, "sandboxes": self.sandbox_idle, "learner": self.learner_idle}
        return min(idle, key=lambda stage: idle[stage])


@dataclass(frozen=True, slots=True)
class Forecast:
    """Predictions for several setups with the same `figures`, by name."""

    figures: Figures
    setups: dict[str, tuple[Shape, Plan]]


def forecast(settings: Settings, figures: Figures, num_cpus: float, num_gpus: float, observed: Plan | None) -> Forecast:
    """Compare the setup in `settings` with the best one for so many CPUs and GPUs, and with a balanced one.

    `observed` is what a short run measured. Raises UserError if there are too few resources for any setup.
    """
    configured = Shape.of(settings, figures)
    fitting, best = balanced(configured, room_beside(settings, num_cpus, num_gpus)), balanced(configured)
    setups = {} if observed is None else {"the short run": (configured, observed)}
    setups["as configured"] = configured, predict(configured)
    setups[f"best on {num_cpus:g} CPUs, {num_gpus:g} GPUs"] = fitting, predict(fitting)
    setups["balanced"] = best, predict(best)
    return Forecast(figures, setups)


def predict(shape: Shape) -> Plan:
    """Simulate `NUM_ROUNDS` snapshots, and measure those after the first few."""
    generating_s = shape.snapshot / (shape.num_generators * shape.samples_per_s) + shape.load_s
    grading_s = shape.snapshot / (shape.num_workers * shape.programs_per_s)
    flow_s = max(generating_s, grading_s)
    published, filled = [0.0], [0.0]
    staleness: list[float] = []
    for n in range(NUM_ROUNDS):
        admitted = published[max(0, n - shape.max_off_policy_versions)]
        # Samples that flow already arrive one after the other; after a fresh start, the first one takes its latency.
        filled.append(max(filled[-1] + flow_s, admitted + max(flow_s, shape.latency_s)))
        began = max(filled[-1], published[-1])
        published.append(began + shape.train_s + shape.publish_s)
        if n >= WARM_UP:
            asked = [filled[-1] - flow_s * (1 - i / 16) - shape.latency_s for i in range(17)]
            staleness.append(n - _mean_version(published[: n + 1], [max(admitted, at) for at in asked]))
    round_s = (published[-1] - published[WARM_UP]) / (NUM_ROUNDS - WARM_UP)
    return Plan(
        round_s=round_s,
        serial_s=flow_s + shape.train_s + shape.publish_s,
        generator_idle=max(0.0, 1 - generating_s / round_s),
        sandbox_idle=max(0.0, 1 - grading_s / round_s),
        learner_idle=max(0.0, 1 - (shape.train_s + shape.publish_s) / round_s),
        staleness_mean=max(0.0, sum(staleness) / len(staleness)),
    )


def balanced(shape: Shape, max_workers: Callable[[int], int] = lambda num_generators: MAX_ACTORS) -> Shape:
    """`shape` with the fewest generators, and then the fewest workers, that are about as fast as any number.

    `max_workers(n)` is how many sandbox workers fit beside n generators, 0 if those do not fit either. Raises UserError
    if there is no room for one of each.
    """
    many = replace(shape, num_workers=MAX_ACTORS)
    endless = replace(many, num_generators=MAX_ACTORS)
    useful = _fewest(lambda n: _is_near(replace(many, num_generators=n), endless))
    rings = [
        replace(shape, num_generators=n, num_workers=min(max_workers(n), MAX_ACTORS))
        for n in range(1, useful + 1)
        if max_workers(n) >= 1
    ]
    if not rings:
        raise UserError("the cluster has no room for a learner, a generator and a sandbox worker")
    fastest = min(rings, key=lambda ring: predict(ring).round_s)
    enough = next(ring for ring in rings if _is_near(ring, fastest))
    return replace(enough, num_workers=_fewest(lambda n: _is_near(replace(enough, num_workers=n), fastest)))


def room_beside(settings: Settings, num_cpus: float, num_gpus: float) -> Callable[[int], int]:
    """How many sandbox workers fit into a cluster beside the learner and n generators; 0 if those do not fit."""
    generator, learner, sandbox = settings.generator, settings.learner, settings.sandbox

    def max_workers(num_generators: int) -> int:
        cpus = num_cpus - learner.num_cpus - num_generators * generator.num_cpus + _ROUNDING
        gpus = num_gpus - learner.num_gpus - num_generators * generator.num_gpus + _ROUNDING
        if min(cpus, gpus) < 0:
            return 0
        return int(cpus / sandbox.num_cpus) if sandbox.num_cpus else MAX_ACTORS

    return max_workers


def _is_near(shape: Shape, fastest: Shape) -> bool:
    return predict(shape).round_s <= predict(fastest).round_s * (1 + BALANCED)


def _fewest(suffices: Callable[[int], bool]) -> int:
    """The smallest number that `suffices`, by bisection; all larger ones do too."""
    low, high = 1, MAX_ACTORS
    while low < high:
        middle = (low + high) // 2
        if suffices(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _mean_version(published: list[float], times: list[float]) -> float:
    """The mean index of the newest publication at each of `times`."""
    return sum(max(0, bisect.bisect_right(published, at) - 1) for at in times) / len(times)

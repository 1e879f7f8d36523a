"""What a ring will do before it runs: who idles, how stale samples get, and how many generators and sandboxes it takes.

A fluid model. Snapshot n may be sampled from publication n - max_off_policy_versions on
(`controller.problem_sampler.capacity`); its samples flow
at the rate of the slower of generators and sandboxes; the learner trains on it when it is there and the one before is
done, and publishes. Rates do not vary, and long programs are not told from short ones: what it says is a bound that a
real ring comes near to.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace

from errors import UserError
from settings import Settings

NUM_ROUNDS = 200
WARM_UP = 20
# A ring is balanced where one more generator or worker would not make it this much faster.
BALANCED = 0.02
MAX_ACTORS = 4096
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Figures:
    """One generator's tokens a second while it samples, a program's tokens, one sandbox worker's programs a second,
    and seconds: of an update, and for which the learner and a generator stand still at a publication.
    """

    tokens_per_s: float
    tokens_per_program: float
    programs_per_s: float
    update_s: float
    publish_s: float
    load_s: float


@dataclass(frozen=True, slots=True)
class Shape:
    """A ring in numbers: one generator's and one sandbox worker's samples a second, and what the learner takes.

    `snapshot` samples are trained on between two publications, in `train_s`; the learner stands still for `publish_s`
    then, each generator for `load_s`. A rollout takes `latency_s` from its request to the buffer.
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
        """The ring that `settings` describe, with as many sandbox workers as its pool may grow to."""
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
    """What a ring will do, per snapshot and in shares of the time; staleness in weight versions."""

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
    """What rings of the same `figures` will do: by name, the shape of a ring and its plan."""

    figures: Figures
    rings: dict[str, tuple[Shape, Plan]]


def forecast(settings: Settings, figures: Figures, num_cpus: float, num_gpus: float, observed: Plan | None) -> Forecast:
    """Compare the ring of `settings` with the best one for so many CPUs and GPUs, and with a balanced one.

    `observed` is what a short run of that ring measured. Raises UserError if the resources are too few for any ring.
    """
    configured = Shape.of(settings, figures)
    fitting, best = balanced(configured, room_beside(settings, num_cpus, num_gpus)), balanced(configured)
    rings = {} if observed is None else {"the short run": (configured, observed)}
    rings["as configured"] = configured, predict(configured)
    rings[f"best on {num_cpus:g} CPUs, {num_gpus:g} GPUs"] = fitting, predict(fitting)
    rings["balanced"] = best, predict(best)
    return Forecast(figures, rings)


def predict(shape: Shape) -> Plan:
    """Follow the ring over `NUM_ROUNDS` snapshots, and look at those after the first few."""
    generating_s = shape.snapshot / (shape.num_generators * shape.samples_per_s) + shape.load_s
    grading_s = shape.snapshot / (shape.num_workers * shape.programs_per_s)
    flow_s = max(generating_s, grading_s)
    published, filled = [0.0], [0.0]
    staleness: list[float] = []
    for n in range(NUM_ROUNDS):
        admitted = published[max(0, n - shape.max_off_policy_versions)]
        # Of samples that flow already the last one comes with the rest; of a fresh start it takes its own time too.
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
    """`shape` with the fewest generators, and then the fewest workers, with which more would hardly make it faster.

    `max_workers(n)` sandbox workers have room beside n generators, below 1 where there is none for these either.
    Raises UserError where there is not even room for one of each.
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
    """How many sandbox workers a cluster has room for beside the learner and n generators; below 1: none of them."""
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
    """The least number for which `suffices`, which holds from there on, by bisection."""
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
